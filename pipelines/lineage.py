"""How a model of a home came to be: its run, its stages and their manifests, its origin, its measures."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attar.errors import BadInput
from attar.sources import HUB_ID
from attar.store import Artifact, Store
from pipelines import recipe_yaml, report
from pipelines.gates import Decision
from pipelines.home import Home
from pipelines.inventory import FINGERPRINT
from pipelines.report import Row

IMPORT = "import"  # the stage of a model that was converted, in its manifest
_CACHED = re.compile(r"models--(.+)")  # a folder of the hub's cache
_BEGUN = re.compile(r"[0-9a-f]{6,}")  # of a fingerprint


@dataclass(frozen=True)
class Made:
    """What one stage made."""

    label: str  # "2 prune.width"
    manifest: dict[str, Any]  # empty where the store has it no more


@dataclass(frozen=True)
class Start:
    """A model that others were made of: as a recipe names it, and the folder that it opens from."""

    spec: str
    folder: Path


@dataclass(frozen=True)
class Lineage:
    """A model of the store and what is known of it; without a run nobody has measured it."""

    artifact: Artifact
    steps: tuple[Made, ...]
    origin: Start
    base: Start | None  # what the very weights began as, such as a student; None where they began at random
    run: str | None = None
    name: str = ""  # of the recipe
    recipe: dict[str, Any] | None = None
    rows: tuple[Row, ...] = ()  # of the run's report, the origin's first, this model's last
    result: dict[str, Any] | None = None  # of the evaluation of this model
    gates: tuple[Decision, ...] = ()  # what those of the run say of this model

    @property
    def gated(self) -> str:
        """Whether anybody has said that the model is good enough, in a sentence; empty where nobody was asked."""
        if not self.rows:
            return ""
        if broken := [one.text for one in self.gates if not one.kept]:
            return f"Its own gate refuses it: {'; '.join(broken)}."
        if self.gates:
            return f"Its gates, judged on it: {'; '.join(one.text for one in self.gates)}."
        if (self.recipe or {}).get("gates"):
            return "No gate of its recipe was judged on it."
        return "Its recipe has no gates, so nobody has said what is good enough."

    @property
    def label(self) -> str:
        """How sentences call the model."""
        return f"{self.rows[-1].label} of run {self.run}" if self.rows else f"model {self.artifact.fingerprint}"


def find(home: Home, name: str, step: int | None = None) -> Lineage:
    """The model that a run's id (its last model, or that of a step), a fingerprint or the beginning of one names.

    Raises:
        BadInput: there is no such run, step or model, or several models begin so.
    """
    if _BEGUN.fullmatch(name) and not (home.runs / name).is_dir():
        name = _whole(home, name)
    if not FINGERPRINT.fullmatch(name):
        return of_run(home, home.run_folder(name), step)
    if step is not None:
        raise BadInput(f"{name} is one model already; --step chooses among those of a run")
    artifact = home.store.find("model", name)
    if artifact is None:
        raise BadInput(f"there is no complete model {name} in {home.store.root}; attar show names those of a run")
    for folder in sorted(home.runs.glob("*"), reverse=True):
        found = report.load(folder) if folder.is_dir() else None
        row = next((row for row in found.rows if row.fingerprint == name and row.step), None) if found else None
        if row is not None:
            return of_run(home, folder, row.step)
    above = _above(artifact, home.store)
    converted = above[0].get("stage") == IMPORT
    made = enumerate(above[1:] if converted else above, start=1)
    steps = tuple(Made(f"{index} {one.get('stage')}", one) for index, one in made)
    origin = _start(above, home.store)
    return Lineage(artifact, steps, origin, _base(above, home.store, origin))


def _whole(home: Home, begun: str) -> str:
    """The fingerprint of the one model that begins so."""
    if FINGERPRINT.fullmatch(begun):
        return begun
    known = (folder.name for folder in (home.store.root / "model").glob(f"{begun}*"))
    found = sorted(name for name in known if FINGERPRINT.fullmatch(name))
    if not found:
        raise BadInput(f"neither a run is called {begun} in {home.root} nor does a model's fingerprint begin so")
    if len(found) > 1:
        raise BadInput(f"the fingerprints of {len(found)} models begin with {begun}; give more of {' or '.join(found)}")
    return found[0]


def of_run(home: Home, folder: Path, step: int | None = None) -> Lineage:
    """The last model of a run, or that of a step."""
    found = report.load(folder)
    if found is None:
        raise BadInput(f"the run {folder.name} has measured nothing yet, so there is no model of it to hand out")
    row = found.final if step is None else next((row for row in found.rows if row.step == step), None)
    if row is None or not row.step:
        made = ", ".join(one.label for one in found.rows if one.step and one.pairs is None)
        asked = f"step {step}" if row is None else "step 0, the origin, which is its own model as it was"
        raise BadInput(f"the run {folder.name} made nothing in {asked}; its models: {made or 'none yet'}")
    if row.pairs is not None:
        raise BadInput(f"{row.label} of the run {folder.name} made a dataset and no model; name another --step")
    artifact = home.store.find("model", row.fingerprint)
    if artifact is None:
        raise BadInput(
            f"the model of {row.label} of the run {folder.name} is no longer complete in the store; "
            f"run the recipe again: {folder / 'recipe.yaml'}"
        )
    rows = tuple(one for one in found.rows if one.step <= row.step)
    recipe = _recipe(folder) or {}
    origin = Start(str(recipe.get("model", rows[0].folder)), Path(rows[0].folder))
    return Lineage(
        artifact=artifact,
        steps=tuple(Made(one.label, _manifest(one, home.store)) for one in rows if one.step),
        origin=origin,
        base=_base(_above(artifact, home.store), home.store, origin),
        run=folder.name,
        name=found.recipe,
        recipe=recipe or None,
        rows=rows,
        result=_result(row, home.store),
        gates=_gates(found.gates, row),
    )


def hub_id(folder: Path) -> str | None:
    """The hub's name of a model that lies in the hub's cache; None of any other folder."""
    inside = _CACHED.fullmatch(folder.parent.parent.name) if folder.parent.name == "snapshots" else None
    name = inside[1].replace("--", "/", 1) if inside else ""
    return name if HUB_ID.fullmatch(name) and name.isascii() else None


def _above(artifact: Artifact, store: Store) -> list[dict[str, Any]]:
    """Manifests of a model and of what its weights came from, the first of them first."""
    found, seen = [artifact.manifest], {artifact.fingerprint}
    while source := found[0].get("source"):
        above = store.find("model", str(source.get("fingerprint"))) if source.get("fingerprint") not in seen else None
        if above is None:
            break
        seen.add(above.fingerprint)
        found.insert(0, above.manifest)
    return found


def _start(above: list[dict[str, Any]], store: Store) -> Start:
    """What the first of these manifests was made of, or is, where it is of a model that was converted."""
    first, source = above[0], above[0].get("source")
    folder = Path(source["folder"]) if source else store.folder("model", first["fingerprint"])
    return Start(str(first.get("spec") or hub_id(folder) or folder), folder)


def _base(above: list[dict[str, Any]], store: Store, origin: Start) -> Start | None:
    """Where the weights began: with a student of another name that model, with a fresh one nowhere."""
    if any(manifest.get("settings", {}).get("student") == "fresh" for manifest in above):
        return None
    if "source" not in above[0] and above[0].get("stage") != IMPORT:  # made by nothing that says of what
        return origin
    start = _start(above, store)
    # A model of a store that is not there any more is none that anything began as.
    lost = "source" in above[0] and start.folder.parent.name == "model" and FINGERPRINT.fullmatch(start.folder.name)
    return origin if lost or start.folder == origin.folder else start


def _recipe(folder: Path) -> dict[str, Any] | None:
    """What was run: the recipe, with what gates have changed in it."""
    for name in ("as-run.yaml", "recipe.yaml"):
        if (folder / name).is_file():
            return recipe_yaml.parse(recipe_yaml.read_text(folder / name), f"the recipe {folder / name}")
    return None


def _gates(decisions: Sequence[Decision], row: Row) -> tuple[Decision, ...]:
    """The last word of each gate at a row; one that bisected spoke of a model that another took the place of."""
    last = {one.gate: one for one in decisions if one.step == row.step}
    return tuple(one for one in last.values() if one.action != "bisect")


def _manifest(row: Row, store: Store) -> dict[str, Any]:
    made = store.find("dataset" if row.pairs is not None else "model", row.fingerprint)
    return made.manifest if made else {"stage": row.name}


def _result(row: Row, store: Store) -> dict[str, Any] | None:
    measured = store.find("evaluation", row.evaluation)
    try:
        found = json.loads((measured.folder / "result.json").read_text()) if measured else None
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
