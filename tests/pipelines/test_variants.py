"""Sweeps as processes: what stops one stops the variant that it carries out; and the file of their figures."""

import csv
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from rich.console import Console

from pipelines import asked_runs, html_variants, journal, variants
from pipelines.home import Home
from pipelines.recipe import Recipe
from pipelines.report import Report
from pipelines.signs import SIGNS
from pipelines.sweep import OTHERWISE, TRIALS, Sweep, Trial
from tests.pipelines.test_sweep import ROW, Runner, swept

if TYPE_CHECKING:
    from tests.pipelines.conftest import Shelf


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


@pytest.mark.parametrize(
    ("tokenizers", "signs"), [("abb", "△◆ "), ("aab", " ◆△"), ("abab", "△△△△"), ("ab", "△△"), ("aa", " ◆")]
)
def test_what_was_not_measured_alike_is_ranked_as_in_the_report(shelf: "Shelf", tokenizers: str, signs: str) -> None:
    made, trials = ((90, 0.3), (50, 0.1), (60, 0.2), (40, 0.0)), list[Trial]()
    for n, (tokenizer, (size, more)) in enumerate(zip(tokenizers, made, strict=False), start=1):
        run = f"2026-{n}-mine-0{n}"
        row = shelf.run(run, f"mine-0{n}", (f"m{n}", size * 10**6, more), tokenizer=tokenizer)[-1]
        trials.append(Trial(n, {"name": n}, "finished", run, row=row))
    folder = shelf.home.root / "sweeps" / "mine-0123abcd"
    folder.mkdir(parents=True)
    (folder / TRIALS).write_text("\n".join(json.dumps(asdict(trial)) for trial in trials) + "\n")
    found = {trial.number: kind for trial in trials if (kind := variants.kinds(trials).get(trial.number))}
    assert "".join(SIGNS[found[n]] if n in found else " " for n in range(1, len(trials) + 1)) == signs
    report = html_variants.compare(asked_runs.of_sweep(shelf.home, folder), shelf.home.store)
    apart = [trial for trial in trials if found.get(trial.number) == "apart"]
    assert [one.report.run for one in report.asked.runs if report.kind(one) == "apart"] == [one.run for one in apart]
    assert variants.best_first(trials)[len(trials) - len(apart) :] == apart  # behind all others, not by quality
    out = StringIO()
    variants.show(Console(file=out), trials)
    assert ("none is the best of them" in out.getvalue()) == (set(signs) == {"△"})
    assert ("not measured as the others" in out.getvalue()) == (set(signs) == set("△◆ "))
    assert variants.plot(trials, "mine", folder / "pareto.png").stat().st_size


class Mixed(Runner):
    """Like it, but what keeps fewer channels is measured otherwise, and so much better."""

    def carry(self, recipe: Recipe, trial: Trial) -> tuple[str, Report]:
        run, report = super().carry(recipe, trial)
        if recipe.stages[0]["ffn"] == 0.25:
            report = replace(report, rows=(replace(report.rows[0], group="otherwise", retained=0.99),))
        return run, report


def test_tpe_learns_nothing_from_what_was_measured_otherwise(document: dict[str, Any], tmp_path: Path) -> None:
    """And says so, also after another start."""
    asked = swept(document, search="tpe", runs=4)
    for _ in range(2):
        sweep, runner = Sweep(asked, Home(tmp_path)), Mixed()
        sweep.go(runner.carry, runner.foresee)
        measured = [trial for trial in sweep.trials() if trial.row]
        first, other = measured[0].row, [one for one in measured if one.row and one.row.group != measured[0].row.group]
        assert first and other and len(other) < len(measured)
        assert [trial for trial in measured if trial.text == OTHERWISE] == other
        assert [trial for trial in measured if sweep._score(trial) is None] == other
