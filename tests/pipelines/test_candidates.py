"""What a gate refused is not offered: the gate's own recipe says so, and no other recipe has asked for the model."""

import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import pytest

from attar.fingerprint import hash_json
from pipelines import best, report
from pipelines.gates import Decision
from pipelines.report import Report, Row

if TYPE_CHECKING:
    from tests.pipelines.conftest import Shelf

MB = 1_000_000
RULE = "headline ≥ 0.9"


def searched(breached: str, *probes: tuple[float, bool, str]) -> Decision:
    """A bisection's end: the evaluation that was breached, and the values that were tried, with theirs."""
    tried = [
        {"value": value, "kept": kept, "text": f"{RULE} {kept}", "evaluation": name} for value, kept, name in probes
    ]
    return Decision(
        0, RULE, 1, "1 cut", False, "bisect", f"{RULE} is not kept", "stages.0.ffn", 0.1, tuple(tried), breached
    )


def gated(shelf: "Shelf", run: str, decision: Decision, recipe: str = "mine") -> list[Row]:
    """A run that went on with another value, and the models that it gave up."""
    rows = shelf.run(run, recipe, ("final", 60 * MB, 0.08))
    report.save(Report(run, recipe, tuple(rows), (decision,)), shelf.home.runs / run)
    return rows


@pytest.fixture
def given_up(shelf: "Shelf") -> dict[str, str]:
    """Evaluations of a breached model, a value that was refused, and one that kept the gate; better than the final."""
    found = {}
    for name, more in (("breached", 0.02), ("refused", 0.03), ("kept", 0.04)):
        shelf.store(name)
        found[name] = shelf.measure(hash_json(name), shelf.losses(more))
    return found


def decided(given_up: dict[str, str]) -> Decision:
    return searched(given_up["breached"], (0.3, False, given_up["refused"]), (0.2, True, given_up["kept"]))


def refused(shelf: "Shelf") -> dict[str, str]:
    return {one.row.name: one.refused for one in best.choose(shelf.home).ranked}


def test_what_a_bisection_gave_up_is_not_offered_and_its_reason_is_told(
    shelf: "Shelf", given_up: dict[str, str]
) -> None:
    gated(shelf, "r1", decided(given_up))
    found = best.choose(shelf.home)
    assert [one.row.name for one in found.ranked] == ["breached", "refused", "kept", "final"]
    assert found.winner.row.name == "kept"  # which no run went on with, and which keeps the gate
    for ones in (found.front, found.alike, found.as_good, (found.smallest,)):
        assert not {"breached", "refused"} & {one.row.name for one in ones}
    assert refused(shelf) == {
        "breached": f"{RULE} is not kept",
        "refused": f"stages.0.ffn=0.3: {RULE} False",
        "kept": "",
        "final": "",
    }


def test_the_steps_that_led_to_a_refused_model_alone_are_refused(shelf: "Shelf", given_up: dict[str, str]) -> None:
    """Of a chain that was given up nothing was asked for, unless another run of the recipe went on with it."""
    shelf.run("r1", "mine", ("shared", 60 * MB, 0.01))
    shelf.store("step")
    steps = [shelf.measure(hash_json(name), shelf.losses(more)) for name, more in (("step", 0.01), ("shared", 0.01))]
    gated(shelf, "r2", replace(decided(given_up), given_up=steps))
    assert (refused(shelf)["step"], refused(shelf)["shared"]) == (f"led to what did not keep {RULE}", "")


def test_what_another_recipe_came_to_without_the_gate_is_a_candidate(shelf: "Shelf", given_up: dict[str, str]) -> None:
    """Whichever ran first."""
    shelf.run("r1", "yours", ("breached", 60 * MB, 0.02))
    gated(shelf, "r2", decided(given_up))
    shelf.run("r3", "theirs", ("refused", 60 * MB, 0.03))
    found = best.choose(shelf.home)
    assert (found.winner.label, found.winner.recipe) == ("breached of run r1", "yours")
    assert set(refused(shelf).values()) == {""}


def test_of_one_recipe_the_newest_run_that_has_a_model_says_whether_it_is_refused(
    shelf: "Shelf", given_up: dict[str, str]
) -> None:
    shelf.run("r1", "mine", ("breached", 60 * MB, 0.02))
    assert refused(shelf)["breached"] == ""
    gated(shelf, "r2", decided(given_up))
    assert refused(shelf)["breached"]
    shelf.run("r3", "mine", ("refused", 60 * MB, 0.03))  # its gate is gone
    assert refused(shelf)["breached"] and not refused(shelf)["refused"]


def test_the_model_that_a_stage_was_put_in_for_is_refused(shelf: "Shelf") -> None:
    """Though the run's report has it: it went on from there."""
    rows = shelf.run("r1", "mine", ("cut", 60 * MB, 0.02), ("mended", 61 * MB, 0.03))
    acted = Decision(0, RULE, 1, "1 cut", False, "insert", "not kept", evaluation=rows[1].evaluation)
    passed = Decision(0, RULE, 2, "2 mended", True, "go on", "kept", evaluation=rows[2].evaluation)
    report.save(Report("r1", "mine", tuple(rows), (acted, passed)), shelf.home.runs / "r1")
    assert refused(shelf) == {"cut": "not kept", "mended": ""}


def test_a_run_that_was_killed_while_it_searched_has_told_its_journal(shelf: "Shelf", given_up: dict[str, str]) -> None:
    rows = gated(shelf, "r1", decided(given_up))
    folder = shelf.home.runs / "r1"
    (folder / "report.json").unlink()
    probe = {"kind": "probe", "step": 1, "gate": 0, "value": 0.3, "text": "0.3 is too much"}
    records = [
        {"kind": "run", "name": "mine"},
        *({"kind": "measured", "step": row.step, "row": asdict(row)} for row in rows),
        {**probe, "kept": False, "evaluation": given_up["refused"]},
        {**probe, "kept": True, "evaluation": given_up["kept"]},
    ]
    (folder / "journal.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    found = refused(shelf)
    assert (found["refused"], found["kept"], found["final"]) == ("0.3 is too much", "", "")


def test_decisions_that_do_not_name_what_they_judged_are_read(shelf: "Shelf", given_up: dict[str, str]) -> None:
    """Of old runs: what was stopped is in the report; of what was given up nobody knows why."""
    probes = tuple({"value": 0.3, "kept": False, "text": "no"} for _ in range(2))
    gated(shelf, "r1", replace(decided(given_up), evaluation="", probes=probes))
    folder = shelf.home.runs / "r1"
    document = json.loads((folder / "report.json").read_text())
    for decision in document["gates"]:
        del decision["evaluation"]
    stopped = {"gate": 1, "rule": RULE, "step": 1, "label": "1 final", "kept": False, "action": "stop", "text": "stop"}
    document["gates"].append(stopped)
    (folder / "report.json").write_text(json.dumps(document))
    assert refused(shelf) == {"breached": "", "refused": "", "kept": "", "final": "stop"}
