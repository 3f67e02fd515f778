"""What each swept setting did to quality: a column a value, its variants and their mean; and loss curves, small."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from pipelines.findings import Finding, Level, in_order
from pipelines.html_axes import (
    CHARACTER,
    LINE,
    Frame,
    axes,
    line,
    mark,
    polyline,
    room,
    svg,
    ticks,
    whisker,
    wide,
    words,
)
from pipelines.html_page import Html, element
from pipelines.signs import Kind

WIDTH, HEIGHT = 1060.0, 330.0
NARROW = 130.0  # pixels, in which a mean has no room for its number
MOST_LINES = 6  # between variants that differ in this setting alone; more would be a tangle
VERDICTS = {
    "best": "keeps most",
    "all": "keeps all of it, too",
    "not distinguishable": "not distinguishable",
    "worse": "worse",
}


@dataclass(frozen=True)
class Dot:
    """A variant in a strip."""

    label: str
    values: Mapping[str, str]
    retained: float
    kind: Kind
    hint: str = ""


def strip(setting: str, dots: Sequence[Dot], finding: Finding | None) -> Html:
    """One setting: where its values stand, with the mean of each value's variants where they can be compared."""
    values = in_order([one.values.get(setting, "") for one in dots])
    levels = {level.value: level for level in finding.levels} if finding else {}
    means = [bound for level in levels.values() for bound in (level.retained, level.low, level.high)]
    shares = [100 * share for share in [*(one.retained for one in dots), *means] if share is not None]
    slot = (WIDTH - 88) / max(1, len(values))
    labels = [_wrapped(value, int(slot / CHARACTER)) for value in values]
    deep = max(map(len, labels))
    frame = Frame(62, WIDTH - 26, 30, HEIGHT - 40, (-0.5, len(values) - 0.5), room(min(shares), max(shares), 0.08, 1.0))
    drawn = []
    for share in ticks(*frame.ys, most=6):
        drawn.append(line(frame.left, frame.y(share), frame.right, frame.y(share), "grid"))
        drawn.append(words(f"{share:g}", frame.left - 8, frame.y(share) + 4, "end dim"))
    drawn.append(words("retained quality, %", 16, 16, "dim"))
    alike: dict[Hashable, list[tuple[float, float]]] = {}  # the other settings → points that have them
    for place, (value, told) in enumerate(zip(values, labels, strict=True)):
        middle = frame.x(place)
        if place:
            drawn.append(line(frame.x(place - 0.5), frame.top, frame.x(place - 0.5), frame.bottom, "grid"))
        mine = sorted((one for one in dots if one.values.get(setting, "") == value), key=lambda one: one.label)
        edge, beside = middle - slot / 2, 0.0
        if value in levels:
            beside = max(62.0, 0.28 * slot) if slot > NARROW else 0.3 * slot
            drawn += _mean(frame, edge + beside, levels[value], told=slot > NARROW)
            beside += 10
        step = min(30.0, (slot - beside - 16) / max(1, len(mine)))
        start = edge + (slot + beside) / 2 - step * (len(mine) - 1) / 2
        for turn, one in enumerate(mine):
            x, y = start + step * turn, frame.y(100 * one.retained)
            rest = tuple((name, told) for name, told in one.values.items() if name != setting)
            alike.setdefault(rest, []).append((x, y))
            drawn.append(mark(one.kind, x, y, one.hint))
            if step > 14:
                drawn.append(words(one.label, x, y - 13, "mid small dim"))
        bottom = frame.bottom + 20
        drawn += [words(text, middle, bottom + LINE * row, "mid strong") for row, text in enumerate(told)]
        if value in levels:
            level = levels[value]
            drawn.append(words(VERDICTS[level.verdict], middle, bottom + LINE * deep, "mid dim"))
            if level.verdict != "best":
                lost = f"{-100 * level.behind:+.1f} points".replace("-", "−")
                drawn.append(words(lost, middle, bottom + LINE * (deep + 1), "mid dim"))
    if len(alike) <= MOST_LINES:
        drawn[:0] = [polyline(points, "thin") for points in alike.values() if len(points) > 1]
    drawn.append(line(frame.left, frame.bottom, frame.right, frame.bottom, "axis"))
    return wide(svg(WIDTH, HEIGHT + LINE * (deep + 1), f"retained quality by {setting}", drawn))


def scatter(setting: str, dots: Sequence[Dot]) -> Html:
    """A setting of many values, as those that are searched at random: where they lie, and what came of them."""
    values = [float(one.values[setting]) for one in dots]
    shares = [100 * one.retained for one in dots]
    xs, ys = room(min(values), max(values), 0.05, 1e-9), room(min(shares), max(shares), 0.08, 1.0)
    frame = Frame(62, WIDTH - 26, 30, HEIGHT - 60, xs, ys)
    drawn = [*axes(frame, setting, "retained quality, %", lambda v: f"{v:g}", lambda v: f"{v:g}")]
    drawn += [mark(one.kind, frame.x(x), frame.y(y), one.hint) for one, x, y in zip(dots, values, shares, strict=True)]
    return wide(svg(WIDTH, HEIGHT, f"retained quality by {setting}", drawn))


def curve(name: str, points: Sequence[tuple[float, float]]) -> Html:
    """A loss over the steps of its training."""
    thin = points[:: max(1, len(points) // 300)]
    xs, ys = [x for x, _ in thin], [y for _, y in thin]
    frame = Frame(52, 352, 26, 128, (min(xs), max(max(xs), min(xs) + 1)), room(min(ys), max(ys), 0.1, 1e-6))
    drawn = [words(name, 4, 13, "strong")]
    for value in ticks(*frame.ys, most=3):
        drawn.append(line(frame.left, frame.y(value), frame.right, frame.y(value), "grid"))
        drawn.append(words(f"{value:g}", frame.left - 6, frame.y(value) + 4, "end dim small"))
    drawn.append(polyline([(frame.x(x), frame.y(y)) for x, y in thin], "front"))
    drawn.append(words(f"{min(xs):g}", frame.left, 144, "dim small"))
    drawn.append(words(f"step {max(xs):g}", frame.right, 144, "end dim small"))
    return svg(360, 150, f"{name} over steps", drawn)


def _mean(frame: Frame, x: float, level: Level, told: bool) -> list[Html]:
    """The mean with its interval, and its number beside."""
    y = frame.y(100 * level.retained)
    found = []
    if level.low is not None and level.high is not None:
        found.append(whisker(x, frame.y(100 * level.high), frame.y(100 * level.low)))
    hint = element("title", f"{level.value}: mean of {level.variants}")
    found.append(element("rect", hint, x=x - 9, y=y - 2.5, width=18, height=5, class_="saved"))
    return [*found, words(f"{100 * level.retained:.1f} %", x - 13, y + 4, "end small strong")] if told else found


def _wrapped(value: str, most: int) -> list[str]:
    """An order of stages, one below the other, and what it leaves out; no line longer than there is room."""
    *stages, rest = value.split(" → ")
    end, comma, without = rest.partition(", without ")
    lines = [*(f"{part} →" for part in stages), end + comma[:1]]
    lines += [f"without {without}"] if comma else []
    return [line if len(line) <= most else f"{line[: most - 1]}…" for line in lines]
