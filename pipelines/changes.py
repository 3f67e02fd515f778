"""What a run has to compute and why: its plan beside that of the last run of the same recipe.

Fingerprints decide what is computed; here is only told which of their inputs moved. A step whose own inputs are as they
were, and which computes because the one before it does, is no reason.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attar import machine as hardware
from attar.fingerprint import environment_versions
from attar.suite import Suite
from pipelines.chain import spelled
from pipelines.home import Home
from pipelines.journal import JOURNAL, Record
from pipelines.plan import Plan, Step
from pipelines.process import alive

REASONS = 3  # told in the line; explain tells all
DERIVED = ("source", "student", "teacher", "responses", "model", "origin")  # inputs that other steps make


@dataclass(frozen=True)
class Before:
    """An earlier run of the recipe."""

    run: str
    status: str  # finished, failed, cancelled, going, or "" for one that was killed
    steps: tuple[Mapping[str, Any], ...]
    recipe: Mapping[str, Any]
    environment: Mapping[str, Any]


@dataclass(frozen=True)
class Reason:
    """One input that moved, and the step it belongs to; a step -1 is the whole recipe."""

    step: int
    text: str


@dataclass(frozen=True)
class Changes:
    """What there is to compute, and what made the difference."""

    before: Before | None
    stages: tuple[str, ...]  # labels of the stages to run
    measurements: tuple[str, ...]  # labels of the models to measure
    total: int  # stages of the recipe
    reasons: tuple[Reason, ...]

    @property
    def line(self) -> str:
        """All of it in one line."""
        told = "; ".join(reason.text for reason in self.reasons[:REASONS])
        more = f"; and {len(self.reasons) - REASONS} more" if len(self.reasons) > REASONS else ""
        return f"{self._work}: {told}{more}"

    def as_json(self) -> dict[str, Any]:
        """What ``attar explain --json`` prints."""
        return {
            "line": self.line,
            "before": self.before.run if self.before else None,
            "stages": list(self.stages),
            "measurements": list(self.measurements),
            "reasons": [{"step": reason.step, "text": reason.text} for reason in self.reasons],
        }

    @property
    def _work(self) -> str:
        if self.stages:
            return f"{len(self.stages)} of {self.total} {'stage' if self.total == 1 else 'stages'} to compute"
        if self.measurements:
            return f"{len(self.measurements)} {'model' if len(self.measurements) == 1 else 'models'} to measure"
        return "nothing to compute"


def compare(plan: Plan, run: str | None = None) -> Changes:
    """A plan beside the last run of its recipe in its home; ``run`` is its own id, where it has one."""
    now = {
        "recipe": plan.recipe.model_dump(mode="json"),
        "steps": identities(plan),
        "environment": environment(plan),
    }
    before = last(plan.home, plan.recipe.name, run)
    steps = [step for step in plan.steps if step.index]
    to_run = tuple(step.label for step in steps if not step.cached)
    to_measure = tuple(step.label for step in plan.steps if not step.measured)
    reasons = tuple(_reasons(before, now, bool(to_run or to_measure)))
    return Changes(before, to_run, to_measure, len(steps), reasons)


def identities(plan: Plan) -> list[dict[str, Any]]:
    """The plan's steps with all that their fingerprints are made of, as the journal keeps them."""
    known = plan.as_json()["steps"]
    return [{**known[step.index], **_identity(step)} for step in plan.steps]


def _identity(step: Step) -> dict[str, Any]:
    folder = Path(step.model.folder)
    return {
        "revision": folder.name if folder.parent.name == "snapshots" else "",  # a hub model's commit
        "settings": step.stage.settings() if step.stage else {},
        "version": step.stage.version if step.stage else 0,
        "seed": step.seed,
        "inputs": step.inputs,
        "evaluation": step.evaluation,
        "evaluation_inputs": step.evaluation_inputs,
    }


def environment(plan: Plan) -> dict[str, Any]:
    """What fingerprints depend on beside settings and inputs."""
    machine = plan.machine.model_dump(include={"device", "dtype", "threads"})
    return {**machine, "processor": hardware.cpu_name(), **environment_versions(), "measures": Suite.version}


def last(home: Home, name: str, run: str | None = None) -> Before | None:
    """The newest finished run of a recipe; where none is finished, the newest one that has begun."""
    begun: Before | None = None
    for folder in sorted(home.runs.glob(f"*-{name}*"), reverse=True):
        if folder.name == run:
            continue
        first, final = _ends(folder / JOURNAL)
        if first.get("kind") != "run" or first.get("name") != name or "environment" not in first:
            continue
        status = final["status"] if final.get("kind") == "end-run" else "going" if alive(folder) else ""
        found = Before(folder.name, status, tuple(first["plan"]), first["recipe"], first["environment"])
        if status == "finished":
            return found
        begun = begun or found
    return begun


def unfinished(folder: Path) -> str:
    """Half a sentence on a run that has not finished; empty for one that has."""
    _, final = _ends(folder / JOURNAL)
    if final.get("kind") != "end-run":
        return "is going on" if alive(folder) else "was killed"
    return {"finished": "", "failed": "failed", "cancelled": "was cancelled"}.get(final["status"], "has not finished")


def _ends(journal: Path) -> tuple[Record, Record]:
    """First record of a journal and the last but warnings."""
    try:
        lines = journal.read_bytes().split(b"\n")[:-1]
        # Warnings may follow the end: MLflow was away when the run ended.
        final = next((line for line in reversed(lines) if not line.startswith(b'{"kind": "warning"')), lines[-1])
        return dict(json.loads(lines[0])), dict(json.loads(final))
    except (OSError, ValueError, TypeError, IndexError):
        return {}, {}


def _reasons(before: Before | None, now: Mapping[str, Any], work: bool) -> Iterator[Reason]:
    if before is None:
        yield Reason(-1, "the first run of this recipe in this home")
        return
    moved = list(_moved(before, now))
    yield from moved
    if not work:
        yield Reason(-1, "all of that is in the store" if moved else f"nothing changed since {before.run}")
        return
    lost = list(_lost(before, now["steps"]))
    yield from lost
    if not moved and not lost:
        ended = {
            "": "was killed before them",
            "failed": "failed before them",
            "cancelled": "was cancelled before them",
            "going": "is going on and has not come to them",
        }.get(before.status, "ended before them")
        yield Reason(-1, f"{before.run} {ended}")


def _moved(before: Before, now: Mapping[str, Any]) -> Iterator[Reason]:
    """Inputs that differ, in the order of the steps; what follows from an earlier difference is left out."""
    old, new = before.steps, now["steps"]
    was, recipe = before.recipe, now["recipe"]
    if old[0]["fingerprint"] != new[0]["fingerprint"]:
        yield Reason(0, _model(old[0], new[0], str(was.get("model")), str(recipe["model"])))
    if [step["name"] for step in old] != [step["name"] for step in new]:
        yield Reason(-1, f"stages {spelled(was['stages'])} became {spelled(recipe['stages'])}")
        return
    told: set[str] = set()
    for one, other in zip(old, new, strict=True):
        texts = [*_of_stage(one, other)] if one["fingerprint"] != other["fingerprint"] else []
        if one["evaluation"] != other["evaluation"]:
            texts += [
                *_settings("measure", was["measure"], recipe["measure"]),
                *_inputs(one, other, "evaluation_inputs"),
            ]
        if texts or one["evaluation"] != other["evaluation"]:
            texts += _settings("", before.environment, now["environment"])
        for text in texts:
            if text not in told:
                told.add(text)
                yield Reason(other["step"], text)


def _model(old: Mapping[str, Any], new: Mapping[str, Any], was: str, spec: str) -> str:
    if was != spec:
        return f"model {was} → {spec}"
    if old["revision"] and new["revision"] and old["revision"] != new["revision"]:
        return f"model {spec} moved: revision {old['revision'][:8]} → {new['revision'][:8]}"
    return f"the files of the model {spec} changed"


def _of_stage(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    yield from _settings(new["name"], old["settings"], new["settings"])
    if old["version"] != new["version"]:
        yield f"{new['name']} is version {new['version']}, was {old['version']}"
    if old["seed"] != new["seed"]:
        yield "the seed changed"
    yield from _inputs(old, new, "inputs")


def _settings(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    for key in sorted({*old, *new}):
        if old.get(key) != new.get(key):
            yield f"{f'{name}.{key}' if name else key} {_short(old.get(key))} → {_short(new.get(key))}"


def _inputs(old: Mapping[str, Any], new: Mapping[str, Any], kind: str) -> Iterator[str]:
    for key in sorted({*old[kind], *new[kind]} - set(DERIVED)):
        if old[kind].get(key) != new[kind].get(key):
            yield f"{key} changed"


def _lost(before: Before, steps: list[Mapping[str, Any]]) -> Iterator[Reason]:
    """What a finished run had made and the store has no more."""
    made = {step["fingerprint"] for step in before.steps} if before.status == "finished" else set()
    measured = {step["evaluation"] for step in before.steps} if before.status == "finished" else set()
    for step in steps:
        label = f"{step['step']} {step['name']}"
        if not step["cached"] and step["fingerprint"] in made:
            yield Reason(step["step"], f"the store has lost what {label} made")
        elif not step["measured"] and step["evaluation"] in measured:
            yield Reason(step["step"], f"the store has lost the measurement of {label}")


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else value
    return text if len(text) <= 40 else f"{text[:37]}…"
