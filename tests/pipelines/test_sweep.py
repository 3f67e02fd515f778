"""Sweeps: what they vary, in which order, and that they go on where they were."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from attar.errors import BadInput, Cancelled, StageFailed
from attar.fingerprint import hash_json
from pipelines import cli, recipe_yaml, sweep_cost
from pipelines.front import front
from pipelines.home import Home
from pipelines.recipe import Recipe, load, validate
from pipelines.report import Report, Row
from pipelines.searching import searcher
from pipelines.sweep import Foreseen, Sweep, Trial
from pipelines.sweep_space import read
from pipelines.sweep_words import ORDER

CONF = Path(__file__).parents[2] / "conf"
ROW = Row(
    1, "quantize.rtn", False, "f", "e", "/m", 10, 100, 2.0, 3.0, 4.0, 0.5, 0.0, 0.1, 0.9, None, None, 1.0, None,
    group="alike",
)  # fmt: skip


def swept(document: dict[str, Any], **block: Any) -> dict[str, Any]:
    """The small recipe with two dimensions, and a search block."""
    document["stages"][0]["ffn"] = {"sweep": [0.125, 0.25]}
    document["stages"][1]["group_size"] = {"sweep": [16, 32, 64]}
    return document | ({"sweep": block} if block else {})


class Runner:
    """Carries variants out in no time: the model that keeps more channels is larger and better."""

    def __init__(self, fails: tuple[int, ...] = (), stops_at: int | None = None, data: str = "text") -> None:
        self.fails = fails
        self.data = data
        self.stops_at = stops_at
        self.names: list[str] = []

    def carry(self, recipe: Recipe, trial: Trial) -> tuple[str, Report]:
        if trial.number == self.stops_at:
            raise Cancelled("stopped")
        self.names.append(recipe.name)
        if trial.number in self.fails:
            raise StageFailed("it broke")
        ffn = recipe.stages[0]["ffn"]
        evaluation = self.foresee(recipe).evaluation
        row = replace(ROW, bytes=round(100 * (1 - ffn)), retained=1 - ffn, evaluation=evaluation)
        return f"run-{trial.number}", Report("run", recipe.name, (row,))

    def foresee(self, recipe: Recipe) -> Foreseen:
        """Pruned once for all group sizes; group sizes of 64 are impossible."""
        ffn, size = recipe.stages[0]["ffn"], recipe.stages[1]["group_size"]
        if size == 64:
            raise BadInput("64 does not divide 96")
        inputs = {"model": f"{ffn} {size} of {self.data}", "data.other": self.data}
        return Foreseen(hash_json(inputs), inputs, {f"pruned {ffn}": 20.0, f"packed {ffn} {size}": 10.0})


def test_a_grid_is_every_combination(document: dict[str, Any]) -> None:
    space = read(swept(document))
    combinations = [tuple(values.values()) for values in space.grid()]
    assert combinations == [(f, g) for f in (0.125, 0.25) for g in (16, 32, 64)]
    variant = space.assign({"stages.0.ffn": 0.25, "stages.1.group_size": 32}, 4)
    assert (variant["stages"][0]["ffn"], variant["stages"][1]["group_size"]) == (0.25, 32)
    assert variant["name"] == "small-04"


def test_orders_move_whole_stages(document: dict[str, Any]) -> None:
    space = read(swept(document, orders=[[0, 1], [1, 0], [1]]))
    assert len(list(space.grid())) == 18
    variant = space.assign({"stages.0.ffn": 0.125, "stages.1.group_size": 16, ORDER: [1, 0]}, 1)
    assert [stage["stage"] for stage in variant["stages"]] == ["quantize.rtn", "prune.width"]
    assert variant["stages"][1]["ffn"] == 0.125


def test_ranges_are_lists_with_a_step_and_continuous_without(document: dict[str, Any]) -> None:
    document["stages"][0]["ffn"] = {"sweep": {"low": 0.1, "high": 0.4, "step": 0.1}}
    assert [values["stages.0.ffn"] for values in read(document).grid()] == [0.1, 0.2, 0.3, 0.4]
    document["stages"][0]["ffn"] = {"sweep": {"low": 0.001, "high": 0.5, "log": True}}
    with pytest.raises(BadInput, match=r"stages\.0\.ffn: a grid needs the range's step"):
        list(read(document).grid())
    drawn = searcher(read(document | {"sweep": {"search": "random", "runs": 3}}))
    values = [proposed["stages.0.ffn"] for proposed in iter(drawn.next, None) for _ in [drawn.told(proposed, None)]][:3]
    assert all(0.001 <= value <= 0.5 for value in values)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"sweep": {"serach": "grid"}}, "sweep: unknown key 'serach'; did you mean 'search'"),
        (
            {"sweep": {"orders": [[0, 5]]}},
            r"the order .* not possible; .* each once at most: 0 \(prune.width\), 1 \(quantize.rtn\)",
        ),
        (
            {"sweep": {"orders": [[1, 0]]}, "gates": [{"measure": "kl", "max": 1, "after": "stages.0"}]},
            "orders move the stages, which gates name by their places",
        ),
        ({"sweep": ["tpe"]}, "sweep: holds"),
        ({"sweep": {"search": "tpe", "seed": 3}}, "sweep: search=tpe has no end of its own; give runs or minutes"),
        ({"sweep": {"search": "random"}}, "sweep: search=random has no end of its own"),
        ({"seed": {"sweep": []}}, "seed: sweep needs a list of different values"),
        ({"seed": {"sweep": {"low": 3, "high": 1}}}, "seed: sweep: low=3 is not below high=1"),
        ({"seed": {"sweep": [1, 2], "also": 1}}, "seed: 'also' stands beside sweep"),
        ({"measure": {"windows": {"sweep": [4, 8]}}}, "measure.windows: a sweep may not vary measure"),
    ],
)
def test_what_cannot_be_swept_is_a_sentence(document: dict[str, Any], change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        read(document | change)


@pytest.mark.parametrize("given", ["60 MB", "60MB", "60_000 kB", 60_000_000])
def test_a_size_is_written_as_in_a_gate(document: dict[str, Any], given: str | int) -> None:
    assert read(swept(document, max_bytes=given)).search.max_bytes == 60_000_000
    with pytest.raises(BadInput, match=r"sweep: max_bytes='60 XB': is no limit of bytes; possible: .* MB"):
        read(swept(document, max_bytes="60 XB"))


def test_a_recipe_without_holes_is_no_sweep(document: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match=r"nothing in the recipe is swept; write \{sweep:"):
        read(document)


def test_a_failed_variant_does_not_stop_the_rest_and_is_tried_again(document: dict[str, Any], tmp_path: Path) -> None:
    sweep = Sweep(swept(document), Home(tmp_path))
    first = Runner(fails=(2,))
    assert sweep.go(first.carry, first.foresee) == "every variant has been there"
    states = [trial.status for trial in sweep.trials()]
    assert states == ["finished", "failed", "refused", "finished", "finished", "refused"]
    assert "does not divide" in sweep.trials()[2].text
    again = Runner()
    sweep.go(again.carry, again.foresee)
    assert again.names == ["small-02"]
    assert [trial.status for trial in sweep.trials()].count("finished") == 4


def test_what_was_stopped_goes_on_there(document: dict[str, Any], tmp_path: Path) -> None:
    stopped = Runner(stops_at=4)
    with pytest.raises(Cancelled):
        Sweep(swept(document), Home(tmp_path)).go(stopped.carry, stopped.foresee)
    going_on = Runner()
    Sweep(swept(document), Home(tmp_path)).go(going_on.carry, going_on.foresee)
    assert stopped.names + going_on.names == ["small-01", "small-02", "small-04", "small-05"]


@pytest.mark.parametrize(("block", "count"), [({"runs": 2}, 2), ({"minutes": 0.6}, 4), ({"minutes": 0.4}, 0)])
def test_the_budget_ends_it(document: dict[str, Any], tmp_path: Path, block: dict[str, Any], count: int) -> None:
    runner = Runner()
    sweep = Sweep(swept(document, **block), Home(tmp_path))
    told = sweep.go(runner.carry, runner.foresee)
    assert len(runner.names) == count
    assert told == "every variant has been there" if count == 4 else told.startswith("stopped")


@pytest.mark.parametrize("search", ["random", "tpe"])
def test_a_search_repeats_nothing_and_is_the_same_twice(document: dict[str, Any], tmp_path: Path, search: str) -> None:
    tried = []
    for name in ("one", "two"):
        runner = Runner()
        Sweep(swept(document, search=search, runs=3, seed=1), Home(tmp_path / name)).go(runner.carry, runner.foresee)
        trials = Sweep(swept(document, search=search, runs=3, seed=1), Home(tmp_path / name)).trials()
        assert sum(trial.status == "finished" for trial in trials) == 3
        assert len({json.dumps(trial.values) for trial in trials}) == len(trials)
        tried.append([trial.values for trial in trials])
    assert tried[0] == tried[1]


def test_tpe_goes_where_it_is_good(document: dict[str, Any], tmp_path: Path) -> None:
    """A choice at random is near the best end one time in ten; of the last twenty, a quarter and more are."""
    document["stages"][0]["ffn"] = {"sweep": {"low": 0.0, "high": 0.9}}
    document["sweep"] = {"search": "tpe", "runs": 40}
    sweep = Sweep(document, Home(tmp_path))
    runner = Runner()
    sweep.go(runner.carry, runner.foresee)
    late = [trial.values["stages.0.ffn"] for trial in sweep.trials()[20:]]
    assert sum(value < 0.09 for value in late) > 5


def test_a_budget_counts_over_all_starts_and_a_larger_one_goes_on(
    document: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two variants that take half a minute each, one of them stopped, leave no room in a minute for a third."""
    clock = [0.0]
    monkeypatch.setattr("pipelines.sweep.time.monotonic", lambda: clock[0])

    class Slow(Runner):
        def carry(self, recipe: Recipe, trial: Trial) -> tuple[str, Report]:
            clock[0] += 30
            return super().carry(recipe, trial)

    def start(minutes: float, **more: Any) -> tuple[Sweep, Slow, str]:
        sweep, runner = Sweep(swept(document, minutes=minutes), Home(tmp_path)), Slow(**more)
        try:
            return sweep, runner, sweep.go(runner.carry, runner.foresee)
        except Cancelled:
            return sweep, runner, "cancelled"

    first, _, told = start(1, stops_at=2)
    assert (told, first.spent, first.budget) == ("cancelled", 60, "0 of 1 minutes are left")
    assert [one.seconds for one in sweep_cost.expected(first, Runner().foresee)] == [0.0]
    again, runner, told = start(1)
    assert runner.names == [] and told.startswith("stopped before variant 2, which does not fit: 0 of 1 minutes")
    larger, runner, told = start(9)
    assert larger.folder == again.folder and runner.names == ["small-02", "small-04", "small-05"]
    assert told == "every variant has been there" and larger.spent == 150


def test_a_sweep_keeps_what_was_asked_for(document: dict[str, Any], tmp_path: Path) -> None:
    """So that it can be made again from its folder alone; as it was asked for last."""
    for block in ({"minutes": 5}, {"minutes": 9}):
        sweep = Sweep(swept(document, **block), Home(tmp_path))
        sweep.go(Runner().carry, Runner().foresee)
        kept = recipe_yaml.parse((sweep.folder / "sweep.yaml").read_text(), "what is kept")
        assert kept == swept(document, **block) and Sweep(kept, Home(tmp_path)).folder == sweep.folder
    other = Sweep(swept(document, minutes=5, seed=2), Home(tmp_path))
    assert other.folder != sweep.folder


def test_two_processes_do_not_go_on_with_one_sweep(document: dict[str, Any], tmp_path: Path) -> None:
    sweep = Sweep(swept(document), Home(tmp_path))
    with sweep._alone(), pytest.raises(BadInput, match="going on already"):
        sweep.go(Runner().carry, Runner().foresee)


def test_no_point_of_the_front_is_beaten() -> None:
    rows = [replace(ROW, bytes=b, retained=r) for b, r in ((90, 0.9), (50, 0.8), (60, 0.7), (40, 0.5), (50, 0.6))]
    assert [(row.bytes, row.retained) for row in front(rows)] == [(40, 0.5), (50, 0.8), (90, 0.9)]


def test_the_shipped_sweep_is_valid() -> None:
    """Five temperatures in four orders; every variant is a recipe."""
    space = read(recipe_yaml.parse(recipe_yaml.read_text(CONF / "sweep.yaml"), "conf/sweep.yaml"))
    variants = [validate(space.assign(values, number)) for number, values in enumerate(space.grid())]
    assert len({json.dumps(variant.stages) for variant in variants}) == 20


def test_a_sweep_is_run_by_its_own_command() -> None:
    with pytest.raises(BadInput, match="run it with: attar sweep"):
        load(CONF / "sweep.yaml")


def test_a_key_with_dots_can_be_swept(document: dict[str, Any]) -> None:
    document["stages"][1]["bits_of"] = {"layers.0.*": {"sweep": [4, 8]}}
    space = read(document)
    variants = [space.assign(values, 1) for values in space.grid()]
    assert [variant["stages"][1]["bits_of"] for variant in variants] == [{"layers.0.*": 4}, {"layers.0.*": 8}]


def test_a_line_that_a_kill_cut_short_is_tried_again(document: dict[str, Any], tmp_path: Path) -> None:
    sweep = Sweep(swept(document), Home(tmp_path))
    first = Runner()
    sweep.go(first.carry, first.foresee)
    trials = sweep.folder / "trials.jsonl"
    trials.write_text(trials.read_text().rstrip()[:-20])
    again = Runner()
    sweep.go(again.carry, again.foresee)
    assert len(sweep.trials()) == 6 and [trial.status for trial in sweep.trials()].count("finished") == 4


@pytest.mark.parametrize("search", ["random", "tpe"])
def test_a_search_whose_variants_all_fail_ends(document: dict[str, Any], tmp_path: Path, search: str) -> None:
    document["stages"][0]["ffn"] = {"sweep": {"low": 0.1, "high": 0.9}}
    runner = Runner(fails=tuple(range(1, 100)))
    told = Sweep(document | {"sweep": {"search": search, "runs": 3}}, Home(tmp_path)).go(runner.carry, runner.foresee)
    assert len(runner.names) == 3 and told.startswith("stopped after 3 variants")


def test_what_was_finished_is_run_again_when_it_would_be_measured_otherwise(
    document: dict[str, Any], tmp_path: Path
) -> None:
    """And says why; what did not change stays."""
    home = Home(tmp_path)
    first = Runner(stops_at=5)
    with pytest.raises(Cancelled):
        Sweep(swept(document), home).go(first.carry, first.foresee)
    draft = home.store.draft("evaluation", Runner().foresee(_recipe(document, 0.125, 16)).evaluation)
    inputs = Runner().foresee(_recipe(document, 0.125, 16)).inputs
    home.store.commit("evaluation", draft.name.removeprefix("evaluation-"), draft, {"inputs": dict(inputs)})

    other, heard = Runner(stops_at=2, data="text of today"), list[Trial]()
    sweep = Sweep(swept(document), home)
    with pytest.raises(Cancelled):
        sweep.go(other.carry, other.foresee, heard.append)
    told = [(trial.number, trial.status, trial.text) for trial in heard]
    assert told[:2] == [
        (1, "outdated", "runs again, for what it is measured on is not what it was (other)"),
        (2, "outdated", "runs again, for what it would be made of and measured with is not what it was"),
    ]
    # Nothing of before is ranked with what is new, also where this is stopped.
    assert [trial.status for trial in sweep.trials()] == ["finished", "outdated", "refused", "outdated"]
    again = Runner(data="text of today")
    sweep.go(again.carry, again.foresee)
    assert other.names + again.names == ["small-01", "small-02", "small-04", "small-05"]
    last = Runner(data="text of today")
    sweep.go(last.carry, last.foresee)
    assert last.names == []


def _recipe(document: dict[str, Any], ffn: float, size: int) -> Recipe:
    space = read(swept(document))
    return validate(space.assign({"stages.0.ffn": ffn, "stages.1.group_size": size}, 1))


@pytest.mark.parametrize("search", ["random", "tpe"])
def test_a_search_runs_again_what_is_outdated(document: dict[str, Any], tmp_path: Path, search: str) -> None:
    document["stages"][0]["ffn"] = {"sweep": {"low": 0.1, "high": 0.9}}
    document["sweep"] = {"search": search, "runs": 7}
    first, again = Runner(), Runner(data="text of today")
    for runner in (first, again):
        Sweep(document, Home(tmp_path)).go(runner.carry, runner.foresee)
    trials = Sweep(document, Home(tmp_path)).trials()
    assert [trial.status for trial in trials] == ["finished"] * 7 and first.names == again.names


def test_a_record_that_says_nothing_of_its_plan_is_judged_by_its_row(document: dict[str, Any], tmp_path: Path) -> None:
    sweep, runner = Sweep(swept(document), Home(tmp_path)), Runner()
    sweep.go(runner.carry, runner.foresee)
    path = sweep.folder / "trials.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines() if line]
    kept = [{name: value for name, value in one.items() if name not in ("evaluation", "label")} for one in records]
    path.write_text("".join(json.dumps(one) + "\n" for one in kept))
    again = Runner()
    sweep.go(again.carry, again.foresee)
    assert again.names == [] and sweep.trials()[0].label == "ffn 0.125, group_size 16"


def test_what_variants_share_is_expected_once(document: dict[str, Any], tmp_path: Path) -> None:
    sweep, runner = Sweep(swept(document), Home(tmp_path)), Runner()
    found = list(sweep_cost.expected(sweep, runner.foresee))
    assert [one.seconds for one in found] == [30.0, 10.0, 0.0, 30.0, 10.0, 0.0]
    assert [one.trial.status for one in found][2] == "refused" and "does not divide" in found[2].trial.text
    assert runner.names == [] and not sweep.folder.exists()
    sweep.go(runner.carry, runner.foresee)
    assert [one.trial.status for one in sweep_cost.expected(sweep, runner.foresee)].count("finished") == 4
    limited = Sweep(swept(document, minutes=1.2), Home(tmp_path / "other"))
    assert [one.seconds for one in sweep_cost.expected(limited, runner.foresee)] == [30.0, 10.0, 0.0, 30.0]
    drawn = Sweep(swept(document, search="random", runs=3), Home(tmp_path / "third"))
    expected = [one.trial.values for one in sweep_cost.expected(drawn, runner.foresee)]
    drawn.go(runner.carry, runner.foresee)
    assert [trial.values for trial in drawn.trials()] == expected


def test_a_dry_run_says_what_it_will_cost_and_runs_nothing(
    document: dict[str, Any], home: Path, write: Callable[[Any], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    document["stages"][1]["bits"] = {"sweep": [4, 8]}
    for more in ([], ["--json"]):
        with pytest.raises(SystemExit) as end:
            cli.main(["sweep", str(write(document)), "--dry-run", "--home", str(home), *more])
        assert end.value.code == 0
        printed = capsys.readouterr().out
        if more:
            found = json.loads(printed)
            first, second = (one["seconds"] for one in found["variants"])
            # Origin, pruned and packed model once each, and the last one of the second.
            assert 0 < second < first and found["seconds"] == first + second
        else:
            assert "01 bits 4: " in printed and "in all, what variants share counted once" in printed
    assert not (home / "runs").exists() and not (home / "sweeps").exists()
