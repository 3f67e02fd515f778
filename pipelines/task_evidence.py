"""What a row of a report says of a task's measure: the figure, its interval, and its pairs with the origin."""

import json
from typing import Any, NamedTuple

from attar import scores
from attar.scores import Scores
from attar.stamp import comparable
from attar.store import Store
from pipelines import task_measures
from pipelines.gates import Figure
from pipelines.report import Row
from pipelines.task_measures import RETAINED, SURE_WRONG, Asked

FEW = "there are too few questions for an interval"


class _Kept(NamedTuple):
    """What is left of the origin's figure, and the ends of its interval, where questions are enough for one."""

    value: float
    ends: tuple[float, float] | None


def figure(measure: str, row: Row, origin: Row, store: Store) -> Figure:
    """A figure of a task, of which a limit may be a multiple of the origin's.

    An origin that was asked something else by the same name has none.
    """
    asked = _read(measure)
    if not _there(row, asked):
        return Figure(None, absent=absent(measure, row))
    # What guessing gives is told of the model; an origin that was measured before that was has its answers, too.
    answers = asked._replace(figure="") if asked.figure == RETAINED else asked
    both = _there(origin, answers) and _apart(asked, row, origin, store) is None
    scored, before = _scored(asked, row, store), _scored(asked, origin, store) if both else None
    if asked.figure == RETAINED:
        return _retained(asked, row, scored, before)
    value, first = _value(asked, row), _value(asked, origin) if both else None
    from attar import statistics  # numpy, which the command line does without until there is something to judge

    if scored is None:
        return Figure(value, origin=first, note="the figure is no mean over questions")
    if (ends := statistics.share_interval(scored)) is None:
        return Figure(value, origin=first, note=FEW)
    kept = _kept(scored, before, 0.0) if before is not None else None
    note = "" if kept else "the origin's figure may be nothing"
    low, high = ends
    return Figure(value, low, high, first, kept.ends if kept else None, note)


def has(measure: str, row: Row) -> bool:
    """Whether a row has a figure."""
    return _there(row, _read(measure))


def absent(measure: str, row: Row) -> str:
    """Why a row has none."""
    asked = _read(measure)
    if asked.task not in tasks_of(row):
        return f"{measure} was not asked here"
    if asked.figure == SURE_WRONG:
        return f"nobody knows how sure a model is of {asked.task}"
    if asked.figure == RETAINED and any("chance" not in row.tasks[part] for part in asked.parts):
        return f"what guessing gives in {asked.task} is not known (a limit can be on task/{asked.task} itself)"
    return f"{asked.task} is the better the {'lower' if asked.higher else 'higher'} it is"


def tasks_of(row: Row) -> set[str]:
    """The tasks that a model was asked, as measures know them."""
    together = {name for name, parts in task_measures.TOGETHER.items() if all(part in row.tasks for part in parts)}
    return {*row.tasks, *together}


def _read(measure: str) -> Asked:
    found = task_measures.read(measure)
    assert found is not None  # whoever made a gate of it has looked
    return found


def _retained(asked: Asked, row: Row, scored: Scores | None, before: Scores | None) -> Figure:
    """The share of the origin's answers above chance that is left."""
    if scored is None or before is None:
        return Figure(None, absent=f"the origin has no {asked.task} to compare with")
    kept = _kept(scored, before, row.tasks[asked.parts[0]]["chance"])
    if kept is None:
        return Figure(None, absent=f"the origin is not above chance in {asked.task}, which leaves nothing to retain")
    low, high = kept.ends or (None, None)
    return Figure(kept.value, low, high, note=FEW)


def _kept(scored: Scores, before: Scores, chance: float) -> _Kept | None:
    """The ratio to the origin above chance, in pairs over questions; None where the origin may not be above it.

    Where no answer differs, neither does any draw; yet so many may differ as may be right where none was. An end is as
    far from 1 at least, and from a value beyond it: else a model that lost an answer would be judged more mildly.
    """
    from attar import statistics

    found = statistics.above_chance(scored, before, chance)
    if found is None:
        return None
    ends = statistics.share_interval(scores.of_answers(scored.ids, [0.0] * len(scored.ids)))
    if ends is None:
        return _Kept(found.value, None)
    more = ends[1] / (before.mean - chance)
    low, high = max(found.value, 1.0) - more, min(found.value, 1.0) + more
    return _Kept(found.value, (min(found.low, low), max(found.high, high)))


def _there(row: Row, asked: Asked) -> bool:
    """Whether the row has the figure, in the direction that its name has."""
    key = {SURE_WRONG: SURE_WRONG, RETAINED: "chance"}.get(asked.figure, "value")
    entries = [row.tasks.get(part, {}) for part in asked.parts]
    lower = not asked.higher and not asked.figure
    return all(entry.get(key) is not None and bool(entry.get("lower_is_better")) == lower for entry in entries)


def _value(asked: Asked, row: Row) -> float:
    """The mean over all questions."""
    key = asked.figure or "value"
    parts = [row.tasks[part] for part in asked.parts]
    items = [part.get("items", 1) for part in parts]
    found: float = sum(part[key] * count for part, count in zip(parts, items, strict=True)) / sum(items)
    return found


def _scored(asked: Asked, row: Row, store: Store) -> Scores | None:
    """What was right, or sure and wrong, by question; None of a figure that is no mean over questions."""
    found = scores.load(store.folder("evaluation", row.evaluation))
    if any(part not in found for part in asked.parts):
        return None
    parts = [(part, found[part]) for part in asked.parts]
    ids = tuple(f"{part}/{one}" for part, scored in parts for one in scored.ids)
    if asked.figure != SURE_WRONG:
        return Scores(
            ids, tuple(s for _, one in parts for s in one.sums), tuple(c for _, one in parts for c in one.counts)
        )
    from attar.calibration import SURE

    wrong = [
        float(sure >= SURE and right <= 0)
        for _, one in parts
        for right, sure in zip(one.sums, one.confidence or (0.0,) * len(one.ids), strict=True)
    ]
    return scores.of_answers(ids, wrong)


def _apart(asked: Asked, row: Row, origin: Row, store: Store) -> str | None:
    """Why the two cannot be compared in the task; None where they can."""
    return comparable(_result(origin, store), _result(row, store), asked.parts[0])


def _result(row: Row, store: Store) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((store.folder("evaluation", row.evaluation) / "result.json").read_text())
    return found
