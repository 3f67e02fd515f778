"""What a gate did to variants of a sweep: one that was stopped keeps its figures, and is never among the best."""

import csv
import json
import random
import subprocess
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pipelines import journal, variants
from pipelines.gates import Decision
from pipelines.home import Home
from pipelines.html_report import FILE
from pipelines.recipe import Recipe
from pipelines.report import Report
from pipelines.searching import searcher
from pipelines.sweep import Sweep, Trial
from pipelines.sweep_space import Space, read
from tests.pipelines.test_sweep import Runner, swept

BROKEN = Decision(0, "kl ≤ 0", 1, "1 prune.width", False, "stop", "kl ≤ 0 is not kept: 0.1")


class Gated(Runner):
    """Like it, but a gate stops the largest of the models, which are the best."""

    def carry(self, recipe: Recipe, trial: Trial) -> tuple[str, Report]:
        run, report = super().carry(recipe, trial)
        gates = (BROKEN,) if recipe.stages[0]["ffn"] == 0.125 else ()
        return run, Report(report.run, report.recipe, report.rows, gates)


def test_a_stopped_variant_is_an_end_with_run_figures_and_the_gates_sentence(
    document: dict[str, Any], tmp_path: Path
) -> None:
    sweep, runner = Sweep(swept(document), Home(tmp_path)), Gated()
    sweep.go(runner.carry, runner.foresee)
    stopped = [trial for trial in sweep.trials() if trial.status == "stopped"]
    assert [trial.number for trial in stopped] == [1, 2]
    assert {trial.run for trial in stopped} == {"run-1", "run-2"} and all(trial.row for trial in stopped)
    assert {trial.text for trial in stopped} == {"after 1 prune.width: kl ≤ 0 is not kept: 0.1"}
    again = Gated()
    sweep.go(again.carry, again.foresee)
    assert again.names == []  # it would end as it did
    other = Gated(data="text of today")
    sweep.go(other.carry, other.foresee)
    assert len(other.names) == 4  # of other data, it might not


def test_a_stopped_variant_counts_and_never_as_a_good_one(document: dict[str, Any], tmp_path: Path) -> None:
    sweep, runner = Sweep(swept(document, runs=2), Home(tmp_path)), Gated()
    for _ in range(2):
        assert sweep.go(runner.carry, runner.foresee).startswith("stopped after 2 variants")
    assert len(runner.names) == 2 and {sweep._score(trial) for trial in sweep.trials()} == {None}


def test_the_tables_say_what_a_stopped_variant_came_to(document: dict[str, Any], tmp_path: Path) -> None:
    sweep, runner = Sweep(swept(document), Home(tmp_path)), Gated()
    sweep.go(runner.carry, runner.foresee)
    found, out = sweep.trials(), StringIO()
    assert {row.retained for row in variants.unbeaten(found)} == {0.75}
    variants.show(Console(file=out), found)
    lines = [line for line in out.getvalue().splitlines() if "run-1" in line]
    assert len(lines) == 1 and lines[0].split()[0] == "✗" and "87.5 %" in lines[0]
    assert "✗ 01 was stopped by its gate after 1 prune.width: kl ≤ 0 is not kept: 0.1" in out.getvalue()
    with open(variants.table(found, tmp_path / "sweep.csv"), newline="") as file:
        entries = {entry["variant"]: entry for entry in csv.DictReader(file)}
    assert (entries["1"]["status"], entries["1"]["run"], entries["1"]["retained"]) == ("stopped", "run-1", "0.875")
    assert entries["1"]["text"].endswith(BROKEN.text) and "does not divide" in entries["3"]["text"]


def test_a_sweep_reads_the_run_that_a_gate_stopped(
    document: dict[str, Any], write: Callable[[Any], Path], home: Path
) -> None:
    document["stages"] = [document["stages"][0] | {"ffn": {"sweep": [0.25, 0.5]}}]
    document["gates"] = [{"measure": "kl", "max": 0}]  # no cut is without a trace
    command = [sys.executable, "-m", "pipelines.cli", "sweep", str(write(document)), "--home", str(home), "--no-track"]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    trials = json.loads(done.stdout)["trials"]
    assert [trial["status"] for trial in trials] == ["stopped", "stopped"]
    for trial in trials:
        (ended,) = [one for one in journal.read(home / "runs" / trial["run"]) if one["kind"] == "end-run"]
        assert trial["text"].startswith("after 1 prune.width: kl ≤ 0 is not kept") and trial["text"] in ended["text"]
        assert trial["row"]["kl"] > 0
        assert variants.words_of(home / "runs" / trial["run"]) == ended["text"]
    (folder,) = home.glob("sweeps/*")
    page = (folder / FILE).read_text()
    assert "no model here may be chosen" in page and trials[0]["text"] in page and "✗" in page and "★" not in page
    assert (folder / "pareto.png").is_file()


def _space(document: dict[str, Any], high: int) -> Space:
    document["stages"][0]["ffn"] = {"sweep": {"low": 1, "high": high}}
    document["seed"] = 3
    return read(document | {"sweep": {"search": "random", "runs": high}})


@pytest.mark.parametrize(("high", "before"), [(500, 250), (500, 450), (60, 40)])
def test_a_random_search_goes_on_as_if_it_had_never_been_stopped(
    document: dict[str, Any], high: int, before: int
) -> None:
    space = _space(document, high)
    whole = searcher(space)
    drawn = []
    while (values := whole.next()) is not None:
        whole.told(values, 1.0)
        drawn.append(values)
    assert len(drawn) > before
    again = searcher(space)
    for values in random.Random(0).sample(drawn[:before], before):
        again.told(values, 1.0)
    for values in drawn[before:]:
        assert again.next() == values
        again.told(values, 1.0)
    assert again.next() is None
