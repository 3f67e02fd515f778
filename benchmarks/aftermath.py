"""What a kill left behind: counts over the store, the journals, MLflow, the processes and the temporary folders."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import psutil

from attar.store import MANIFEST
from pipelines.journal import Record
from pipelines.process import alive

MARK = "ATTAR_KILL_LOOP"  # in the environment of everything that a round starts

Job = tuple[int, str]  # a step, and "stage" or "measure"


@dataclass
class Counts:
    """What a round must not leave; all zeros is the only pass."""

    recomputed: int = 0  # stages and measurements that were finished before the strike and ran again
    moved: int = 0  # fingerprints that differ from those of the undisturbed run
    different: int = 0  # final models whose bytes differ from those of the undisturbed run
    unclosed: int = 0  # MLflow runs left RUNNING, or of the run that finished and incomplete; open runs of Prefect
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
        return sum(getattr(self, name) for name in COUNTED)


COUNTED = tuple(found.name for found in fields(Counts) if found.type is int)


def finished(home: Path) -> set[str]:
    """Fingerprints of everything complete in the store."""
    return {path.parent.name for path in home.glob(f"store/*/*/{MANIFEST}")}


def identities(records: Iterable[Record]) -> dict[Job, str]:
    """Fingerprints of what a run took for the results of its jobs, whether it ran them or found them."""
    found: dict[Job, str] = {}
    for record in records:
        if record["kind"] == "step":
            found[record["step"], "stage"] = record["fingerprint"]
        elif record["kind"] == "measured":
            found[record["step"], "measure"] = record["row"]["evaluation"]
    return found


def recomputed(records: Sequence[Record], before: Set[str], since: float, reference: Mapping[Job, str]) -> list[str]:
    """Jobs that a run began for nothing.

    Args:
        records: the run's journal.
        before: fingerprints of what was there at the time ``since``: no job for it may begin later.
        since: seconds as journals tell them.
        reference: identities of the undisturbed run. What was there under them counts, too: a job whose fingerprint
            has moved since is work done again all the same.
    """
    own, seen, wrong = identities(records), set[Job](), []
    for record in records:
        if record["kind"] != "child":
            continue
        job = record["step"], record["what"]
        there = before & {own.get(job, ""), reference.get(job, "")}
        if job in seen or (there and record["time"] > since):
            wrong.append(f"{job[1]} of step {job[0]}")
        seen.add(job)
    return wrong


def moved(records: Iterable[Record], reference: Mapping[Job, str]) -> list[str]:
    """Results that go by another fingerprint than in the undisturbed run."""
    return [
        f"{what} of step {step} is {found} and not {reference.get((step, what))}"
        for (step, what), found in identities(records).items()
        if reference.get((step, what)) != found
    ]


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
    from mlflow.tracking import MlflowClient

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
