"""What may stand in a recipe: every key with type, bounds and default, and what gates can be on. ``attar recipe``."""

from typing import Any, NamedTuple

from pydantic import BaseModel

from attar.data import DataSettings
from attar.errors import BadInput, nearest
from attar.suite import Suite
from pipelines import task_measures
from pipelines.catalogue import settings
from pipelines.champion import Champion
from pipelines.gates import BATCHED, MEASURES, RELATIVE, UNITS, Bisect, Gate, Measure, has_interval
from pipelines.recipe import Recipe, Track
from pipelines.sweep_space import Range, Search


class Part(NamedTuple):
    """A part of a recipe: what it is for, how it is written, and the models that its keys are read from, by prefix."""

    summary: str
    example: str
    models: dict[str, type[BaseModel]]


PARTS = {
    "data": Part(
        "Texts to train, calibrate and measure on.",
        "data: {source: my-texts.jsonl, column: text}",
        {"": DataSettings},
    ),
    "measure": Part(
        "What is measured after every stage.",
        "measure: {windows: 64, batch_sizes: [1, 4], choices: 1000, tasks: [capitals.jsonl]}\n\n"
        "A line of a task's file, answered by choosing or by writing:\n"
        '{"prompt": "The capital of France is", "choices": ["Paris", "Rome"], "answer": 0}\n'
        '{"prompt": "The capital of France is", "answer": "Paris"}',
        {"": Suite},
    ),
    "gates": Part(
        "Lines that a model must not cross, and what is done where it does.",
        "gates:\n"
        "  - {measure: bytes, max: 100 MB}\n"
        "  - {measure: decode, min: 1.5×}                      # of the origin's\n"
        "  - measure: headline\n"
        "    min: 0.95\n"
        "    after: stages.1\n"
        "    breach: {bisect: {setting: stages.0.ffn, within: [0.05, 0.5], probes: 6}}\n"
        "  - measure: kl\n"
        "    max: 0.3\n"
        "    breach: {insert: {stage: finetune.full, train_tokens: 65_536}}\n\n"
        "Of tasks that measure asks, such as tasks: [capitals.jsonl] and facts:\n"
        "  - {measure: task/capitals, min: 80 %}               # right answers\n"
        "  - {measure: task/facts, min: 0.95×}                 # of the origin's",
        {"": Gate, "breach.bisect.": Bisect},
    ),
    "sweep": Part(
        "Many variants of one recipe, for attar sweep: lists and ranges in place of values, and how they are searched.",
        "stages:\n"
        "  - {stage: prune.width, ffn: {sweep: {low: 0.1, high: 0.4, step: 0.1}}}\n"
        "  - {stage: distill.logit, student: previous, temperature: {sweep: [2, 4, 8]}}\n"
        "sweep: {search: grid, minutes: 60, orders: [[0, 1], [1, 0], [1]]}",
        {"": Search, "{sweep: {…}}: ": Range},
    ),
    "champion": Part(
        "Where MLflow registers the final model, and when it becomes the champion there.",
        "champion: {line: assistant, margin: 0.01}",
        {"": Champion},
    ),
    "track": Part("What MLflow is told.", "track: {experiment: nightly}", {"": Track}),
}


def summary() -> list[dict[str, Any]]:
    """The keys of a recipe's top level; those that ``attar recipe KEY`` explains further say so."""
    rows = settings(Recipe, nested=False)
    rows.append(
        {"name": "sweep", "type": "mapping", "default": "none", "description": "many variants, for attar sweep"}
    )
    for row in rows:
        if row["name"] in PARTS:
            row["default"] = f"see: attar recipe {row['name']}"
        elif row["name"] == "stages":
            row["default"] = "required; see: attar stages"
    return rows


def describe(name: str) -> dict[str, Any]:
    """One part: what it is for, an example, its keys; for gates also the measures that they can be on."""
    if name not in PARTS:
        raise BadInput(f"no part of a recipe is called {name!r}; {nearest(name, PARTS)}")
    part = PARTS[name]
    rows = [row for prefix, model in part.models.items() for row in settings(model, prefix, nested=False)]
    return {
        "name": name,
        "summary": part.summary,
        "example": part.example,
        "settings": rows,
        "measures": measures() if name == "gates" else [],
    }


def measures() -> list[dict[str, str]]:
    """What gates and ``attar best`` can ask of a model."""
    rows = []
    for name, measure in [*MEASURES.items(), *((name, MEASURES[name]) for name in task_measures.FORMS)]:
        units = [unit for unit in UNITS[measure.unit] if unit]
        rows.append(
            {
                "measure": f"{name}[/BATCH]" if name in BATCHED else name,
                "better": "higher" if measure.higher else "lower",
                "units": ", ".join(units + ["×"] * (measure.unit in RELATIVE)) or "none",
                "judged by": "interval" if has_interval(name) else "value",
                "needs": task_measures.FORMS.get(name) or _needs(measure),
            }
        )
    return rows


def _needs(measure: Measure) -> str:
    asked = "measure.batch_sizes" if measure.batch else "measure.speed" if measure.timed else ""
    return f"{asked}, price_per_hour" if measure.unit == "price" else asked
