"""Which model to ship: limits, what cannot be told apart, and that only comparable results are ranked."""

import json
import shutil
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from attar import scores
from attar.errors import BadInput
from attar.fingerprint import hash_json
from attar.scores import Scores
from pipelines import as_good, best, best_words, cli, report, shipping
from pipelines.as_good import SCORED
from pipelines.gates import Decision
from pipelines.home import Home
from pipelines.report import Report

if TYPE_CHECKING:
    from tests.pipelines.conftest import Shelf

MB = 1_000_000


def names(found: Any) -> list[str]:
    return [one.row.name for one in found]


@pytest.fixture
def stocked(shelf: "Shelf") -> "Shelf":
    """Three sizes of one recipe, and a small bad one."""
    shelf.run("r1", "mine", ("large", 90 * MB, 0.02), ("middle", 60 * MB, 0.1), ("bad", 70 * MB, 0.4))
    shelf.run("r2", "yours", ("small", 40 * MB, 0.2))
    return shelf


def test_the_best_is_the_best_within_the_limits(stocked: "Shelf") -> None:
    found = best.choose(stocked.home)
    assert names(found.ranked) == ["large", "middle", "small", "bad"] and found.winner is found.ranked[0]
    assert names(found.front) == ["small", "middle", "large"]
    assert found.alike == () and found.smallest is found.winner and found.breaches == {}
    assert (found.winner.run, found.winner.recipe) == ("r1", "mine")
    assert best.choose(stocked.home, best.limits("60MB")).winner.row.name == "middle"
    within = best.choose(stocked.home, best.limits("60 MB", ["headline=0.7"]))
    assert within.winner.row.name == "middle" and "bytes ≤ 60 MB" in within.breaches[hash_json("large")]
    assert best.choose(stocked.home, best.limits("59MB")).winner.row.name == "small"


def test_what_cannot_be_told_apart_is_named_and_offered_only_if_it_is_as_good(stocked: "Shelf") -> None:
    """Scores so noisy that no difference is seen do not make a model as good; a margin that is wide enough does."""
    stocked.run("r3", "noise", ("noisy", 30 * MB, 0.03))
    found = best.choose(stocked.home)
    assert (found.winner.row.name, names(found.alike), found.smallest.row.name) == ("large", ["noisy"], "large")
    assert "of no smaller one it is beyond doubt that it loses less than 1 point of headline" in shown(found)
    lenient = best.choose(stocked.home, margin=0.3)
    assert (names(lenient.alike), names(lenient.as_good)) == (["noisy"], ["noisy", "middle", "small"])
    text = shown(lenient)
    assert "the smallest that loses less than 30 points of headline" in text and "noisy of run r3, 30.0 MB" in text
    assert str(stocked.store("noisy")) in text and lenient.as_json()["smallest"] == hash_json("noisy")


def test_what_is_worse_by_less_than_the_margin_is_as_good_though_the_difference_is_real(shelf: "Shelf") -> None:
    shelf.run("r1", "mine", ("large", 90 * MB, 0.02), ("middle", 60 * MB, 0.023))
    shelf.measure(hash_json("x"), shelf.losses(0.1))
    found = best.choose(shelf.home)
    assert (names(found.alike), names(found.as_good), found.smallest.row.name) == ([], ["middle"], "middle")
    assert best.choose(shelf.home, margin=0.001).smallest.row.name == "large"


def test_too_few_documents_offer_nothing_smaller(shelf: "Shelf", monkeypatch: pytest.MonkeyPatch) -> None:
    """Of five documents even the rarest signs are too common, whatever the models are; of six they are not."""
    monkeypatch.setattr(type(shelf), "BASE", shelf.BASE[:5])
    shelf.run("r1", "mine", ("large", 90 * MB, 0.02), ("middle", 60 * MB, 0.021), ("small", 50 * MB, 0.5))
    found = best.choose(shelf.home)
    assert (found.winner.row.name, found.alike, found.smallest) == ("large", (), found.winner)
    told = "5 documents were measured, and at least 6 are needed; measure more windows"
    assert found.few is not None and found.few.startswith(told) and found.as_json()["note"] == found.few
    first = shown(found).splitlines()[0]
    assert first == f"nothing here is beyond doubt: {found.few}"  # before anything is called the best
    assert "best by its value alone: large" in shown(found) and "●" not in shown(found)


def test_six_documents_tell_several_models_apart(shelf: "Shelf", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(shelf), "BASE", shelf.BASE[:6])
    shelf.run("r1", "mine", ("large", 90 * MB, 0.02), ("middle", 60 * MB, 0.021), ("noisy", 50 * MB, 0.03))
    found = best.choose(shelf.home)
    assert (found.winner.row.name, found.few, names(found.alike)) == ("large", None, ["noisy"])
    alone = best.choose(shelf.home, best.limits("80MB"))
    assert (alone.winner.row.name, names(alone.alike)) == ("middle", ["noisy"])


def test_one_document_crowns_nobody(shelf: "Shelf", monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even a single model that keeps all of it there."""
    monkeypatch.setattr(type(shelf), "BASE", shelf.BASE[:1])
    shelf.run("r1", "mine", ("only", 90 * MB, -0.2))
    found = best.choose(shelf.home)
    assert (found.winner.retained, found.alike, found.as_good) == (1, (), ())
    written = StringIO()
    best_words.show(Console(file=written, width=300), found)  # with the table
    text = written.getvalue()
    assert text.splitlines()[0].startswith("nothing here is beyond doubt: 1 document was measured, and at least 6 are")
    assert "best by its value alone: only" in text and "\nbest: " not in text
    kept = shipping.headline(found, lambda one: one.row.name, None)
    assert kept.startswith("Best by its value alone: only")  # though no gate objects
    told = shipping.reasons(found, lambda one: one.row.name, None, {})
    assert told[0] == f"Nothing here is beyond doubt: {found.few}."


def test_of_those_that_keep_everything_the_smallest_is_best_and_then_the_one_of_lower_perplexity(
    shelf: "Shelf",
) -> None:
    """Whatever the order in which they were made; and it is said."""
    shelf.run("r1", "mine", ("worst", 60 * MB, -0.05), ("best", 60 * MB, -0.2), ("middle", 60 * MB, -0.1))
    shelf.run("r2", "mine", ("large", 90 * MB, -0.5), ("lossy", 30 * MB, 0.3))
    found = best.choose(shelf.home)
    assert names(found.ranked) == ["best", "middle", "worst", "large", "lossy"] and found.equals == 4
    assert "4 keep as much (retained quality ends at 100 %): the smallest of them is best, of equal" in shown(found)
    assert "keep as much" not in shown(best.choose(shelf.home, best.limits("50MB")))


def test_many_models_on_few_documents_say_why_none_is_offered(shelf: "Shelf") -> None:
    """Twelve documents tell twelve models apart, but of so many at once no interval has an end that was seen."""
    models = [(f"m{n}", (60 - n) * MB, 0.02 + 1e-5 * n) for n in range(21)]
    shelf.run("r1", "mine", *models)
    found = best.choose(shelf.home, margin=0.5)
    assert found.few is None and found.as_good == () and found.smallest is found.winner
    told = "12 documents cannot show of any of 20 smaller models, judged at once, for which "
    assert found.blind is not None and found.blind.startswith(told) and found.as_json()["note"] == found.blind
    assert "measure more windows (measure.windows), or compare fewer models" in shown(found)
    assert "of no smaller one it is beyond doubt" not in shown(found)
    assert found.blind[1:] in " ".join(shipping.reasons(found, lambda one: one.row.name, None, {}))
    fewer = best.choose(shelf.home, best.limits("45MB"), margin=0.5)
    assert fewer.blind is None and fewer.smallest.row.name == "m20"


def test_a_sign_means_one_thing_and_says_what(stocked: "Shelf") -> None:
    """A star is the choice, here as on the page; a diamond is the front."""
    written = StringIO()
    best_words.show(Console(file=written), best.choose(stocked.home))
    text = written.getvalue()
    signs = {line.split()[1]: line.split()[0] for line in text.splitlines() if line.strip().startswith(tuple("★◆"))}
    assert signs["large"] == "★" and {signs["middle"], signs["small"]} == {"◆"}
    assert "★ the choice, ◆ on the front: none is smaller and better; a model's folder" in text
    assert "✗" not in text


def test_what_a_gate_stopped_is_not_offered_though_it_keeps_most(stocked: "Shelf") -> None:
    rows = stocked.run("r3", "gated", ("kept", 80 * MB, 0.015), ("stopped", 20 * MB, 0.01))
    texts = ["headline ≥ 0.995 is not kept: 99.00 %", "kl ≤ 1 is kept"]
    decided = [Decision(0, "headline ≥ 0.995", 2, "2 stopped", text == texts[1], "stop", text) for text in texts]
    report.save(Report("r3", "gated", tuple(rows), tuple(decided)), stocked.home.runs / "r3")
    found = best.choose(stocked.home, margin=1)
    assert (found.ranked[0].row.name, found.winner.row.name, found.smallest.row.name) == ("stopped", "kept", "small")
    for ones in (found.front, found.alike, found.as_good):
        assert "stopped" not in names(ones)
    assert found.breaches == {hash_json("stopped"): texts[0]}
    assert f"✗ refused by a gate, so not offered: stopped of run r3 ({texts[0]})" in shown(found)
    alone = best.limits("30MB")
    with pytest.raises(
        BadInput, match="keeps bytes ≤ 30MB and the gates of its recipe; the nearest is stopped of run r3"
    ):
        best.choose(stocked.home, alone)


def test_what_has_no_scores_is_not_said_to_be_alike(stocked: "Shelf") -> None:
    row = stocked.run("r3", "old", ("unscored", 50 * MB, 0.021))[-1]
    folder = stocked.home.store.folder("evaluation", row.evaluation)
    (folder / "scores.json").unlink()
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["files"]["scores.json"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    found = best.choose(stocked.home, margin=1)
    assert (found.winner.row.name, names(found.unscored), found.alike) == ("large", ["unscored"], ())
    assert "unscored" not in names(found.as_good) and found.as_json()["not_compared"] == [hash_json("unscored")]
    text = shown(found)
    assert "no scores of the same documents, token for token, so not compared with it: unscored of run r3" in text
    assert "●" not in text


def test_what_was_scored_on_other_tokens_takes_no_choice_away(stocked: "Shelf") -> None:
    """One token of one document, counted otherwise, leaves that model out and no other."""
    row = stocked.run("r3", "odd", ("odd", 50 * MB, 0.021))[-1]
    folder = stocked.home.store.folder("evaluation", row.evaluation)
    found = scores.load(folder)[SCORED]
    scores.save({SCORED: replace(found, counts=(11, *found.counts[1:]))}, folder)
    choice = best.choose(stocked.home, margin=1)
    assert (choice.winner.row.name, names(choice.unscored), choice.few, choice.blind) == ("large", ["odd"], None, None)
    assert names(choice.as_good) == ["middle", "small", "bad"] and "token for token, so not compared" in shown(choice)


def test_of_more_models_than_the_draws_can_tell_none_is_as_good(shelf: "Shelf") -> None:
    """However wide the margin: an end that nobody has seen is none."""
    one, two = (Scores(tuple("abcdefghijkl"), shelf.losses(more), (1,) * 12) for more in (0.02, 0.021))
    assert as_good.judge(two, one, 0.98, 0.1).kept
    judged = as_good.judge(two, one, 0.98, 0.1, tests=100)
    assert not judged.kept and "100 are judged at once" in judged.text


def test_names_in_brackets_are_names(stocked: "Shelf") -> None:
    found = best.choose(stocked.home)
    named = replace(found, group=replace(found.group, origin="/data/[proj]/[/x]"))
    written = StringIO()
    best_words.show(Console(file=written), named)
    assert "/data/[proj]/[/x]" in written.getvalue()


def shown(found: best.Choice) -> str:
    console = Console(record=True, width=300)
    best_words.show(console, found)
    return console.export_text()


def test_only_what_is_comparable_is_ranked_together(stocked: "Shelf") -> None:
    stocked.run("r4", "longer", ("other", 10 * MB, 0.01), windows=8)
    newest = best.choose(stocked.home)
    assert names(newest.ranked) == ["other"] and [len(group.candidates) for group in newest.others] == [4]
    asked = best.choose(stocked.home, recipe="yours")
    assert asked.winner.row.name == "large" and newest.group.label == "some/origin (8 windows of 64 tokens, float32)"
    with pytest.raises(BadInput, match=r"--recipe 'longr': .* did you mean 'longer'"):
        best.choose(stocked.home, recipe="longr")


def test_a_model_counts_once_and_only_while_its_folder_is_there(stocked: "Shelf") -> None:
    stocked.run("r5", "again", ("large", 90 * MB, 0.02))
    found = best.choose(stocked.home)
    assert names(found.ranked).count("large") == 1 and found.winner.run == "r5"
    shutil.rmtree(stocked.store("large"))
    assert best.choose(stocked.home).winner.row.name == "middle"


def test_an_origin_that_is_gone_takes_no_result_with_it(shelf: "Shelf", model: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(model, moved)
    elsewhere = type(shelf)(Home(tmp_path / "other"), moved)
    elsewhere.run("r1", "mine", ("large", 90 * MB, 0.02))
    shutil.rmtree(moved)
    assert best.choose(elsewhere.home).winner.row.name == "large"


def test_what_no_report_names_and_no_gate_refused_is_a_candidate_too(stocked: "Shelf") -> None:
    stocked.store("probe")
    stocked.measure(hash_json("probe"), stocked.losses(0.01))
    found = best.choose(stocked.home)
    assert (found.winner.row.name, found.winner.run) == ("probe", "")
    assert found.winner.row.retained < 1 and found.winner.row.verdict == "worse"


def test_when_nothing_fits_the_nearest_is_named(stocked: "Shelf") -> None:
    with pytest.raises(BadInput) as error:
        best.choose(stocked.home, best.limits("55MB", ["headline=0.9"]))
    text = str(error.value)
    assert "none of the 4 models" in text and "the nearest is middle of run r1: " in text
    assert "bytes ≤ 55MB is not kept" in text and str(stocked.store("middle")) in text


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ((None, ["headlin=0.9"], []), "--min headlin=0.9: there is no measure 'headlin'; did you mean 'headline'"),
        ((None, ["kl=0.1"], []), "--min kl=0.1: kl is the better the lower it is; write max"),
        ((None, ["headline"], []), "^--min 'headline' is not of the form MEASURE=LIMIT, such as headline=0.9$"),
        ((None, [], ["kl="]), "^--max 'kl=' is not of the form MEASURE=LIMIT, such as kl=0.3$"),
        ((None, ["headline=90"], []), "--min headline=90: headline .* write 0.9 or 90 %"),
        ((None, ["headline=much"], []), "^--min headline=much is no limit of headline; possible: a number, alone or"),
        (("60 apples", [], []), "^--max-bytes 60 apples is no limit of bytes; possible: .* MB"),
        (("60MB, please", [], []), "^--max-bytes 60MB, please is no limit of bytes"),
        (("", [], []), "^--max-bytes '' is not a size, such as 60MB$"),
        ((None, [""], []), "^--min '' is not of the form MEASURE=LIMIT, such as headline=0.9$"),
        ((None, [], [""]), "^--max '' is not of the form MEASURE=LIMIT, such as kl=0.3$"),
    ],
)
def test_limits_that_mean_nothing_are_sentences(given: tuple[Any, list[str], list[str]], sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        best.limits(*given)


def test_a_speed_that_was_not_measured_keeps_no_limit(stocked: "Shelf") -> None:
    with pytest.raises(BadInput, match="decode was not measured"):
        best.choose(stocked.home, best.limits(None, ["decode=10"]))


def test_an_empty_home_says_what_to_do(shelf: "Shelf") -> None:
    with pytest.raises(BadInput, match="make one with: attar run RECIPE"):
        best.choose(shelf.home)


def test_the_command_prints_the_choice(stocked: "Shelf", capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["best", "--max-bytes", "60MB", "--json", "--home", str(stocked.home.root)])
    printed = json.loads(capsys.readouterr().out)
    assert end.value.code == 0 and printed["winner"] == hash_json("middle")
    assert [(one["name"], one["fits"], one["front"]) for one in printed["candidates"]] == [
        ("large", False, True),
        ("middle", True, True),
        ("small", True, True),
        ("bad", False, False),
    ]
    with pytest.raises(SystemExit) as end:
        cli.main(["best", "--max-bytes", "1MB", "--home", str(stocked.home.root)])
    assert end.value.code == 2 and "the nearest is small of run r2" in capsys.readouterr().err


def test_homes_are_folders_like_any_other(shelf: "Shelf") -> None:
    """A stray file among the evaluations is nobody's business."""
    shelf.run("r1", "mine", ("large", MB, 0.02))
    (shelf.home.store.root / "evaluation" / "notes.txt").write_text("x")
    assert best.choose(Home(shelf.home.root)).winner.row.name == "large"
