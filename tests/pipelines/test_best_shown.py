"""What ``attar best`` shows: what it ranked, what differs between variants, and nothing outside the limits on top."""

import json
from io import StringIO
from typing import TYPE_CHECKING

import pytest
import yaml
from rich.console import Console

from attar.errors import BadInput
from attar.fingerprint import hash_json
from pipelines import best, best_words, report
from pipelines.gates import Decision
from pipelines.report import Report, interval
from pipelines.sweep import TRIALS

if TYPE_CHECKING:
    from tests.pipelines.conftest import Shelf

MB = 1_000_000


@pytest.fixture
def swept(shelf: "Shelf") -> "Shelf":
    """A sweep of two variants over a temperature and an order, of two steps each."""
    stages = [{"stage": "prune.width", "ffn": 0.1}, {"stage": "distill.logit", "temperature": 2}]
    lines = []
    for number, temperature, order, models in (
        (1, 2, [0, 1], (("step-1", 90 * MB, 0.02), ("last-1", 60 * MB, 0.10))),
        (2, 4, [1, 0], (("step-2", 95 * MB, 0.20), ("last-2", 40 * MB, 0.30))),
    ):
        run = f"2026-{number}-mine-0{number}"
        row = shelf.run(run, f"mine-0{number}", *models)[-1]
        recipe = {"name": f"mine-0{number}", "model": "some/origin", "stages": [stages[place] for place in order]}
        (shelf.home.runs / run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        values = {"stages.1.temperature": temperature, "order": order}
        lines.append({"number": number, "values": values, "status": "finished", "run": run, "row": vars(row)})
    lines.append({"number": 3, "values": {"stages.1.temperature": 8, "order": [0, 1]}, "status": "failed", "row": None})
    folder = shelf.home.root / "sweeps" / "mine-0123abcd"
    folder.mkdir(parents=True)
    (folder / TRIALS).write_text("\n".join(map(json.dumps, lines)) + "\n")
    return shelf


def shown(found: best.Choice) -> str:
    written = StringIO()
    best_words.show(Console(file=written, width=300), found)
    return written.getvalue()


def row_signs(found: best.Choice) -> dict[str, str]:
    """Model → the sign in its row, in the order of the rows."""
    named = [line[:40] for line in shown(found).splitlines() if " MB " in line[:60] and ":" not in line[:40]]
    words = [line.split() for line in named]
    return {(one[1] if len(one[0]) < 3 else one[0]): (one[0] if len(one[0]) < 3 else "") for one in words}


def test_what_was_ranked_is_said_and_what_a_report_would_put_first(swept: "Shelf") -> None:
    """A step within a run may be best; the last models of runs are what ``attar report`` compares."""
    found = best.choose(swept.home)
    text, rows = shown(found), {one.row.name: one for one in found.ranked}
    assert found.winner.row.name == "step-1" and [one.row.name for one in found.last] == ["last-1", "last-2"]
    assert "ranked: 4 models, 2 of them steps within runs; no limit was given" in text
    told = "that is a step within its run; of the last models of runs, which attar report compares, the best is last-1"
    assert told in text and f"60.0 MB, {interval(rows['last-1'].row)}" in text
    front = next(line for line in text.splitlines() if line.startswith("◆ smaller, and nothing as small is better: "))
    assert front.index("last-1 of run") < front.index("last-2 of run") and "step" not in front
    limited = shown(best.choose(swept.home, best.limits("60MB")))
    assert "that is a step" not in limited and "steps within runs" not in limited and "no limit" not in limited


def test_a_single_model_is_not_told_of_others(shelf: "Shelf") -> None:
    shelf.run("r1", "mine", ("only", 90 * MB, 0.02))
    text = shown(best.choose(shelf.home))
    assert "ranked: 1 model; no limit was given" in text and "◆" not in text and "within its run" not in text


def test_what_is_outside_the_limits_is_counted_and_not_listed(swept: "Shelf") -> None:
    """Of what is listed the choice is on top, and alone has its sign."""
    assert list(row_signs(best.choose(swept.home))) == ["step-1", "last-1", "step-2", "last-2"]
    found = best.choose(swept.home, best.limits("60MB", ["headline=0.3"]))
    assert row_signs(found) == {"last-1": "★", "last-2": "◆"}
    told = "ranked: 2 models within bytes ≤ 60MB and headline ≥ 0.3; left out: 2 outside the limits, the best of them "
    text = shown(found)
    assert f"{told}step-1 of run 2026-1-mine-01" in text and "(bytes ≤ 60MB is not kept: 90.0 MB" in text
    known = {one["name"]: one["why_not"] for one in found.as_json()["candidates"]}
    assert known["step-2"].startswith("bytes ≤ 60MB is not kept") and known["last-1"] is None


def test_what_a_gate_refuses_stands_behind_what_may_be_chosen(swept: "Shelf") -> None:
    rows = swept.run("2026-9-gated", "gated", ("stopped", 50 * MB, 0.01))
    decided = Decision(0, "headline ≥ 0.995", 1, "1 stopped", False, "stop", "headline ≥ 0.995 is not kept")
    report.save(Report("2026-9-gated", "gated", tuple(rows), (decided,)), swept.home.runs / "2026-9-gated")
    found = best.choose(swept.home)
    assert found.ranked[0].row.name == "stopped" and list(row_signs(found).items())[-1] == ("stopped", "✗")
    assert "ranked: 4 models," in shown(found)
    assert "stopped" not in shown(best.choose(swept.home, best.limits("45MB")))


def test_variants_are_told_apart_by_their_values(swept: "Shelf") -> None:
    """Beside the model where there is room, else below; in sentences and in JSON, too."""
    found = best.choose(swept.home)
    words = {"2026-1-mine-01": "temp 2, width→distill", "2026-2-mine-02": "temp 4, distill→width"}
    assert found.variants == words
    wide = shown(found).splitlines()
    assert any("step-1" in line and words["2026-1-mine-01"] in line and "90.0 MB" in line for line in wide)
    assert any(line.startswith("best: step-1 of run 2026-1-mine-01 (temp 2, width→distill), in ") for line in wide)
    written = StringIO()
    best_words.show(Console(file=written, width=90, force_terminal=True), found)
    assert all(text in written.getvalue() for text in words.values())
    assert {one["variant"] for one in found.as_json()["candidates"]} == set(words.values())


def test_a_damaged_recipe_takes_no_choice_away(swept: "Shelf") -> None:
    (swept.home.runs / "2026-2-mine-02" / "recipe.yaml").write_text("stages: [{")
    (swept.home.root / "sweeps" / "mine-0123abcd" / TRIALS).open("a").write('{"number": 4, "val')
    found = best.choose(swept.home)
    assert found.winner.row.name == "step-1" and found.variants["2026-1-mine-01"].startswith("temp 2, width→")
    assert "step-1" in shown(found)


def test_a_sweeps_name_names_its_runs(swept: "Shelf") -> None:
    """As it does for ``attar report``; a name of neither is a sentence with both."""
    swept.run("2026-9999-other", "other", ("newer", 50 * MB, 0.1), windows=8)
    assert best.choose(swept.home).winner.row.name == "newer"
    assert best.choose(swept.home, recipe="mine").winner.row.name == "step-1"
    with pytest.raises(BadInput, match=r"no model of that recipe or sweep is here; did you mean 'mine'"):
        best.choose(swept.home, recipe="mime")


def test_a_model_may_bear_two_signs_and_both_are_told(shelf: "Shelf") -> None:
    shelf.run("r1", "mine", ("chosen", 60 * MB, 0.02), ("noisy", 30 * MB, 0.03))
    found = best.choose(shelf.home)
    text = shown(found)
    assert row_signs(found) == {"chosen": "★", "noisy": "◆●"} and "\n● not distinguishable from it (paired" in text
    assert "◆ on the front: none is smaller and better, ● not distinguishable from the best; a model's" in text


def test_what_is_larger_and_lower_is_not_among_those_alike(shelf: "Shelf") -> None:
    """That no test tells it from the best is said by itself: it is nothing to take in its place."""
    shelf.run("r1", "mine", ("chosen", 60 * MB, 0.02))
    shelf.run("r2", "yours", ("noisy", 90 * MB, 0.03))
    found = best.choose(shelf.home)
    assert (found.winner.row.name, found.alike, [one.row.name for one in found.larger]) == ("chosen", (), ["noisy"])
    text = shown(found)
    assert "larger, and not beyond doubt worse: noisy of run r2" in text and "●" not in text
    assert found.as_json()["not_distinguishable"] == [hash_json("noisy")]


def test_what_a_limit_is_on_has_a_column_with_what_was_held_against_it(swept: "Shelf") -> None:
    found = best.choose(swept.home, best.limits("95MB", ["ratio=0.5"], ["perplexity_other=900", "kl=9"]))
    lines = shown(found).splitlines()
    heading = next(line for line in lines if line.split()[:1] == ["model"])
    assert "ratio" in heading and "perplexity_other" in heading and "kl" not in heading  # which has one anyhow
    of_the_best, row = (next(line for line in lines if name in line) for name in ("step-1", "last-1"))
    value, figure = found.winner.row.perplexity_other, found.limited["perplexity_other"][found.winner.row.fingerprint]
    assert figure.low is not None and figure.high is not None and figure.low < value < figure.high
    assert f"{value:.3f} ({figure.low:.3f}–{figure.high:.3f})" in of_the_best and "1.00×" in row
    assert "perplexity_other" not in shown(best.choose(swept.home))
