"""Sweeps as processes: what stops one stops the variant that it carries out; and the file of their figures."""

import csv
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from pipelines import journal, variants
from pipelines.sweep import Trial
from tests.pipelines.test_sweep import ROW


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


def test_a_cell_of_the_file_is_one_figure(tmp_path: Path) -> None:
    rows = [replace(ROW, retained=0.4, parts={"ffn": 600}), replace(ROW, batches={"4": {"p95": 0.25}}), None]
    trials = [Trial(n, {"ffn": n}, "finished" if row else "failed", f"r{n}", row=row) for n, row in enumerate(rows, 1)]
    with open(variants.table(trials, tmp_path / "sweep.csv"), newline="") as file:
        best, other, failed = csv.DictReader(file)
    assert (best["variant"], best["batch.4.p95"], best["bytes.ffn"]) == ("2", "0.25", "")
    assert (other["variant"], other["batch.4.p95"], other["bytes.ffn"]) == ("1", "", "600.0")
    assert failed["status"] == "failed" and not failed["retained"]
    assert "{" not in (tmp_path / "sweep.csv").read_text()
