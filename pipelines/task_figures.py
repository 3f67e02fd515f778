"""Figures of tasks for a report: a model's answers beside the origin's, with intervals, verdicts and tables of them."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attar.errors import BadInput
from attar.holm import holm
from attar.scores import Scores
from attar.stamp import comparable
from pipelines.markdown_table import markdown_table

if TYPE_CHECKING:
    from pipelines.report import Row

Figures = dict[str, dict[str, Any]]


def compared(
    result: Mapping[str, Any], scored: Mapping[str, Scores], origin: Mapping[str, Any], base: Mapping[str, Scores]
) -> Figures:
    """What was measured on tasks, by name, and how it compares with the origin's answers to the same.

    ``low`` and ``high`` are the 95 % interval over items, None of few. ``retained`` is the share of the origin's
    answers above chance that is left, where higher is better, chance is known and the origin is above it; ``verdict``
    and ``p_value`` are of the paired test, ``note`` says why there are none. The verdicts on a model's tasks hold
    together (Holm): of all of them one is wrong in 5 of 100 cases at most.
    """
    found: Figures = {}
    for name, figures in result.get("tasks", {}).items():
        found[name] = dict(figures)
        if name in scored:
            found[name] |= _interval(scored[name])
        if name in scored and name in base and result != origin:
            found[name] |= _beside(name, figures, (result, scored[name]), (origin, base[name]))
    _hold_together([entry for entry in found.values() if entry.get("p_value") is not None])
    return found


def _interval(scored: Scores) -> dict[str, float | None]:
    from attar import statistics  # numpy, which the command line does without until there is something to compare

    low, high = statistics.share_interval(scored) or (None, None)
    return {"low": low, "high": high}


def _hold_together(tested: Sequence[dict[str, Any]]) -> None:
    """Take back the verdicts that are not beyond doubt where all tasks are looked at."""
    if len(tested) < 2:
        return
    for entry, held in zip(tested, holm([entry["p_value"] for entry in tested]), strict=True):
        if not held and entry["verdict"] in ("better", "worse"):
            note = f"{entry['verdict']} by itself, and not beyond doubt where {len(tested)} tasks are tested"
            entry |= {"verdict": "not distinguishable", "note": note}


def _beside(
    name: str,
    figures: Mapping[str, Any],
    one: tuple[Mapping[str, Any], Scores],
    origin: tuple[Mapping[str, Any], Scores],
) -> dict[str, Any]:
    from attar import statistics  # numpy, which the command line does without until there is something to compare

    if why := comparable(origin[0], one[0], name):
        return {"note": why}
    lower, chance = bool(figures["lower_is_better"]), figures.get("chance")
    try:
        found = statistics.difference(one[1], origin[1], lower)
        kept = None if lower or chance is None else statistics.above_chance(one[1], origin[1], chance)
    except BadInput as error:
        return {"note": str(error)}
    told: dict[str, Any] = {"difference": found.value, "difference_low": found.low, "difference_high": found.high}
    told |= {"verdict": found.verdict, "p_value": found.p, "note": found.note}
    return told | ({"retained": kept.value, "retained_low": kept.low, "retained_high": kept.high} if kept else {})


def numbers(figures: Figures) -> dict[str, float]:
    """What a tracker keeps: the value of every task, what is retained, and how often the model is sure and wrong."""
    kept = ("value", "retained", "confidently_wrong", "calibration_error")
    found = {(name, key): entry.get(key) for name, entry in figures.items() for key in kept}
    return {
        f"task.{name}" if key == "value" else f"task.{name}.{key}": float(value)
        for (name, key), value in found.items()
        if isinstance(value, int | float)
    }


def flat(rows: Sequence["Row"]) -> tuple[list[str], list[list[Any]]]:
    """Columns of a table of values and the cells of every row, for CSV."""
    columns = list(dict.fromkeys(name for row in rows for name in numbers(row.tasks)))
    return columns, [[numbers(row.tasks).get(name) for name in columns] for row in rows]


def table(rows: Sequence["Row"]) -> tuple[list[str], list[list[str]]] | None:
    """Headings and lines of texts: a task downwards, a step across; None where no task was measured.

    A value that is better or worse than the origin's beyond doubt has an arrow.
    """
    models = [row for row in rows if row.pairs is None]
    names = list(dict.fromkeys(name for row in models for name in row.tasks))
    if not names:
        return None
    lines = []
    for name in names:
        entries = [row.tasks.get(name, {}) for row in models]
        chance = next((entry["chance"] for entry in entries if entry.get("chance")), None)
        items = next((entry["items"] for entry in entries if "items" in entry), None)
        lines.append([name, _share(chance), f"{items:,}" if items else "–", *map(_cell, entries)])
        if any("confidently_wrong" in entry for entry in entries):
            sure = [_share(entry.get("confidently_wrong")) for entry in entries]
            lines.append([f"{name}, sure and wrong", "–", "–", *sure])
    return ["task", "chance", "items", *(row.label for row in models)], lines


def markdown(rows: Sequence["Row"]) -> str:
    """The same as Markdown; nothing where no task was measured."""
    made = table(rows)
    return "" if made is None else markdown_table(*made)


def _cell(entry: Mapping[str, Any]) -> str:
    if "value" not in entry:
        return "–"
    arrow = {"better": " ↑", "worse": " ↓"}.get(entry.get("verdict") or "", "")
    value, low, high = entry["value"], entry.get("low"), entry.get("high")
    bounds = "" if low is None or high is None else f" ({100 * low:.1f}–{100 * high:.1f})"
    # A share, as nearly all are; what lm-eval finds may be something else, such as a perplexity.
    share = "low" in entry and all(0 <= number <= 1 for number in (value, low, high) if number is not None)
    return (f"{100 * value:.1f} %{bounds}" if share else f"{value:.4g}") + arrow


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"
