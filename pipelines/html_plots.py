"""The Pareto plot of the report: compression ratio against retained quality, every point named and none covered."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product

from pipelines.front import front
from pipelines.html_axes import (
    CHARACTER,
    LINE,
    Frame,
    axes,
    legend,
    line,
    mark,
    polyline,
    room,
    svg,
    upright,
    whisker,
    wide,
    words,
)
from pipelines.html_page import Html
from pipelines.signs import TOLD, Kind

WIDTH, HEIGHT = 1060.0, 470.0
BESIDE = 7.0  # pixels between points of the same size, so that each is seen
BROADEST = 21.0  # pixels that they take at most where others are near: nobody shall read another ratio off the axis
OWN = 0.4  # of the way to the next size that they take where the picture shows close sizes alone
CLOSE = 0.3  # of the way from the origin to the smallest: models nearer to each other are drawn without it
CROWD = 40  # points; of more only those are named that matter
SAME = 4.0  # pixels within which sizes count as the same
SAME_RATIO = 0.01
Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class Point:
    """A model in the plot; shares of the origin's quality, with the interval where there is one."""

    label: str
    bytes: int
    ratio: float
    retained: float
    low: float | None
    high: float | None
    kind: Kind
    hint: str = ""
    place: int = 0  # among the points
    x: float = 0.0  # pixels, set when it is put there
    y: float = 0.0
    top: float = 0.0  # of its interval
    bottom: float = 0.0

    @property
    def boxes(self) -> tuple[Box, ...]:
        """What a label must not cover."""
        r = 11 if self.kind == "chosen" else 8
        return (self.x - r, self.y - r, self.x + r, self.y + r), (self.x - 4, self.top, self.x + 4, self.bottom)


def pareto(points: Sequence[Point], path: bool = False) -> Html:
    """Draw models, the first being the origin: the front as a line, or (``path``) the order in which they were made.

    Where all models have one size there is nothing to trade: they stand in a row then, without an axis of ratios. Where
    they are close to each other and far from the origin, that is left out, and a line says so.
    """
    shown = points[1:] if not path and _far(points) else points
    bounds = [100 * share for one in shown for share in (one.retained, one.low, one.high) if share is not None]
    ratios = [one.ratio for one in shown]
    low, high = room(min(bounds), max(bounds), 0.09, 4.0)
    frame = Frame(62, WIDTH - 26, 34, HEIGHT - 92, room(min(ratios), max(ratios), 0.07, 0.2), (low, min(high, 104.0)))
    placed = [_put(frame, place, one) for place, one in enumerate(shown)]
    models = placed[len(shown) - len(points) + 1 :]
    if shown is points and len(models) > 1 and max(one.x for one in models) - min(one.x for one in models) < SAME:
        drawn, placed = _row(frame, placed, path)
        way = [(one.x, one.y) for one in placed] if path else []
    else:
        drawn = list(axes(frame, "compression ratio: bytes of the origin in bf16 ÷ bytes (further right is smaller)",
                          "retained quality, %", lambda v: f"{v:g}×", lambda v: f"{v:g}"))  # fmt: skip
        chosen = placed if path else front([one for one in placed if one.kind not in ("apart", "refused")])
        way = [(one.x, one.y) for one in chosen]  # where they are, not beside that
        placed = _beside(placed, OWN if shown is not points else 0.0)
    if shown is not points:
        drawn.append(
            words("the origin (1×, 100 %) lies to the left of this picture", frame.left, frame.bottom + 38, "dim")
        )
    drawn.append(polyline(way, "path" if path else "front"))
    drawn += [whisker(one.x, one.top, one.bottom) for one in placed if one.low is not None]
    drawn += [mark(one.kind, one.x, one.y, one.hint) for one in placed]
    drawn += _labels(frame, placed, way)
    kinds = {one.kind for one in shown}
    told = TOLD | ({"behind": "before the end", "chosen": "the result"} if path else {})
    drawn += legend([(kind, text) for kind, text in told.items() if kind in kinds], frame.left - 8, HEIGHT - 14)
    return wide(svg(WIDTH, HEIGHT, "compression ratio against retained quality", drawn))


def _far(points: Sequence[Point]) -> bool:
    """Whether models of several sizes lie so close to each other, seen from the origin, that it would crowd them."""
    origin, *models = points
    ratios = [one.ratio for one in models]
    span = max(ratios) - min(ratios) if ratios else 0.0
    several = len({one.bytes for one in models}) > 1 and span > SAME_RATIO
    return several and min(ratios) > origin.ratio and span < CLOSE * (max(ratios) - origin.ratio)


def _row(frame: Frame, points: Sequence[Point], path: bool) -> tuple[list[Html], list[Point]]:
    """The origin, and side by side its models, the best first (or as they were made); with the axis that is left."""
    origin, *models = points
    order = models if path else sorted(models, key=lambda one: one.y)
    step = (frame.right - frame.left) / (len(order) + 1)
    placed = [
        replace(one, x=frame.left + step * (place + 0.5)) for place, one in enumerate([origin, *order])
    ]  # fmt: skip
    edge = frame.left + step
    drawn = list(upright(frame, "retained quality, %", lambda v: f"{v:g}"))
    drawn.append(line(frame.left, frame.bottom, frame.right, frame.bottom, "axis"))
    drawn.append(line(edge, frame.top, edge, frame.bottom, "grid"))
    size = f"{models[0].ratio:.2f}×, {models[0].bytes / 1e6:.1f} MB"
    told = f"all {len(models)} at {size}" + (", in the order of their making" if path else ", the best first")
    drawn.append(words(told, (edge + frame.right) / 2, frame.bottom + 18, "mid dim"))
    drawn.append(words(f"{origin.ratio:.2f}×", frame.left + step / 2, frame.bottom + 18, "mid dim"))
    return drawn, placed


def _put(frame: Frame, place: int, one: Point) -> Point:
    x, y = frame.x(one.ratio), frame.y(100 * one.retained)
    top = frame.y(100 * one.high) if one.high is not None else y
    bottom = frame.y(100 * one.low) if one.low is not None else y
    return replace(one, place=place, x=x, y=y, top=top, bottom=bottom)


def _beside(points: Sequence[Point], own: float = 0.0) -> list[Point]:
    """Points of the same size a few pixels apart, the best at the left, so that each is seen; in their order.

    They may take ``own`` of the way to the next size. Among many nobody could tell where each belongs.
    """
    groups: list[list[Point]] = []
    for one in sorted(points, key=lambda one: one.x):
        if groups and one.x - groups[-1][0].x < SAME and len(points) <= CROWD:
            groups[-1].append(one)
        else:
            groups.append([one])
    found: list[Point] = []
    for place, group in enumerate(groups):
        near = [abs(other[0].x - group[0].x) for other in groups[max(0, place - 1) : place + 2] if other is not group]
        broadest = max(BROADEST, own * min(near, default=0.0))
        step = min(BESIDE, broadest / max(1, len(group) - 1))
        first = -step * (len(group) - 1) / 2
        ordered = sorted(group, key=lambda one: one.y)
        found += [replace(one, x=one.x + first + step * place) for place, one in enumerate(ordered)]
    return sorted(found, key=lambda one: one.place)


def _labels(frame: Frame, points: Sequence[Point], way: Sequence[tuple[float, float]]) -> Iterator[Html]:
    """Name every point where its name covers neither another name nor a point, an interval or the line."""
    taken = [box for one in points for box in one.boxes]
    lines = [box for one, other in pairwise(way) for box in _along(one, other)]
    for one in points:
        if len(points) > CROWD and one.kind in ("alike", "behind", "apart", "refused"):
            continue  # the table has them all, and their hints say who they are
        width = CHARACTER * len(one.label)
        tries = [
            (side, gap, sign)
            for gap, side, sign in product((6.0, 18.0, 32.0, 48.0, 66.0), ("middle", "right", "left"), (-1, 1))
        ]
        best: tuple[float, Box] | None = None
        for cost, (side, gap, sign) in enumerate(tries):
            box = _box(one, width, side, gap, sign)
            outside = box[0] < frame.left or box[2] > frame.right or box[1] < frame.top - 8 or box[3] > frame.bottom
            covered = sum(_overlap(box, other) for other in taken)
            crossed = any(_overlap(box, other) for other in lines)
            rated = cost + 1000 * covered + 500 * outside + 100 * crossed
            if best is None or rated < best[0]:
                best = rated, box
        assert best is not None
        box = best[1]
        taken.append(box)
        middle = (box[0] + box[2]) / 2
        if box[3] < one.top - 14 or box[1] > one.bottom + 14:
            end = box[3] if box[3] < one.top else box[1]
            yield line(
                one.x, one.top if box[3] < one.top else one.bottom, min(max(one.x, box[0]), box[2]), end, "leader"
            )
        yield words(one.label, middle, box[3] - 4, "mid strong" if one.kind == "chosen" else "mid")


def _along(one: tuple[float, float], other: tuple[float, float]) -> Iterator[Box]:
    """Small boxes on the line between two points."""
    across, down = other[0] - one[0], other[1] - one[1]
    steps = max(1, round(max(abs(across), abs(down)) / 5))
    for i in range(steps + 1):
        x, y = one[0] + across * i / steps, one[1] + down * i / steps
        yield x - 2, y - 2, x + 2, y + 2


def _box(one: Point, width: float, side: str, gap: float, sign: int) -> Box:
    if side == "middle":
        left = one.x - width / 2
        bottom = min(one.top, one.y - 8) - gap + 4 if sign < 0 else max(one.bottom, one.y + 8) + gap + LINE - 4
    else:
        left = one.x + 10 if side == "right" else one.x - 10 - width
        bottom = one.y + LINE / 2 + sign * (gap - 6)
    return left, bottom - LINE, left + width, bottom


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
