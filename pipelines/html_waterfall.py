"""A run in one drawing: steps downwards with who taught whom, and what each cost in quality and saved in bytes."""

from collections.abc import Sequence
from itertools import count

from pipelines.html_axes import LINE, bar, line, mark, svg, wide, words
from pipelines.html_page import Html, element
from pipelines.report import Report, Row
from pipelines.step_inputs import SHORT, Node
from pipelines.waterfall import changes

WIDTH, HEIGHT, TOP = 1060.0, 50.0, 44.0  # of the drawing, of a step, of the headings
RAIL = 66.0  # pixels from the left to the rail of the steps; teachers' arcs are left of it
QUALITY, SIZE = (330.0, 610.0), (740.0, 950.0)  # pixels that the whole takes


def waterfall(report: Report, nodes: Sequence[Node]) -> Html:
    """Rows of the report downwards: lineage at the left, quality in the middle, bytes at the right."""
    rows = report.rows
    places = {row.step: place for place, row in enumerate(rows)}
    bottom = TOP + HEIGHT * len(rows)
    drawn = [
        words("step", RAIL + 18, 20, "dim"),
        words("retained quality: lost and recovered", QUALITY[0], 20, "dim"),
        words("bytes: what is left", SIZE[0], 20, "dim"),
    ]
    for place, node in enumerate(nodes):
        if node.source is not None and node.source in places:
            drawn.append(line(RAIL, _y(places[node.source]), RAIL, _y(place), "rail"))
    for lane, node in zip(count(), (node for node in nodes if node.teacher is not None)):
        drawn += _teacher(node, places, lane)
    by_step = {change.after.step: change for change in changes(report)}
    floor = min(0.0, *(row.retained - 0.02 for row in rows)) if rows else 0.0
    largest = max(row.bytes for row in rows)
    for place, (row, node) in enumerate(zip(rows, nodes, strict=True)):
        drawn += _name(row, node, _y(place))
        if row.pairs is not None:
            drawn.append(words(f"{row.pairs:,} pairs; the model stays as it was", QUALITY[0], _y(place) + 4, "dim"))
            continue
        change = by_step.get(row.step)
        drawn += _quality(row, change.before if change else None, _y(place), floor)
        drawn += _bytes(row, change.before if change else None, _y(place), largest)
        if change:
            worse = "lost" if change.quality < -0.0005 else "gained" if change.quality > 0.0005 else "dim"
            drawn.append(words(change.told_quality, QUALITY[1] + 12, _y(place) - 3, f"small {worse}"))
            drawn.append(words(change.told_bytes, SIZE[1] + 12, _y(place) - 3, "small dim"))
        drawn.append(words(f"{100 * row.retained:.1f} %", QUALITY[1] + 12, _y(place) + 12, "strong"))
        drawn.append(words(f"{row.bytes / 1e6:.1f} MB", SIZE[1] + 12, _y(place) + 12, "strong"))
    return wide(svg(WIDTH, bottom + 6, "lineage, and what each step cost and saved", drawn))


def _y(place: int) -> float:
    return TOP + HEIGHT * (place + 0.5)


def _name(row: Row, node: Node, y: float) -> list[Html]:
    shown = mark("origin" if not row.step else "behind", RAIL, y, node.sentence)
    more = "made before, from the store" if row.step and row.cached else ""
    told = f"{row.seconds:,.0f} s" if row.seconds is not None and not more else more
    below = " · ".join(filter(None, (node.short, "from elsewhere" if node.from_elsewhere else "", told)))
    return [shown, words(row.label, RAIL + 18, y - 3, "strong"), words(below, RAIL + 18, y + 12, "small dim")]


def _quality(row: Row, before: Row | None, y: float, floor: float) -> list[Html]:
    scale = (QUALITY[1] - QUALITY[0]) / (1 - floor)

    def at(share: float) -> float:
        return QUALITY[0] + (min(share, 1.0) - floor) * scale

    left = before.retained if before else row.retained
    both = min(left, row.retained)
    found = [bar(QUALITY[0], y - 9, at(both) - QUALITY[0], 18, "kept")]
    if before is not None and left != row.retained:
        kind = "lost" if row.retained < left else "gained"
        found.append(bar(at(both), y - 9, at(max(left, row.retained)) - at(both), 18, kind))
        found.append(line(at(left), y - HEIGHT + 9, at(left), y + 9, "leader"))
    if row.retained_low is not None and row.retained_high is not None:
        low, high = at(row.retained_low), at(row.retained_high)
        ends = f"M{low:.1f} {y:.1f}H{high:.1f}M{low:.1f} {y - 4:.1f}v8M{high:.1f} {y - 4:.1f}v8"
        found.append(element("path", d=ends, class_="bar"))
    return found


def _bytes(row: Row, before: Row | None, y: float, largest: int) -> list[Html]:
    scale = (SIZE[1] - SIZE[0]) / largest
    now, then = row.bytes * scale, (before or row).bytes * scale
    found = [bar(SIZE[0], y - 9, now, 18, "saved")]
    if then > now:
        found.append(bar(SIZE[0] + now, y - 9, then - now, 18, "whole"))
    return found


def _teacher(node: Node, places: dict[int, int], lane: int) -> list[Html]:
    """An arc from the teacher to the step it taught; a model from elsewhere comes in from the left."""
    y = _y(places[node.step])
    told = element("title", node.sentence)
    head = element("path", d=f"M{RAIL - 9:.1f} {y:.1f}l-8 -4.5v9z", class_="arrow")
    if isinstance(node.teacher, str):
        label = words(f"teacher {node.teacher[:SHORT]}", 2, y - LINE / 2 - 3, "small dim")
        return [element("path", told, d=f"M4 {y:.1f}H{RAIL - 14:.1f}", class_="arc"), head, label]
    start = _y(places[node.teacher or 0])
    out = RAIL - 22 - 9 * (lane % 4)
    arc = f"M{RAIL - 8:.1f} {start:.1f}H{out + 8:.1f}Q{out:.1f} {start:.1f} {out:.1f} {start + 8:.1f}"
    arc += f"V{y - 8:.1f}Q{out:.1f} {y:.1f} {out + 8:.1f} {y:.1f}H{RAIL - 14:.1f}"
    return [element("path", told, d=arc, class_="arc"), head]
