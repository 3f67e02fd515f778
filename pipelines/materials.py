"""The models a recipe names, resolved and, where a conversion is needed, imported into the store."""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

from attar import machine, sources
from attar.errors import BadInput
from attar.facts import ModelFacts
from pipelines.child import events_file, run_child
from pipelines.following import Watch
from pipelines.home import Home
from stages.spec import ImportSpec, Machine, ModelRef


@dataclass(frozen=True)
class Material:
    """A model that can be planned with, and run when its facts say that its weights are there."""

    spec: str
    ref: ModelRef
    facts: ModelFacts


def resolve_machine(device: str, dtype: str) -> Machine:
    """Device and dtype that ``auto`` stands for here; a device that is not there is a :class:`BadInput`."""
    found = machine.resolve_device(device)
    return Machine.model_validate(
        {"device": found, "dtype": machine.resolve_dtype(dtype, found), "threads": machine.threads()}
    )


def open_model(spec: str, task: str, home: Home, complete: bool, watch: Watch = lambda event: None) -> Material:
    """Resolve ``spec`` and import it if it is no model folder yet.

    Args:
        complete: all weights must be there (to run); otherwise a config will do (to plan), and a hub model's
            weights are not downloaded.
    """
    source = sources.resolve(spec, home.root)
    if source.import_needed and (complete or not (source.folder / "config.json").is_file()):
        _import(spec, source.fingerprint, home, watch)
        source = sources.resolve(spec, home.root)
    facts = source.facts(task)
    if complete:
        _require_weights(spec, facts)
    return Material(spec, ModelRef(folder=str(source.folder), fingerprint=source.fingerprint), facts)


def require_obtainable(spec: str, task: str, home: Home) -> None:
    """Raise :class:`BadInput` if the weights of ``spec`` are not here and nowhere to be had from."""
    source = sources.resolve(spec, home.root)
    if not source.import_needed:
        _require_weights(spec, source.facts(task))


def _require_weights(spec: str, facts: ModelFacts) -> None:
    if not facts.stored:
        raise BadInput(f"the model {spec} has a config.json and no weights: it can be planned, not run")


def _new_folder(parent: Path) -> Path:
    """A folder for one import's events and log: another run may import the same model at the same time."""
    try:
        parent.mkdir(parents=True, exist_ok=True)
        return Path(mkdtemp(prefix=time.strftime("%Y%m%d-%H%M%S-", time.gmtime()), dir=parent))
    except OSError as error:
        raise BadInput(f"{parent} cannot be written ({error.strerror}); choose another folder with --home") from None


def _import(spec: str, fingerprint: str, home: Home, watch: Watch) -> None:
    folder = _new_folder(home.imports / fingerprint)
    job = ImportSpec(
        home=str(home.root),
        events=str(events_file(folder)),
        machine=resolve_machine("cpu", "auto"),
        fingerprint=fingerprint,
        who=f"process {os.getpid()}, which imports {spec},",
        spec=spec,
    )
    run_child(job, folder, f"importing {spec}", watch)
