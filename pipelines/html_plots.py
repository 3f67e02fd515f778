"""The Pareto plot of the report: compression ratio against retained quality, every point named and none covered."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

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
    words,
)
from pipelines.html_page import Html

WIDTH, HEIGHT = 1060.0, 470.0
BESIDE = 19.0  # pixels between points of the same size, which stand side by side
SAME = 8.0  # pixels within which sizes count as the same
TOLD: dict[Kind, str] = {
    "origin": "origin",
    "chosen": "to ship",
    "on-front": "on the front: none is smaller and better",
    "behind": "another is as small and better",
    "refused": "a gate was not kept",
}

Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class Point:
    """A model in the plot; shares of the origin's quality, with the interval where there is one."""

    label: str
    ratio: float
    retained: float
    low: float | None
    high: float | None
    kind: Kind
    hint: str = ""
    x: float = 0.0  # pixels, set when it is placed
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
    frame = Frame(62, WIDTH - 26, 34, HEIGHT - 92, room(min(ratios), max(ratios), 0.07, 0.2), (low, min(high, 104.0)))
    placed = list(_beside(frame, [_put(frame, one) for one in points]))
    drawn = list(axes(frame, "compression ratio: bytes of the origin ÷ bytes (further right is smaller)",
                      "retained quality, %", lambda v: f"{v:g}×", lambda v: f"{v:g}"))  # fmt: skip
    way = placed if path else sorted((one for one in placed if one.kind != "behind"), key=lambda one: one.ratio)
    way = [one for one in way if path or one.kind != "refused"]
    drawn.append(polyline([(one.x, one.y) for one in way], "path" if path else "front"))
    drawn += [whisker(one.x, one.top, one.bottom) for one in placed if one.low is not None]
    drawn += [mark(one.kind, one.x, one.y, one.hint) for one in placed]
    drawn += _labels(frame, placed)
    kinds = {one.kind for one in points}
    told = TOLD | ({"behind": "before the end", "chosen": "the result"} if path else {})
    drawn += legend([(kind, text) for kind, text in told.items() if kind in kinds], frame.left - 8, HEIGHT - 14)
    return svg(WIDTH, HEIGHT, "compression ratio against retained quality", drawn)


def _put(frame: Frame, one: Point) -> Point:
    x, y = frame.x(one.ratio), frame.y(100 * one.retained)
    top = frame.y(100 * one.high) if one.high is not None else y
    bottom = frame.y(100 * one.low) if one.low is not None else y
    return replace(one, x=x, y=y, top=top, bottom=bottom)


def _beside(frame: Frame, points: Sequence[Point]) -> Iterator[Point]:
    """Points of the same size side by side around it, the best first, so that each is seen."""
    groups: list[list[Point]] = []
    for one in sorted(points, key=lambda one: one.x):
        if groups and one.x - groups[-1][-1].x < SAME:
            groups[-1].append(one)
        else:
            groups.append([one])
    found: dict[int, Point] = {}
    for members in groups:
        width = BESIDE * (len(members) - 1)
        middle = sum(one.x for one in members) / len(members)
        start = min(max(middle - width / 2, frame.left + 12), frame.right - 12 - width)
        for place, one in enumerate(sorted(members, key=lambda one: one.y)):
            shown = replace(one, x=start + BESIDE * place) if len(members) > 1 else one
            found[next(i for i, other in enumerate(points) if other is one)] = shown
    return (found[place] for place in range(len(points)))


def _labels(frame: Frame, points: Sequence[Point]) -> Iterator[Html]:
    """Name every point where its name covers neither another name nor a point nor an interval."""
    taken = [box for one in points for box in one.boxes]
    for one in points:
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
            rated = cost + 1000 * covered + 500 * outside
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
