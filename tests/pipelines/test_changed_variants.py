"""What pages say where gates changed a recipe, or where a run ended before all of them were judged."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from pipelines import asked_runs, card, html_report, html_variants, lineage, report
from pipelines.export import Export
from pipelines.gates import Decision
from pipelines.home import RECIPE
from pipelines.sweep import TRIALS

if TYPE_CHECKING:
    from tests.pipelines.conftest import Shelf

MB = 1_000_000
KEPT = Decision(0, "kl ≤ 1", 1, "1 m", True, "go on", "kl ≤ 1 is kept: 0.1")
STOPPED = Decision(1, "kl ≤ 0", 1, "1 m", False, "stop", "kl ≤ 0 is not kept: 0.1")
BISECTED = Decision(0, "kl ≤ 1", 1, "1 m", False, "bisect", "goes on", "stages.1.bits", 6)
INSERTED = Decision(0, "kl ≤ 1", 1, "1 m", False, "insert", "kl ≤ 1 is not kept: 2")


def decide(shelf: "Shelf", run: str, *decisions: Decision) -> None:
    folder = shelf.home.runs / run
    found = report.load(folder)
    assert found is not None
    report.save(replace(found, gates=decisions), folder)


def end(shelf: "Shelf", run: str, status: str) -> None:
    text = json.dumps({"kind": "end-run", "status": status, "text": ""}) + "\n" if status else ""
    (shelf.home.runs / run / "journal.jsonl").write_text(text)


@pytest.fixture
def swept(shelf: "Shelf") -> "Shelf":
    """A sweep of one setting with three values; the larger its value, the better."""
    lines = []
    for bits, more in ((4, 0.3), (6, 0.2), (8, 0.1)):
        row = shelf.run(f"2026-{bits}", f"mine-0{bits}", (f"m{bits}", bits * MB, more))[-1]
        recipe = {"name": f"mine-0{bits}", "model": "o", "stages": [{"stage": "quantize.rtn", "bits": bits}]}
        (shelf.home.runs / f"2026-{bits}" / RECIPE).write_text(yaml.safe_dump(recipe))
        found = {"number": bits, "values": {"stages.0.bits": bits}, "run": f"2026-{bits}", "row": vars(row)}
        lines.append(found | {"status": "finished", "text": ""})
    _write(shelf, lines)
    return shelf


def _write(shelf: "Shelf", lines: Sequence[object]) -> None:
    folder = shelf.home.root / "sweeps" / "mine-0123abcd"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / TRIALS).write_text("\n".join(map(json.dumps, lines)) + "\n")


@pytest.mark.parametrize("decision", [BISECTED, INSERTED])
def test_what_a_gate_changed_says_nothing_of_what_was_swept(swept: "Shelf", decision: Decision) -> None:
    folder = swept.home.root / "sweeps" / "mine-0123abcd"
    found = html_variants.compare(asked_runs.of_sweep(swept.home, folder), swept.home.store)
    assert [level.value for level in found.findings[0].levels] == ["4", "6", "8"] and found.unequal == 0
    page = html_report.render(swept.home, found.asked)
    assert "left out" not in page and "Changed by their gates" not in page
    decide(swept, "2026-8", decision, replace(KEPT, gate=0))
    found = html_variants.compare(asked_runs.of_sweep(swept.home, folder), swept.home.store)
    assert [level.value for level in found.findings[0].levels] == ["4", "6"] and found.unequal == 1
    page = html_report.render(swept.home, found.asked)
    assert page.count("One variant is left out of what the settings did") == 2
    assert f"08 (bits 8) {found.asked.runs[-1].changed}</li>" in page
    assert found.asked.runs[-1].changed == ("stages.1.bits=6" if decision is BISECTED else "a stage after 1 m")
    decide(swept, "2026-6", decision, replace(KEPT, gate=0))
    found = html_variants.compare(asked_runs.of_sweep(swept.home, folder), swept.home.store)
    assert found.findings == () and found.unequal == 2
    assert "2 variants are left out" in html_report.render(swept.home, found.asked)


def test_runs_of_outdated_variants_are_not_shown_beside_others(swept: "Shelf") -> None:
    swept.run("2027-other", "other", ("other", 5 * MB, 0.4))
    asked = asked_runs.find(swept.home, ["mine", "2027-other"])
    assert {one.report.run for one in asked.runs} == {"2026-4", "2026-6", "2026-8", "2027-other"}
    folder = swept.home.root / "sweeps" / "mine-0123abcd"
    lines = [json.loads(line) for line in (folder / TRIALS).read_text().splitlines()]
    lines.append(lines[0] | {"status": "outdated", "row": None, "text": "runs again"})
    _write(swept, lines)
    asked = asked_runs.find(swept.home, ["mine", "2027-other"])
    assert {one.report.run for one in asked.runs} == {"2026-6", "2026-8", "2027-other"}


@pytest.mark.parametrize("status", ["cancelled", "failed", ""])
def test_a_run_that_did_not_end_has_not_passed_its_gates(shelf: "Shelf", status: str, tmp_path: Path) -> None:
    shelf.run("2026-1", "mine", ("m", 5 * MB, 0.1))
    decide(shelf, "2026-1", KEPT)
    out = tmp_path / "page.html"
    assert "It passed its gates (1 decision)." in html_report.write(shelf.home, ["2026-1"], out).read_text()
    end(shelf, "2026-1", status)
    page = html_report.write(shelf.home, ["2026-1"], out).read_text()
    told = "Not all of its gates were judged: 1 was kept until then."
    assert "It passed" not in page and told in page
    decide(shelf, "2026-1", KEPT, replace(KEPT, step=2), replace(KEPT, step=3))  # one gate, asked after every step
    assert told in html_report.write(shelf.home, ["2026-1"], out).read_text()


@pytest.mark.parametrize(
    ("decisions", "gates", "sentence"),
    [
        ((STOPPED,), 1, "Its own gate refuses it: kl ≤ 0 is not kept: 0.1."),
        ((KEPT, STOPPED), 2, "Its own gate refuses it: kl ≤ 0 is not kept: 0.1."),
        ((INSERTED,), 1, "Its own gate refuses it: kl ≤ 1 is not kept: 2."),
        ((BISECTED, KEPT), 1, "Its gates, judged on it: kl ≤ 1 is kept: 0.1."),
        ((BISECTED,), 1, "No gate of its recipe was judged on it."),
        ((replace(KEPT, step=2),), 1, "No gate of its recipe was judged on it."),
        ((), 0, "Its recipe has no gates, so nobody has said what is good enough."),
    ],
)
def test_card_and_export_say_what_its_gates_said(
    shelf: "Shelf", decisions: tuple[Decision, ...], gates: int, sentence: str
) -> None:
    shelf.run("2026-1", "mine", ("m", 5 * MB, 0.1))
    recipe = shelf.home.runs / "2026-1" / RECIPE
    recipe.write_text(yaml.safe_dump(yaml.safe_load(recipe.read_text()) | {"gates": [{"measure": "kl"}] * gates}))
    decide(shelf, "2026-1", *decisions)
    made = lineage.find(shelf.home, "2026-1")
    assert made.gated == sentence
    below = card.render(made).partition("## Limits")[2]
    assert below.partition("##")[0].count(f"- {sentence}\n") == 1
    proof = {"greedy": 1, "tokens": 1, "difference": 0.0}
    told = Export("/to", "f", made.run, 1, 5, ("a",), None, proof, made.gated)
    assert told.told.endswith(f"apart. {sentence}") and told.as_json()["gated"] == sentence


def test_of_a_model_that_nobody_ran_nothing_is_said_of_gates(shelf: "Shelf") -> None:
    made = lineage.find(shelf.home, shelf.store("alone").name)
    assert made.gated == "" and "gate" not in card.render(made)
