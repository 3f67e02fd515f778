"""Sweeps as processes: what stops one stops the variant that it carries out."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from pipelines import journal


def test_a_sweep_begun_in_a_scripts_background_can_be_stopped(
    document: dict[str, Any], write: Callable[[Any], Path], home: Path
) -> None:
    """A shell without job control starts what stands before & with SIGINT ignored, and so do all its children."""
    document["stages"][0]["ffn"] = {"sweep": [0.25, 0.5]}
    document["stages"].insert(1, {"stage": "finetune.full", "train_tokens": 1_000_000, "length": 64, "batch": 4})
    command = [sys.executable, "-m", "pipelines.cli", "sweep", str(write(document)), "--home", str(home), "--no-track"]
    sweep = subprocess.Popen(["sh", "-c", 'trap "" INT; exec "$@"', "sh", *command], stderr=subprocess.DEVNULL)

    def trains() -> bool:
        folders = home.glob("runs/*")
        return any(r["kind"] == "child" and r["step"] == 2 for folder in folders for r in journal.read(folder))

    while not trains():
        assert sweep.poll() is None
        time.sleep(0.1)
    started = psutil.Process(sweep.pid).children(recursive=True)
    assert started
    sweep.terminate()
    assert sweep.wait() == 130
    psutil.wait_procs(started, timeout=60)
    assert not [process for process in started if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
