"""Reads every model that was ever measured in a home, in groups whose results may be ranked together.

A gate is a policy of its own recipe: what did not keep it is refused, be it a run's last model, one that the run went
on without, with the steps that led to it alone, or a value that was tried. Where another recipe came to the same model
without refusing it, a user has asked for it, and it is a candidate as any other.
"""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from attar.errors import BadInput, StageFailed, nearest
from attar.stamp import HASH, KEY, group, stamp_of
from attar.store import MANIFEST, Artifact, Store
from pipelines import journal, report
from pipelines.home import Home
from pipelines.inventory import FINGERPRINT
from pipelines.report import Reference, Report, Row


@dataclass(frozen=True)
class Candidate:
    """A model that could be shipped: its figures, the origin's, and where it came from."""

    row: Row
    origin: Row
    result: dict[str, Any]  # of its evaluation
    when: float  # of the newest run that has it
    run: str = ""  # empty where no run's report names it, as of a value that a gate tried
    recipe: str = ""
    refused: str = ""  # by which gates

    @property
    def bytes(self) -> int:
        return self.row.bytes

    @property
    def retained(self) -> float:
        return self.row.retained

    @property
    def label(self) -> str:
        """``quantize.gptq of run 20260101-120000-mine``."""
        return f"{self.row.name} of run {self.run}" if self.run else f"{self.row.name} {self.row.fingerprint}"


@dataclass(frozen=True)
class Group:
    """Candidates with one origin, measured alike; the newest first."""

    origin: str  # as the recipe names it
    measured: str
    candidates: tuple[Candidate, ...]

    @property
    def recipes(self) -> frozenset[str]:
        return frozenset(one.recipe for one in self.candidates if one.recipe)

    @property
    def label(self) -> str:
        return f"{self.origin} ({self.measured})"


@dataclass(frozen=True)
class _Told:
    """What a run's report says of an evaluation."""

    row: Row | None  # None of a model that a gate refused and the run went on without
    run: str
    recipe: str
    model: str
    when: float
    refused: str


def read(home: Home) -> list[Group]:
    """All groups of a home, that of the newest result first.

    Raises:
        BadInput: nothing was measured here that is still here.
    """
    told = _reports(home)
    folders = {one.row.fingerprint: Path(one.row.folder) for one in told.values() if one.row and not one.row.step}
    measured: dict[str, list[Entry]] = {}
    for found, result in _evaluations(home.store):
        if (key := group(result, "headline")) is not None:
            measured.setdefault(key, []).append((found, result))
    groups = [made for entries in measured.values() if (made := _group(home.store, entries, told, folders))]
    if not groups:
        raise BadInput(
            f"no compressed model with a measurement lies in {home.root}; make one with: attar run RECIPE "
            "(what was measured before results had a stamp has to be measured again)"
        )
    return sorted(groups, key=lambda made: made.candidates[0].when, reverse=True)


def of_recipe(groups: list[Group], recipe: str | None, sweeps: Mapping[str, Collection[str]]) -> Group:
    """The group with the newest result of a recipe, or of a sweep's runs; of all when none is named."""
    if recipe is None:
        return groups[0]
    runs = sweeps.get(recipe, ())
    newest = [
        (one.when, number)
        for number, found in enumerate(groups)
        for one in found.candidates
        if one.recipe == recipe or one.run in runs
    ]
    if not newest:
        known = {name for found in groups for name in found.recipes} | sweeps.keys()
        raise BadInput(f"--recipe {recipe!r}: no model of that recipe or sweep is here; {nearest(recipe, known)}")
    return groups[max(newest)[1]]


def of_runs(reports: Sequence[Report], store: Store) -> list[Group]:
    """The results of some runs and of nothing else, the largest group first; a model counts once."""
    found: dict[str, dict[str, Candidate]] = {}
    labels: dict[str, str] = {}
    for when, made in enumerate(reports):
        row, measured = made.final, store.find("evaluation", made.final.evaluation)
        if not row.step or measured is None:
            continue
        result = json.loads((measured.folder / "result.json").read_text())
        if (key := group(result, "headline")) is not None:
            refused = _refused(made).get(row.evaluation, "")
            one = Candidate(row, made.rows[0], result, float(when), made.run, made.recipe, refused)
            found.setdefault(key, {})[row.fingerprint] = one
            labels[key] = _how(result)
    made_of = [Group("the origin", labels[key], tuple(ones.values())) for key, ones in found.items()]
    return sorted(made_of, key=lambda one: -len(one.candidates))


Entry = tuple[Artifact, dict[str, Any]]  # an evaluation and its result


@dataclass(frozen=True)
class _Origin:
    """The origin of a group: its row by the hash of the whole stamp, and what figures are relative to."""

    name: str
    rows: dict[str, Row]
    reference: Reference | None  # None where the origin's own folder is gone

    @classmethod
    def find(
        cls, store: Store, entries: list[Entry], told: dict[str, _Told], folders: dict[str, Path]
    ) -> "_Origin | None":
        rows: dict[str, Row] = {}
        reference: Reference | None = None
        name = ""
        for found, result in entries:
            model = found.inputs["model"]
            if model != found.inputs["origin"]:
                continue
            folder = folders.get(model) or store.folder("model", model)
            here = Reference.read(folder, found.fingerprint, store) if folder.is_dir() else None
            known = told.get(found.fingerprint)
            if known is not None and known.row is not None:
                row, name = known.row, known.model
            elif here is not None:
                row = report.make_row(0, "origin", True, folder, model, found.fingerprint, store, here)
            else:
                continue
            rows[_stamp(result)] = row
            reference = here or reference
        return cls(name or next(iter(rows.values())).folder, rows, reference) if rows else None


def _group(store: Store, entries: list[Entry], told: dict[str, _Told], folders: dict[str, Path]) -> Group | None:
    origin = _Origin.find(store, entries, told, folders)
    if origin is None:
        return None
    newest: dict[str, Candidate] = {}
    for found, result in entries:
        one = _candidate(store, found, result, told.get(found.fingerprint), origin)
        if one is None:
            continue
        before = newest.get(one.row.fingerprint)
        if before is None or (bool(one.run), one.when) > (bool(before.run), before.when):
            newest[one.row.fingerprint] = one
    if not newest:
        return None
    how = _how(entries[0][1])
    return Group(origin.name, how, tuple(sorted(newest.values(), key=lambda one: one.when, reverse=True)))


def _stamp(result: dict[str, Any]) -> str:
    return str((stamp_of(result) or {}).get(HASH))


def _how(result: dict[str, Any]) -> str:
    stamp = result[KEY]
    return f"{stamp.get('windows')} windows of {stamp.get('length')} tokens, {stamp.get('dtype')}"


def _candidate(
    store: Store, found: Artifact, result: dict[str, Any], told: _Told | None, origin: _Origin
) -> Candidate | None:
    """None of an origin, of a model that is gone, and of one whose figures nobody can tell any more."""
    model = found.inputs["model"]
    made = store.find("model", model) if model != found.inputs["origin"] else None
    if made is None:
        return None
    beside = origin.rows.get(_stamp(result)) or next(iter(origin.rows.values()))
    if told is not None and told.row is not None:
        row = replace(told.row, folder=str(made.folder))
        return Candidate(row, beside, result, told.when, told.run, told.recipe, told.refused)
    if origin.reference is None:
        return None
    stage = str(made.manifest.get("settings", {}).get("stage", "model"))
    row = report.make_row(1, stage, True, made.folder, model, found.fingerprint, store, origin.reference)
    when = (found.folder / MANIFEST).stat().st_mtime
    return Candidate(row, beside, result, when, refused=told.refused if told else "")


def _evaluations(store: Store) -> Iterator[Entry]:
    """All complete evaluations that say of what they are."""
    for folder in sorted((store.root / "evaluation").glob("*")):
        found = store.find("evaluation", folder.name) if FINGERPRINT.fullmatch(folder.name) else None
        if found is None or not {"model", "origin"} <= found.inputs.keys():
            continue
        try:
            result = json.loads((found.folder / "result.json").read_text())
        except (OSError, ValueError):
            raise StageFailed(f"{found.folder} holds no result; delete it to measure again") from None
        yield found, result


def _reports(home: Home) -> dict[str, _Told]:
    """Evaluation → what the newest run of each recipe says of it; of several the newest that does not refuse it."""
    found: dict[tuple[str, str], _Told] = {}
    for folder in sorted(path for path in home.runs.glob("*") if path.is_dir()):
        made = report.load(folder)
        if made is None:
            continue
        try:
            model = str(yaml.safe_load((folder / "recipe.yaml").read_text())["model"])
        except (OSError, yaml.YAMLError, KeyError, TypeError):
            model = made.rows[0].folder
        when = (folder / "journal.jsonl").stat().st_mtime if (folder / "journal.jsonl").is_file() else 0.0
        refused = _refused(made, folder)
        rows = {row.evaluation: row for row in made.rows if row.pairs is None}
        for name in refused | rows:
            found.pop((name, made.recipe), None)  # the newest comes last
            found[name, made.recipe] = _Told(
                rows.get(name), folder.name, made.recipe, model, when, refused.get(name, "")
            )
        for gate in made.gates:
            led = f"led to what did not keep {gate.rule}"
            for name in gate.given_up:  # unless another run of the recipe went on with it
                found.setdefault((name, made.recipe), _Told(None, folder.name, made.recipe, model, when, led))
    last = sorted(found.items(), key=lambda entry: (not entry[1].refused, entry[1].row is not None))
    return {name: one for (name, _), one in last}


def _refused(made: Report, folder: Path | None = None) -> dict[str, str]:
    """Evaluation → what the gates of a run say that refused it. Decisions of old runs may not name what they judged."""
    found: dict[str, dict[str, None]] = {}
    for gate in (one for one in made.gates if not one.kept):
        judged = gate.evaluation
        if not judged and gate.action == "stop":
            judged = next((row.evaluation for row in made.rows if row.step == gate.step), "")
        found.setdefault(judged, {})[gate.text] = None
        for probe in (one for one in gate.probes if not one["kept"]):
            told = f"{gate.setting}={probe['value']}: {probe['text']}"
            found.setdefault(probe.get("evaluation", ""), {})[told] = None
    if folder is not None and not (folder / "report.json").is_file():  # it was killed, maybe while it searched
        for record in journal.read(folder):
            if record["kind"] == "probe" and not record["kept"]:
                found.setdefault(record.get("evaluation", ""), {})[record["text"]] = None
    return {evaluation: "; ".join(texts) for evaluation, texts in found.items() if evaluation}
