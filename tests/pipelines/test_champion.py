"""The champion of a line: the decision, its way into MLflow's registry, and the way back."""

import json
import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from attar.errors import BadInput
from attar.fingerprint import hash_json
from attar.scores import Scores
from attar.stamp import stamp
from pipelines import cli, embedded, journal, report, tracking
from pipelines.champion import Champion, Decision, Standing, decide
from pipelines.execution import Execution
from pipelines.home import Home
from pipelines.journal import Journal, NullTracker
from pipelines.plan import make_plan
from pipelines.process import this_process
from pipelines.recipe import validate

if TYPE_CHECKING:
    from pipelines.champion_lines import Lines
    from tests.pipelines.conftest import Shelf

NOWHERE = "http://127.0.0.1:9"  # the discard port: nothing listens
HEADLINE = Champion(line="l")
SMALLER, LENIENT = (Champion(line="l", measure="bytes", quality_margin=margin) for margin in (0.01, 0.5))


def standing(name: str, more: float, noise: float = 0.01, size: float = 100.0, **parts: Any) -> Standing:
    """A model whose losses are so much higher than 2 to 3.1 nats."""
    sums = tuple(20.0 + i + 10 * (more + noise * (i % 3 - 1)) for i in range(12))
    scored = Scores(tuple(f"d{i}" for i in range(12)), sums, (10,) * 12)
    figures = {"headline": 1 - more, "bytes": size}
    return Standing(name, figures, {"stamp": stamp(suite=2, **parts)}, {"loss/other": scored})


@pytest.mark.parametrize(
    ("policy", "new", "present", "crowned", "reason"),
    [
        (HEADLINE, standing("new", 0.1), None, True, "the first of its line"),
        (HEADLINE, standing("new", 0.1), standing("l 1", 0.2), True, "better: headline 0.9 against 0.8 of l 1"),
        (HEADLINE, standing("new", 0.3), standing("l 1", 0.2), False, "worse: headline 0.7 against 0.8"),
        (HEADLINE, standing("new", 0.19, 0.5), standing("l 1", 0.2), False, "not distinguishable: headline 0.81"),
        (HEADLINE, standing("new", 0.1, windows=8), standing("l 1", 0.2), False, "not comparable with l 1: .* windows"),
        (HEADLINE, standing("new", 0.1), Standing("l 1", {}, {}, {}), False, "evaluation of l 1 is not in this home"),
        (Champion(line="l", margin=0.2), standing("new", 0.1), standing("l 1", 0.2), False, "than the margin 0.2"),
        (Champion(line="l", margin=0.05), standing("new", 0.1), standing("l 1", 0.2), True, "better"),
        (
            Champion(line="l", measure="bytes"),
            standing("n", 0.2, size=50),
            standing("l 1", 0.2),
            True,
            "smaller: bytes",
        ),
        (
            Champion(line="l", measure="bytes"),
            standing("n", 0.3, size=50),
            standing("l 1", 0.2),
            False,
            "smaller: .* worse in headline by 7.6 points, where 1 is the margin",
        ),
        (Champion(line="l", measure="bytes"), standing("n", 0.1), standing("l 1", 0.2), False, "the margin 0"),
        # Not distinguishable, and yet nobody knows it to be as good.
        (SMALLER, standing("n", 0.21, 0.3, size=50), standing("l 1", 0.2), False, "worse in headline by .* 1 is the m"),
        (LENIENT, standing("n", 0.21, 0.3, size=50), standing("l 1", 0.2), True, "smaller: bytes .* 50 is the margin"),
        # Distinguishable, and yet less than the margin.
        (SMALLER, standing("n", 0.205, size=50), standing("l 1", 0.2), True, "worse in headline by 0.. points"),
        (SMALLER, standing("n", 0.1, size=50), Standing("l 1", {"bytes": 60}, {}, {}), False, "is not in this home"),
        (Champion(line="l", measure="kl"), standing("n", 0.1), standing("l 1", 0.2), False, "not measured on every"),
    ],
)
def test_only_what_is_better_and_distinguishable_is_crowned(
    policy: Champion, new: Standing, present: Standing | None, crowned: bool, reason: str
) -> None:
    decision = decide(policy, new, present)
    assert decision.crowned is crowned and re.search(reason, decision.reason), decision


def test_a_model_that_is_measured_again_does_not_beat_itself() -> None:
    same = standing("new", 0.1)
    assert decide(HEADLINE, same, standing("l 1", 0.1)) == Decision(
        False, "not distinguishable: headline 0.9 against 0.9 of l 1 (p = 1)"
    )


def test_a_policy_is_a_part_of_the_recipe(document: dict[str, Any]) -> None:
    assert validate(document | {"champion": {"line": "mine"}}).champion == Champion(line="mine")
    with pytest.raises(BadInput, match=r"unknown key 'champion.marginn'; did you mean 'margin'"):
        validate(document | {"champion": {"line": "mine", "marginn": 1}})
    assert validate(document | {"champion": {"line": "m", "measure": "bytes", "quality_margin": 0.02}})
    with pytest.raises(BadInput, match=r"champion.quality_margin goes with measure: bytes, and the measure is kl"):
        validate(document | {"champion": {"line": "mine", "measure": "kl", "quality_margin": 0.02}})
    with pytest.raises(BadInput, match=r"champion.line='\.\./x'"):
        validate(document | {"champion": {"line": "../x"}})


@pytest.fixture
def place(shelf: "Shelf", monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """The shelf's home with the quiet environment of a run, for this test only."""
    with monkeypatch.context() as patch:
        for name in ("PREFECT_HOME", "MLFLOW_HTTP_REQUEST_MAX_RETRIES"):
            patch.setenv(name, "0")
        embedded.configure(shelf.home)
        yield shelf.home


def finish(shelf: "Shelf", run: str, name: str, more: float, document: dict[str, Any], **policy: Any) -> str:
    """The end of a run, told to MLflow as an execution tells it; what came of it, if MLflow was there."""
    row = shelf.run(run, "mine", (name, 1000, more))[-1]
    recipe = validate(document | {"champion": {"line": "mine", **policy}})
    folder = shelf.home.runs / run
    (folder / "journal.jsonl").unlink()  # it ends only now
    written = Journal(folder, tracking.open_tracker(recipe, shelf.home, folder, True))
    written.write(
        "run", run=run, name="mine", recipe=recipe.model_dump(mode="json"), plan=[], machine={"device": "cpu"},
        warnings=[], process=this_process(), flow_run="", flow_run_url=None,
    )  # fmt: skip
    written.write("champion", run=run, policy=recipe.champion.model_dump(), row=asdict(row))
    written.write("end-run", status="finished", text="", files=[])
    written.close()
    told = folder / "champion.txt"
    return told.read_text().strip() if told.is_file() else ""


@pytest.mark.parametrize(("end", "count"), [("finished", 1), ("failed", 0)])
def test_a_finished_run_puts_its_last_model_up(shelf: "Shelf", document: dict[str, Any], end: str, count: int) -> None:
    rows = shelf.run("r1", "mine", ("first", 1000, 0.2), ("second", 900, 0.3))
    recipe = validate(document | {"champion": {"line": "mine"}})
    folder = shelf.home.runs / "r1"
    (folder / "journal.jsonl").unlink()  # it ends only now
    execution = Execution(make_plan(recipe, shelf.home, complete=False), "r1", Journal(folder, NullTracker()))
    execution.rows += rows
    execution.finish(end)
    records = journal.read(folder)
    put_up = [record for record in records if record["kind"] == "champion"]
    assert [record["row"]["name"] for record in put_up] == ["second"] * count
    assert records[-1]["kind"] == "end-run"


def lines(home: Home) -> "Lines":
    from pipelines.champion_lines import Lines

    return Lines.open(home)


def standings(home: Home) -> dict[str, str]:
    return {one.version: one.alias for one in lines(home).versions("mine")}


def test_a_line_keeps_its_best_and_goes_back_in_one_command(
    shelf: "Shelf", place: Home, document: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert finish(shelf, "r1", "first", 0.2, document) == "mine 1 is champion: the first of its line"
    assert finish(shelf, "r2", "worse", 0.3, document).startswith("mine 2 is challenger: worse: headline")
    assert standings(place) == {"2": "challenger", "1": "champion"}
    assert finish(shelf, "r3", "better", 0.1, document).startswith("mine 3 is champion: better: headline")
    assert standings(place) == {"3": "champion", "2": "challenger", "1": ""}
    shown = lines(place).versions("mine")[0]
    assert (shown.run, shown.folder, shown.bytes) == ("r3", str(shelf.store("better")), 1000)
    assert "attar.run" in _logged_model(place, "r3").tags  # what attar gc asks
    assert not list(Path(place.mlflow_artifacts).rglob("*.safetensors"))  # no copy

    with pytest.raises(SystemExit) as end:
        cli.main(["champion", "mine", "--rollback", "--json", "--home", str(place.root)])
    printed = json.loads(capsys.readouterr().out)
    assert end.value.code == 0
    assert [(one["version"], one["alias"]) for one in printed["mine"]] == [
        ("3", ""),
        ("2", "challenger"),
        ("1", "champion"),
    ]
    # The nightly run of the recipe that was rolled back does not crown it again.
    assert "was rolled back at" in finish(shelf, "r4", "better", 0.1, document)
    assert standings(place) == {"3": "challenger", "2": "", "1": "champion"}
    with pytest.raises(BadInput, match="mine 1 is the champion, and there is none before it"):
        lines(place).roll_back("mine")
    lines(place).crown("mine", "3")
    assert standings(place) == {"3": "champion", "2": "", "1": ""}
    assert finish(shelf, "r5", "better", 0.1, document) == "mine 3 is the champion already"
    assert lines(place).roll_back("mine").startswith("mine 1 is the champion again")

    with pytest.raises(BadInput, match="there is no line 'mien' in MLflow; did you mean 'mine'"):
        lines(place).versions("mien")
    with pytest.raises(BadInput, match="mine has no version 9; possible: 3, 2, 1"):
        lines(place).crown("mine", "9")


def test_what_another_home_crowned_meanwhile_is_compared_with(
    shelf: "Shelf", place: Home, document: dict[str, Any]
) -> None:
    """A registry may be shared, and the lock is a home's: a decision on a champion of before is made anew."""
    from pipelines.champion_lines import Lines

    class Slow(Lines):
        """Another home is quicker while this one compares."""

        compared: ClassVar[list[str]] = []

        def _decide(self, policy: Champion, new: Any, present: Any) -> Decision:
            if not self.compared:
                self.client.set_registered_model_alias("mine", "champion", "2")  # under a lock of its own
            self.compared.append(str(present.version))
            return super()._decide(policy, new, present)

    for run, name, more in (("r1", "first", 0.3), ("r2", "second", 0.1), ("r3", "third", 0.2)):
        finish(shelf, run, name, more, document, margin=1.0)
    assert standings(place) == {"3": "challenger", "2": "", "1": "champion"}
    made = report.load(place.runs / "r3")
    assert made is not None
    policy = Champion(line="mine")  # by which the third would take the place of the first
    told = Slow.open(place).consider(policy, asdict(made.final), "r3", "", "")
    assert Slow.compared == ["1", "2"] and told.startswith("mine 3 is challenger: worse: headline")
    assert standings(place) == {"3": "challenger", "2": "champion", "1": ""}


def test_with_mlflow_away_the_decision_waits_and_is_made_once(
    shelf: "Shelf", place: Home, document: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as away:
        away.setenv("MLFLOW_TRACKING_URI", NOWHERE)
        away.setattr(tracking, "SERVER_SECONDS", 1.0)
        assert finish(shelf, "r1", "first", 0.2, document) == ""
    tracking.sync(place)
    assert standings(place) == {"1": "champion"}
    (place.runs / "r1" / "journal.sent").unlink()  # the process died before it wrote down what MLflow had taken
    tracking.sync(place)
    assert standings(place) == {"1": "champion"}


def test_without_a_registry_the_command_says_how_to_get_one(
    shelf: "Shelf", place: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, sentence in (
        (["champion"], "a recipe with champion: {line: NAME} does that"),
        (["champion", "--rollback"], "name the line whose champion is to change"),
        (["champion", "x", "--rollback", "--to", "1"], "give one of them"),
    ):
        with pytest.raises(SystemExit) as end:
            cli.main([*arguments, "--home", str(place.root)])
        assert end.value.code == 2 and sentence in capsys.readouterr().err


def _logged_model(home: Home, run: str) -> Any:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=home.mlflow_uri)
    experiment = client.get_experiment_by_name("attar")
    found = client.search_logged_models([experiment.experiment_id])
    return next(one for one in found if one.tags["attar.run"] == run and one.tags["fingerprint"] == hash_json("better"))
