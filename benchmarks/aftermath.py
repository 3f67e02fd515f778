"""What a kill left behind: counts over the store, the journals, MLflow, the processes and the temporary folders."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from mlflow.tracking import MlflowClient

from attar.store import MANIFEST
from pipelines import journal
from pipelines.process import alive

MARK = "ATTAR_KILL_LOOP"  # in the environment of everything that a round starts


@dataclass
class Counts:
    """What a round must not leave; all zeros is the only pass."""

    recomputed: int = 0  # stages that were finished before the kill and ran again
    different: int = 0  # final models whose bytes differ from those of the undisturbed run
    unclosed: int = 0  # MLflow runs left RUNNING, or of the run that finished and incomplete
    orphans: int = 0  # processes, and runs that count as alive without one
    temporary: int = 0  # files and folders, in the store and in the system's temporary folder
    notes: list[str] = field(default_factory=list)

    def add(self, name: str, found: Iterable[object]) -> None:
        """Count what was found, and say it."""
        for thing in found:
            setattr(self, name, getattr(self, name) + 1)
            self.notes.append(f"{name}: {thing}")

    @property
    def total(self) -> int:
        return self.recomputed + self.different + self.unclosed + self.orphans + self.temporary


def finished(home: Path) -> set[str]:
    """Fingerprints of everything complete in the store."""
    return {path.parent.name for path in home.glob(f"store/*/*/{MANIFEST}")}


def recomputed(run: Path, before: set[str]) -> list[str]:
    """Steps of a run that started a job for what was there before."""
    records = journal.read(run)
    made = {record["step"]: record["fingerprint"] for record in records if record["kind"] == "step"}
    jobs = [record["step"] for record in records if record["kind"] == "child" and record["what"] == "stage"]
    return [f"{run.name} step {step}" for step in jobs if made[step] in before]


def weights(run: Path) -> str:
    """One hash over the files of a run's last model."""
    rows = json.loads((run / "report.json").read_text())["rows"]
    folder = Path(rows[-1]["folder"])
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != MANIFEST:  # the manifest tells the hour
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def unclosed(uri: str, run: Path, steps: int) -> list[str]:
    """MLflow runs that are still RUNNING, and what the finished run lacks."""
    client = MlflowClient(tracking_uri=uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiments, max_results=5000)
    wrong = [f"{found.info.run_name} is RUNNING" for found in runs if found.info.status == "RUNNING"]
    parents = [found for found in runs if found.data.tags.get("attar.run") == run.name]
    if len(parents) != 1:
        return [*wrong, f"{len(parents)} parents of {run.name}"]
    parent = parents[0]
    if parent.info.status != "FINISHED" or "compression_ratio" not in parent.data.metrics:
        wrong.append(f"{run.name} is {parent.info.status} with {len(parent.data.metrics)} metrics")
    nested = [found for found in runs if found.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    if len(nested) != steps or any(found.info.status != "FINISHED" for found in nested):
        wrong.append(f"{run.name} has {[found.info.status for found in nested]} for {steps} stages")
    return wrong


def held(home: Path) -> list[str]:
    """Runs that count as alive; asked when all their processes are gone."""
    return [f"{folder.name} counts as alive" for folder in sorted(home.glob("runs/*")) if alive(folder)]


def marked(value: str) -> list[psutil.Process]:
    """Living processes that carry a round's mark."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == value and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def left_over(home: Path, temporary: Path) -> list[Any]:
    """Drafts, training states and temporary files that nobody will take up again.

    Torch's own cache of compiled code is none, nor are the slots: these folders are made once a user.
    """
    files = [path for path in temporary.glob("*") if not path.name.startswith(("torchinductor_", "attar-slots-"))]
    return [*home.glob("store/tmp/*"), *home.glob("store/state/*"), *files]
