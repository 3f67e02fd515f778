"""Runs one job in a child process and follows its events; whatever happens here, the child does not outlive it."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

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
    threads = str(spec.machine.threads)
    environment = {**os.environ, **QUIET, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    environment["ATTAR_PARENT"] = str(os.getpid())
    follower, memory = Follower(Path(spec.events), watch), MemoryEvidence()
    log = folder / "log.txt"
    with open(log, "ab") as output:
        # -P: a folder named "stages" or "json.py" where the user stands must not be imported.
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "stages", str(file)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
    if not follow(process, follower, patience, memory.look):
        raise silence(patience, title, log)
    return outcome(process.returncode, follower.last, title, log, spec.sizes, memory.found())
