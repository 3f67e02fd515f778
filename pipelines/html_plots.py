"""The Pareto plot of the report: compression ratio against retained quality, every point named and none covered."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product

from pipelines.front import front
from pipelines.html_axes import (
    CHARACTER,
    LINE,
    Frame,
    Kind,
    axes,
    legend,
    line,
    mark,
    polyline,
    room,
    svg,
    whisker,
    wide,
    words,
)
from pipelines.html_page import Html

WIDTH, HEIGHT = 1060.0, 470.0
BESIDE = 19.0  # pixels between points of the same size, which stand side by side
BROADEST = 520.0  # pixels that they take at most
CROWD = 40  # points; of more only those are named that matter
SAME = 4.0  # pixels within which sizes count as the same
TOLD: dict[Kind, str] = {
    "origin": "origin",
    "chosen": "to ship",
    "on-front": "on the front: none is smaller and better",
    "alike": "not distinguishable from the best",
    "behind": "another is as small and better",
    "refused": "a gate was not kept",
}

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
    """Draw models, the first being the origin: the front as a line, or (``path``) the order in which they were made."""
    bounds = [100 * share for one in points for share in (one.retained, one.low, one.high) if share is not None]
    ratios = [one.ratio for one in points]
    low, high = room(min(bounds), max(bounds), 0.09, 4.0)
    xs = room(min(ratios), max(ratios), 0.07, 0.2)
    for _ in range(3):  # until what stands side by side has room at its right
        frame = Frame(62, WIDTH - 26, 34, HEIGHT - 92, xs, (low, min(high, 104.0)))
        groups = _groups([_put(frame, place, one) for place, one in enumerate(points)])
        over = max(_middle(group) + _half(group) + 14 - frame.right for group in groups)
        xs = (xs[0], xs[1] + max(0.0, over) * (xs[1] - xs[0]) / (frame.right - frame.left - max(0.0, over)))
    placed = _beside(frame, groups)
    drawn = list(axes(frame, "compression ratio: bytes of the origin ÷ bytes (further right is smaller)",
                      "retained quality, %", lambda v: f"{v:g}×", lambda v: f"{v:g}"))  # fmt: skip
    way = placed if path else front([one for one in placed if one.kind != "refused"])
    drawn.append(polyline([(one.x, one.y) for one in way], "path" if path else "front"))
    drawn += _brackets(frame, groups)
    drawn += [whisker(one.x, one.top, one.bottom) for one in placed if one.low is not None]
    drawn += [mark(one.kind, one.x, one.y, one.hint) for one in placed]
    drawn += _labels(frame, placed, way)
    kinds = {one.kind for one in points}
    told = TOLD | ({"behind": "before the end", "chosen": "the result"} if path else {})
    drawn += legend([(kind, text) for kind, text in told.items() if kind in kinds], frame.left - 8, HEIGHT - 14)
    return wide(svg(WIDTH, HEIGHT, "compression ratio against retained quality", drawn))


def _put(frame: Frame, place: int, one: Point) -> Point:
    x, y = frame.x(one.ratio), frame.y(100 * one.retained)
    top = frame.y(100 * one.high) if one.high is not None else y
    bottom = frame.y(100 * one.low) if one.low is not None else y
    return replace(one, place=place, x=x, y=y, top=top, bottom=bottom)


def _groups(points: Sequence[Point]) -> list[list[Point]]:
    """Points of the same size together, the best first; among many nobody could tell where each belongs."""
    groups: list[list[Point]] = []
    for one in sorted(points, key=lambda one: one.x):
        if groups and one.x - groups[-1][0].x < SAME and len(points) <= CROWD:
            groups[-1].append(one)
        else:
            groups.append([one])
    return [sorted(group, key=lambda one: one.y) for group in groups]


def _middle(group: Sequence[Point]) -> float:
    return sum(one.x for one in group) / len(group)


def _half(group: Sequence[Point]) -> float:
    return min(BESIDE * (len(group) - 1), BROADEST) / 2


def _beside(frame: Frame, groups: Sequence[Sequence[Point]]) -> list[Point]:
    """Points of the same size side by side around it, so that each is seen; in the order that they came in."""
    found: list[Point] = []
    for group in groups:
        start, step = max(_middle(group) - _half(group), frame.left + 12), 2 * _half(group) / max(1, len(group) - 1)
        found += [replace(one, x=start + step * place) if len(group) > 1 else one for place, one in enumerate(group)]
    return sorted(found, key=lambda one: one.place)


def _brackets(frame: Frame, groups: Sequence[Sequence[Point]]) -> Iterator[Html]:
    """Below points that stand side by side: where they all are."""
    for group in groups:
        if len(group) > 2 and len({f"{one.ratio:.2f}" for one in group}) == 1:
            middle, half, y = _middle(group), _half(group), frame.bottom - 7
            yield polyline(
                [(middle - half, y - 4), (middle - half, y), (middle + half, y), (middle + half, y - 4)], "bar"
            )
            yield polyline([(middle, y), (middle, frame.bottom)], "bar")
            yield words(f"all {len(group)} at {group[0].ratio:.2f}×", middle, y - 5, "mid small dim")


def _labels(frame: Frame, points: Sequence[Point], way: Sequence[Point]) -> Iterator[Html]:
    """Name every point where its name covers neither another name nor a point, an interval or the line."""
    taken = [box for one in points for box in one.boxes]
    lines = [box for one, other in pairwise(way) for box in _along(one, other)]
    for one in points:
        if len(points) > CROWD and one.kind in ("alike", "behind", "refused"):
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


def _along(one: Point, other: Point) -> Iterator[Box]:
    """Small boxes on the line between two points."""
    steps = max(1, round(max(abs(other.x - one.x), abs(other.y - one.y)) / 5))
    for i in range(steps + 1):
        x, y = one.x + (other.x - one.x) * i / steps, one.y + (other.y - one.y) * i / steps
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
