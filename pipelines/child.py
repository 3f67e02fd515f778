"""Runs one job in a child process and follows its events; whatever happens here, the child does not outlive it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from attar import events
from attar.errors import BY_EXIT_CODE, StageFailed
from attar.events import Event
from stages.spec import Spec

POLL_SECONDS = 0.1
GRACE_SECONDS = 15.0  # between asking a child to stop and killing its group
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

Watch = Callable[[Event], None]


def events_file(folder: Path) -> Path:
    """Where the job in ``folder`` writes its events."""
    return folder / "events.jsonl"


def run_child(spec: Spec, folder: Path, title: str, watch: Watch = lambda event: None) -> dict[str, Any]:
    """Run ``python -m stages`` on ``spec`` and return the result of its ``done`` event.

    Args:
        spec: the job; its ``events`` must be :func:`events_file` of ``folder``.
        folder: receives ``spec.json``, ``events.jsonl`` and ``log.txt``.
        title: how the job is called in error messages, e.g. ``3 quantize.gptq``.
        watch: gets every event as it arrives.

    Raises:
        AttarError: of the class that belongs to the child's exit code, with the child's own sentence.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "spec.json"
    file.write_text(spec.model_dump_json(indent=1))
    threads = str(spec.machine.threads)
    environment = {**os.environ, **QUIET, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    environment["ATTAR_PARENT"] = str(os.getpid())
    follower = _Follower(Path(spec.events), watch)
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
    try:
        while process.poll() is None:
            follower.follow()
            time.sleep(POLL_SECONDS)
    finally:
        _end(process)
        follower.follow()
    return _outcome(process.returncode, follower, title, log)


class _Follower:
    """Reads new events and keeps the last word."""

    def __init__(self, path: Path, watch: Watch) -> None:
        self.path = path
        self.watch = watch
        self.offset = path.stat().st_size if path.exists() else 0
        self.last: Event = {}

    def follow(self) -> None:
        new, self.offset = events.read(self.path, self.offset)
        for event in new:
            self.last = event
            self.watch(event)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Stop the child's whole process group: first politely, so that training is saved, then for good."""
    if process.poll() is None:
        _signal(process.pid, signal.SIGTERM)
        try:
            process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            pass
        finally:  # also at a second Ctrl-C, which ends the grace
            _signal(process.pid, signal.SIGKILL)
            process.wait()
    else:
        _signal(process.pid, signal.SIGKILL)  # helpers it may have left behind


def _signal(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _outcome(code: int, follower: _Follower, title: str, log: Path) -> dict[str, Any]:
    if code == 0 and follower.last.get("kind") == "done":
        return dict(follower.last["result"])
    if follower.last.get("kind") == "error" and code in BY_EXIT_CODE:
        raise BY_EXIT_CODE[code](_titled(follower.last["text"], title))
    if code < 0:
        name = signal.Signals(-code).name
        advice = (
            "the system probably ran out of memory: close other programs, or lower batch, length or windows"
            if name == "SIGKILL"
            else f"see {log}"
        )
        raise StageFailed(f"{title} was killed by {name}; {advice}, then run the same command again")
    raise StageFailed(f"{title} broke with exit code {code}: {_last_line(log)} (all of it: {log})")


def _titled(text: str, title: str) -> str:
    """The child's sentence, with the name of the stage in front unless it says it itself."""
    return text if title.split()[-1] in text else f"{title}: {text}"


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else "it said nothing"
