"""One line says what a run computes and why: every kind of input that can move, and what the store may have lost."""

import json
import shutil
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from pipelines import changes
from pipelines.execution import Execution
from pipelines.home import Home
from pipelines.journal import Journal, NullTracker
from pipelines.plan import Plan, make_plan
from pipelines.process import LOCK
from pipelines.recipe import validate
from stages.prune_width import Width

Run = Callable[[dict[str, Any], str], str]


@pytest.fixture
def place(home: Path) -> Home:
    return Home.open(home)


def planned(document: dict[str, Any], place: Home) -> Plan:
    return make_plan(validate(document), place, complete=False)


@pytest.fixture
def ran(place: Home) -> Run:
    """Leaves the journal of a run that ended so, and in the store what it would have made."""

    def run(document: dict[str, Any], status: str) -> str:
        plan = planned(document, place)
        name = place.new_run(plan.recipe.name)
        journal = Journal(place.runs / name, NullTracker())
        Execution(plan, name, journal).begin()
        if status == "finished":
            for step in plan.steps:
                for kind, fingerprint in (("model", step.made.fingerprint), ("evaluation", step.evaluation)):
                    folder = place.root / "store" / kind / fingerprint
                    if step.index or kind == "evaluation":
                        folder.mkdir(parents=True)
                        text = {"kind": kind, "fingerprint": fingerprint, "inputs": {}, "files": {}}
                        (folder / "manifest.json").write_text(json.dumps(text))
        if status:
            journal.write("end-run", status=status, text="", files=[])
        journal.close()
        return name

    return run


def line(document: dict[str, Any], place: Home) -> str:
    return changes.compare(planned(document, place)).line


def test_the_first_run_has_nothing_to_compare_with(document: dict[str, Any], place: Home) -> None:
    assert line(document, place) == "2 of 2 stages to compute: the first run of this recipe in this home"


def test_nothing_changed(document: dict[str, Any], place: Home, ran: Run) -> None:
    run = ran(document, "finished")
    assert line(document, place) == f"nothing to compute: nothing changed since {run}"


def test_a_setting_is_named_and_what_follows_from_it_is_no_reason(
    document: dict[str, Any], place: Home, ran: Run
) -> None:
    ran(document, "finished")
    document["stages"][0]["ffn"] = 0.5
    assert line(document, place) == "2 of 2 stages to compute: prune.width.ffn 0.25 → 0.5"
    document["stages"][0]["ffn"] = 0.25
    document["stages"][1]["symmetric"] = True
    assert line(document, place) == "1 of 2 stages to compute: quantize.rtn.symmetric false → true"
    found = changes.compare(planned(document, place))
    assert found.stages == ("2 quantize.rtn",) and [reason.step for reason in found.reasons] == [2]


def test_other_stages_another_measure_another_seed(document: dict[str, Any], place: Home, ran: Run) -> None:
    ran(document, "finished")
    fewer = document | {"stages": document["stages"][1:]}
    text = "1 of 1 stage to compute: stages prune.width → quantize.rtn became quantize.rtn"
    assert line(fewer, place) == text
    measured = document | {"measure": {**document["measure"], "windows": 5}}
    assert line(measured, place) == "3 models to measure: measure.windows 4 → 5"
    assert "the seed changed" in line(document | {"seed": 1}, place)
    assert "dtype bfloat16 → float32" in line(document | {"dtype": "float32"}, place).replace("auto", "bfloat16")


def test_a_new_version_of_a_stage(
    document: dict[str, Any], place: Home, ran: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran(document, "finished")
    new = Width.version + 1
    monkeypatch.setattr(Width, "version", new)
    assert line(document, place) == f"2 of 2 stages to compute: prune.width is version {new}, was {new - 1}"


def test_new_data_and_a_new_model(
    document: dict[str, Any], place: Home, ran: Run, text: Path, model: Path, tmp_path: Path
) -> None:
    own, copy = tmp_path / "own.txt", tmp_path / "copy"
    shutil.copy(text, own)
    shutil.copytree(model, copy)
    document |= {"model": str(copy), "data": {"source": str(own)}}
    ran(document, "finished")
    own.write_text(own.read_text(encoding="utf-8") + "\n\n" + text.read_text(encoding="utf-8")[::-1], encoding="utf-8")
    assert "data.calibration changed" in line(document, place)
    shutil.copy(text, own)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-3}))
    assert line(document, place) == f"2 of 2 stages to compute: the files of the model {copy} changed"


def test_a_moved_revision_is_named() -> None:
    old = {"fingerprint": "a", "revision": "0123456789abcdef"}
    new = {"fingerprint": "b", "revision": "fedcba9876543210"}
    text = changes._model(old, new, "org/name", "org/name")
    assert text == "model org/name moved: revision 01234567 → fedcba98"


def test_what_the_store_has_lost_is_said(document: dict[str, Any], place: Home, ran: Run) -> None:
    ran(document, "finished")
    made = planned(document, place).steps[1].made.fingerprint
    shutil.rmtree(place.root / "store" / "model" / made)
    text = "1 of 2 stages to compute: the store has lost what 1 prune.width made"
    assert line(document, place) == text


@pytest.mark.parametrize(("status", "word"), [("", "was killed"), ("failed", "failed"), ("cancelled", "was cancelled")])
def test_a_run_goes_on_where_another_ended(
    document: dict[str, Any], place: Home, ran: Run, status: str, word: str
) -> None:
    run = ran(document, status)
    (place.runs / run / LOCK).unlink()  # as if the process that made it were gone
    assert line(document, place) == f"2 of 2 stages to compute: {run} {word} before them"


def test_a_run_that_is_going_on_is_not_called_killed(document: dict[str, Any], place: Home, ran: Run) -> None:
    run = ran(document, "")
    assert line(document, place) == f"2 of 2 stages to compute: {run} is going on and has not come to them"


def test_the_last_finished_run_counts_and_other_recipes_do_not(document: dict[str, Any], place: Home, ran: Run) -> None:
    run = ran(document, "finished")
    later = deepcopy(document)
    later["stages"][0]["ffn"] = 0.5
    ran(later, "failed")
    ran(document | {"name": "small-2", "seed": 3}, "failed")
    assert line(document, place) == f"nothing to compute: nothing changed since {run}"


def test_a_long_list_is_cut_and_told_whole_as_json(document: dict[str, Any], place: Home, ran: Run) -> None:
    ran(document, "finished")
    document["stages"][0] |= {"ffn": 0.5, "windows": 8, "length": 128, "multiple_of": 32}
    found = changes.compare(planned(document, place))
    assert found.line.endswith("; and 1 more") and len(found.as_json()["reasons"]) == 4
