"""What a sweep has found stays: where its budget is spent, of another version, and under the name that it had."""

import json
from pathlib import Path
from typing import Any

import pytest

from attar.errors import BadInput
from attar.fingerprint import hash_json
from pipelines import asked_runs
from pipelines.home import Home
from pipelines.recipe import Recipe
from pipelines.sweep import Foreseen, Sweep, trials_in
from pipelines.sweep_space import read
from tests.pipelines.test_sweep import Runner, swept

ENDED = ["finished", "finished", "refused"] * 2


def test_a_spent_budget_costs_no_figures(document: dict[str, Any], tmp_path: Path) -> None:
    """All would be measured otherwise today, and there is no room for one of them."""
    home, first = Home(tmp_path), Runner()
    Sweep(swept(document), home).go(first.carry, first.foresee)
    small, other = Sweep(swept(document, minutes=0.4), home), Runner(data="text of today")
    heard: list[str] = []
    told = small.go(other.carry, other.foresee, lambda trial: heard.append(trial.status))
    assert told.startswith("stopped before variant 1, which does not fit") and heard == ["outdated"] * 4
    assert [trial.status for trial in small.trials()] == ENDED
    assert sum(trial.row is not None for trial in small.trials()) == 4
    large, again = Sweep(swept(document, minutes=9), home), Runner(data="text of today")
    large.go(again.carry, again.foresee)
    assert large.folder == small.folder and again.names == first.names
    assert [trial.status for trial in large.trials()] == ENDED


def test_what_cannot_be_planned_today_costs_no_figures(document: dict[str, Any], tmp_path: Path) -> None:
    sweep, first = Sweep(swept(document), Home(tmp_path)), Runner()
    sweep.go(first.carry, first.foresee)

    def gone(recipe: Recipe) -> Foreseen:
        raise BadInput("its text is not there")

    with pytest.raises(BadInput, match="none of the 6 variants can be planned; the first: its text is not there"):
        sweep.go(first.carry, gone)
    assert [trial.status for trial in sweep.trials()] == ENDED


def test_what_cannot_be_planned_beside_others_is_refused(document: dict[str, Any], tmp_path: Path) -> None:
    sweep, runner = Sweep(swept(document), Home(tmp_path)), Runner()
    sweep.go(runner.carry, runner.foresee)

    def narrower(recipe: Recipe) -> Foreseen:
        if recipe.stages[1]["group_size"] == 32:
            raise BadInput("32 does not divide 48")
        return runner.foresee(recipe)

    sweep.go(runner.carry, narrower)
    assert [trial.status for trial in sweep.trials()] == ["finished", "refused", "refused"] * 2


@pytest.mark.parametrize("line", ['{"values": {"a": 1}, "row": {"weight": 3}}', '{"values": {}}', "[]", "7"])
def test_a_trial_of_another_version_is_none(document: dict[str, Any], tmp_path: Path, line: str) -> None:
    home, runner = Home(tmp_path), Runner()
    sweep = Sweep(swept(document), home)
    sweep.go(runner.carry, runner.foresee)
    path = sweep.folder / "trials.jsonl"
    first = next(json.loads(line) for line in path.read_text().splitlines() if '"values"' in line)
    first["values"] |= {"stages.0.ffn": 0.5}
    first["row"] |= {"weight": 3}
    path.write_text(f"{path.read_text()}{line}\n{json.dumps(first)}\n")
    assert [trial.status for trial in trials_in(sweep.folder)] == ENDED and sweep.spent > 0
    assert asked_runs.sweeps(home) == {}  # this runner leaves no recipes behind


def test_a_first_budget_and_an_empty_block_are_the_same_sweep(document: dict[str, Any], tmp_path: Path) -> None:
    home = Home(tmp_path)
    plain = Sweep(swept(document), home).folder
    for block in ({}, None, {"minutes": 5}, {"runs": 2, "minutes": 5}):
        assert Sweep(swept(document) | {"sweep": block}, home).folder == plain
    assert Sweep(swept(document, search="random", runs=2), home).folder != plain


@pytest.mark.parametrize("hashed", [{"minutes": 5}, {}])
def test_a_sweep_of_an_older_version_goes_on_in_its_folder(
    document: dict[str, Any], tmp_path: Path, hashed: dict[str, Any]
) -> None:
    """Its folder is called after the budget, too, or after the block that is empty without it."""
    home, whole = Home(tmp_path), swept(document, minutes=5)
    begun, new = Runner(), Sweep(whole, home)
    new.go(begun.carry, begun.foresee)
    old = new.folder.rename(new.folder.with_name(f"small-{hash_json(whole | {'sweep': hashed})[:8]}"))
    (old / "sweep.yaml").unlink()
    again, sweep = Runner(), Sweep(whole, home)
    sweep.go(again.carry, again.foresee)
    assert sweep.folder == old != new.folder and again.names == []
    for more in ({"minutes": 9}, {"runs": 3}):  # and stays there, by what it keeps of what was asked for
        assert Sweep(swept(document, **more), home).folder == old
    assert Sweep(swept(document, minutes=9, seed=2), home).folder != old
    new.folder.mkdir()
    assert Sweep(whole, home).folder == new.folder


def test_a_sweep_has_a_name(document: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match=r"^name=7 is no text; write one, such as name: sweep"):
        read(swept(document) | {"name": 7})
    nameless = swept(document)
    nameless.pop("name")
    with pytest.raises(BadInput, match=r"^the recipe has no name; write one"):
        read(nameless)
