"""Runs one job in a child process and follows its events; whatever happens here, the child does not outlive it."""

import os
from pathlib import Path
from typing import Any

from attar import fresh
from pipelines.following import Follower, Watch, follow
from pipelines.memory_evidence import MemoryEvidence
from pipelines.outcome import outcome, silence
from stages.spec import Spec

QUIET = {
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "PYTHONUNBUFFERED": "1",
    # Linux maps large tensors page by page, anew at every step; huge pages take a tenth of that time.
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # without it a GPU's matmuls are not reproducible
}


# What jobs on a CPU find loaded; a GPU must not be touched before a process is forked, so its jobs load for themselves.
MODULES = (*fresh.MATERIAL, "stages.__main__", "stages.run", "stages.measure")
WITHHELD = ("PREFECT_", "MLFLOW_")  # variables that may hold passwords, of which no stage has need


def prepare(threads: int) -> None:
    """Load in the background what jobs on a CPU will find loaded."""
    fresh.prepare(_environment(threads), MODULES)


def _environment(threads: int) -> dict[str, str]:
    """Variables of a job."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(WITHHELD)}
    return {**kept, **QUIET, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}


def events_file(folder: Path) -> Path:
    """Where the job in ``folder`` writes its events."""
    return folder / "events.jsonl"


def run_child(
    spec: Spec, folder: Path, title: str, watch: Watch = lambda event: None, patience: float = 0
) -> dict[str, Any]:
    """Run ``python -m stages`` on ``spec`` and return the result of its ``done`` event.

    Args:
        spec: the job; its ``events`` must be :func:`events_file` of ``folder``.
        folder: receives ``spec.json``, ``events.jsonl`` and ``log.txt``.
        title: how the job is called in error messages, e.g. ``3 quantize.gptq``.
        watch: gets every event as it arrives.
        patience: seconds without an event after which the child is ended, 0 for never; waiting for others does not
            count.

    Raises:
        AttarError: of the class that belongs to the child's exit code, with the child's own sentence, or
            :class:`StageFailed` with one about its end.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "spec.json"
    file.write_text(spec.model_dump_json(indent=1))
    environment = _environment(spec.machine.threads)
    on_gpu = spec.machine.device.startswith("cuda")
    if not on_gpu:
        fresh.prepare(environment, MODULES)
    follower, memory = Follower(Path(spec.events), watch), MemoryEvidence()
    log = folder / "log.txt"
    with open(log, "ab") as output:
        process = fresh.start("stages.__main__", [str(file)], environment, output, fork=not on_gpu)
    if not follow(process, follower, patience, memory.look):
        raise silence(patience, title, log)
    return outcome(process.wait(), follower.last, title, log, spec.sizes, memory.found())
