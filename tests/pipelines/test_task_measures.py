"""Gates and limits on tasks: what a name means, what is refused before the compute, what is judged."""

import json
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from attar.errors import BadInput
from attar.fingerprint import hash_json
from attar.suite import Suite
from pipelines import best, best_words, gates, gating, recipe_reference, report, task_measures
from pipelines.home import Home
from pipelines.plan import make_plan
from pipelines.recipe import validate

if TYPE_CHECKING:
    from tests.pipelines.conftest import Shelf

MB = 1_000_000
PICKED = [{"prompt": f"Is {i} more than 5?", "choices": ["yes", "no"], "answer": int(i <= 5)} for i in range(12)]
WRITTEN = [{"prompt": f"Say {i}.", "answer": i} for i in range(2)]


def gate(measure: str, **limit: Any) -> gates.Gate:
    return gates.parse([{"measure": measure, **limit}])[0]


@pytest.mark.parametrize(
    ("measure", "parts", "unit", "higher"),
    [
        ("task/capitals", ("capitals",), "answers", True),
        ("task/retained", ("retained",), "answers", True),  # a file may be called so
        ("task/describes", ("describes/easy", "describes/hard"), "answers", True),
        ("task/describes/hard", ("describes/hard",), "answers", True),
        ("task/describes/retained", ("describes/easy", "describes/hard"), "share", True),
        ("task/describes/hard/retained", ("describes/hard",), "share", True),
        ("task/facts/confidently_wrong", ("facts",), "answers", False),
        ("task/generation", ("generation/overlap",), "answers", True),
        ("task/generation/empty", ("generation/empty",), "answers", False),
        ("task/lm_eval.piqa/acc_norm", ("lm_eval.piqa/acc_norm",), "answers", True),
        ("task/lm_eval.gsm8k/exact_match:strict-match", ("lm_eval.gsm8k/exact_match:strict-match",), "answers", True),
        ("task/lm_eval.piqa/acc/retained", ("lm_eval.piqa/acc",), "share", True),
        (
            "task/lm_eval.gsm8k/exact_match:strict-match/retained",
            ("lm_eval.gsm8k/exact_match:strict-match",),
            "share",
            True,
        ),
        ("task/lm_eval.wikitext/word_perplexity", ("lm_eval.wikitext/word_perplexity",), "plain", False),
        ("task/lm_eval.wmt/bleu", ("lm_eval.wmt/bleu",), "plain", True),
    ],
)
def test_a_name_says_which_figure_and_which_way_is_better(
    measure: str, parts: tuple[str, ...], unit: str, higher: bool
) -> None:
    asked = task_measures.read(measure)
    assert asked is not None and (asked.parts, asked.unit, asked.higher) == (parts, unit, higher)
    assert gates.MEASURES[measure].higher == higher and gates.has_interval(measure)


@pytest.mark.parametrize(
    "measure",
    [
        "task/",
        "task/../x",
        "task//x",
        "task/capitals/share",
        "task/lm_eval.piqa",
        "task/generation/retained",
        "task/a b",
    ],
)
def test_what_names_no_figure_is_told_what_does(measure: str) -> None:
    with pytest.raises(BadInput, match=r"gates\.0: there is no figure .* possible: task/describes, .*task/FILE"):
        gate(measure, min=0.5)


@pytest.mark.parametrize("task", ["lm_eval.wmt/bleu", "lm_eval.wikitext/word_perplexity", "lm_eval.squad/f1:first"])
def test_of_a_score_that_nobody_guesses_nothing_is_left_above_chance(task: str) -> None:
    known = rf"gates\.0: task/{task}/retained: what guessing gives is known of acc, acc_norm, exact_match alone; limit"
    for side in ("min", "max"):
        with pytest.raises(BadInput, match=rf"{known} task/{task} instead"):
            gate(f"task/{task}/retained", **{side: 0.6})


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"measure": "facts", "min": 0.5}, "there is no measure 'facts'; did you mean 'task/facts'"),
        ({"measure": "task/mine", "max": 0.5}, "task/mine is the better the higher it is; write min"),
        ({"measure": "task/mine", "min": 80}, r"task/mine is a share of 1; write 0\.8 or 80 %"),
        ({"measure": "task/facts/confidently_wrong", "min": 0.1}, "write max instead of min"),
        (
            {"measure": "task/mine", "min": "80 MB"},
            "is no limit of task/mine; possible: a number, alone or with % or ×",
        ),
    ],
)
def test_limits_that_mean_nothing_are_sentences(entry: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        gates.parse([entry])


ALL = Suite(choices=2, facts=5, tasks=["here/mine.jsonl"], generation=3, lm_eval=["piqa", "mmlu"])


def test_what_a_suite_asks_can_be_gated_and_nothing_else() -> None:
    asked = ["describes", "facts", "generation", "mine", "lm_eval.piqa/acc", "lm_eval.mmlu_anatomy/acc"]
    for name in asked:
        task_measures.require(f"task/{name}", ALL)
        with pytest.raises(BadInput, match="no task is asked: give choices, facts, tasks, generation or lm_eval"):
            task_measures.require(f"task/{name}", Suite())
    known = "asked: task/describes, task/facts, task/generation, task/lm_eval.mmlu/METRIC, task/lm_eval.piqa/METRIC, "
    for name in ("others", "lm_eval.arc_easy/acc"):
        with pytest.raises(BadInput, match=rf"does not ask that; {known}task/mine"):
            task_measures.require(f"task/{name}", ALL)


@pytest.fixture
def asking(document: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    for name, rows in (("more", PICKED), ("say", WRITTEN)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = {"tasks": [str(tmp_path / "more.jsonl"), str(tmp_path / "say.jsonl")]}
    return document | {"measure": document["measure"] | asked}


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"measure": "task/mroe", "min": 0.5}, r"gates\.0: task/mroe: .* asked: task/more, task/say"),
        ({"measure": "task/facts", "min": 0.5}, r"gates\.0: task/facts: .* asked: task/more, task/say"),
        ({"measure": "task/say/confidently_wrong", "max": 0.5}, r"gates\.0: .*of say are written out.* gate task/say"),
    ],
)
def test_what_cannot_be_judged_is_a_sentence_of_the_plan(
    asking: dict[str, Any], home: Path, entry: dict[str, Any], words: str
) -> None:
    with pytest.raises(BadInput, match=words):
        make_plan(validate(asking | {"gates": [entry]}), Home(home), complete=True)


def test_the_plan_tells_a_gate_on_a_task_and_names_nothing_otherwise(asking: dict[str, Any], home: Path) -> None:
    plain = make_plan(validate(asking), Home(home), complete=True)
    entries = [{"measure": "task/more", "min": "0.95×"}, {"measure": "task/more/confidently_wrong", "max": "5 %"}]
    gated = make_plan(validate(asking | {"gates": entries}), Home(home), complete=True)
    assert gated.steps == plain.steps
    assert gated.as_json()["gates"][0].startswith("task/more ≥ 0.95× after 2 quantize.rtn (interval); a breach stops")


def test_every_form_that_is_listed_is_one() -> None:
    for form in task_measures.FORMS:
        assert task_measures.read(form) is not None
    listed = {row["measure"]: row for row in recipe_reference.measures()}
    assert listed["task/FILE"]["needs"] == "measure.tasks: FILE.jsonl" and "%" in listed["task/FILE"]["units"]


GOOD, FAIR, POOR = [1.0] * 36 + [0.0] * 4, [1.0] * 35 + [0.0] * 5, [1.0] * 18 + [0.0] * 22
ASKED = {"capitals": "one", "describes": "two"}


@pytest.fixture
def stocked(shelf: "Shelf") -> "Shelf":
    """An origin and two models that were asked tasks, and a third that was not, which keeps most."""
    both = {"describes/easy": GOOD[:30], "describes/hard": POOR[10:]}
    told = {"origin": GOOD, "fair": FAIR, "poor": POOR}
    shelf.answers = {hash_json(name): {"capitals": right, **both} for name, right in told.items()}
    shelf.run("r1", "asked", ("fair", 60 * MB, 0.2), ("poor", 40 * MB, 0.1), tasks=ASKED)
    shelf.answers = {}
    shelf.run("r2", "plain", ("unasked", 50 * MB, 0.02))
    return shelf


def figure(shelf: "Shelf", measure: str, name: str) -> gates.Figure:
    made = report.load(shelf.home.runs / "r1")
    assert made is not None
    row = next(row for row in made.rows if row.name == name)
    return gating.figure(measure, row, made.rows[0], shelf.home.store)


def test_a_figure_has_an_interval_over_questions_and_pairs_with_the_origin(stocked: "Shelf") -> None:
    fair = figure(stocked, "task/capitals", "fair")
    assert (fair.value, fair.origin) == (0.875, 0.9) and fair.low is not None and fair.high is not None
    assert fair.low < 0.8 < fair.value < fair.high
    assert fair.times is not None and fair.times[0] < 0.875 / 0.9 < fair.times[1]
    assert fair.times[0] > fair.low / 0.9  # pairs know more than the two by themselves
    kept = figure(stocked, "task/capitals/retained", "fair")
    assert kept.value == pytest.approx((0.875 - 0.25) / (0.9 - 0.25)) and kept.low is not None and kept.low < kept.value
    wrong = figure(stocked, "task/capitals/confidently_wrong", "poor")
    assert wrong.value == pytest.approx(0.55) and wrong.high is not None and wrong.high > 0.55
    parts = [figure(stocked, f"task/describes/{name}", "fair").value for name in ("easy", "hard")]
    together = figure(stocked, "task/describes", "fair")
    assert together.value == pytest.approx(sum(value for value in parts if value is not None) / 2)


def test_a_gate_on_a_task_is_judged_by_the_end_nearer_to_the_breach(stocked: "Shelf") -> None:
    fair, poor = (figure(stocked, "task/capitals", name) for name in ("fair", "poor"))
    by_value = gates.judge(gate("task/capitals", min="85 %", bound="value"), fair)
    judged = gates.judge(gate("task/capitals", min="85 %"), fair)
    assert by_value.kept and not judged.kept and "87.50 % (low end 7" in judged.text
    paired = gates.judge(gate("task/capitals", min="0.9×"), fair)
    assert paired.kept and "the origin's is 90.00 %, low end 0.9" in paired.text and "×" in paired.text
    assert not gates.judge(gate("task/capitals", min="0.9×"), poor).kept


def test_nobody_can_tell_of_a_task_that_was_not_asked(stocked: "Shelf") -> None:
    asked = gate("task/facts", min=0.1)
    told = gates.judge(asked, figure(stocked, "task/facts", "fair"))
    assert not told.kept and "task/facts was not asked here, so nobody can tell" in told.text
    none = figure(stocked, "task/describes/hard/retained", "fair")
    assert none.value is None and "not above chance in describes/hard" in none.absent


PIQA = "lm_eval.piqa/acc"


def test_who_guesses_retains_nothing(shelf: "Shelf") -> None:
    """Of two choices half the answers are right by luck, as the model's results tell; the origin's are older."""
    told = {"origin": [1.0] * 78 + [0.0] * 22, "guesses": [1.0, 0.0] * 50}
    shelf.answers = {hash_json(name): {PIQA: right} for name, right in told.items()}
    shelf.chance = {hash_json("origin"): None, hash_json("guesses"): 0.5}
    shelf.run("r1", "asked", ("guesses", MB, 0.2), tasks={"lm_eval.piqa": "one"})
    found = figure(shelf, f"task/{PIQA}/retained", "guesses")
    assert found.value == 0 and not gates.judge(gate(f"task/{PIQA}/retained", min=0.6), found).kept
    unknown = gates.judge(gate(f"task/{PIQA}/retained", min=0.6), figure(shelf, f"task/{PIQA}/retained", "origin"))
    assert not unknown.kept and f"what guessing gives in {PIQA} is not known" in unknown.text
    assert best.choose(shelf.home, best.limits(None, [f"task/{PIQA}=0.3"])).winner.row.name == "guesses"


def test_who_was_not_asked_to_write_is_chosen_among_by_what_was_picked(stocked: "Shelf") -> None:
    """The newest wrote answers, too, in the format of prompts: questions to pick from were put as before."""
    stocked.answers = {hash_json(name): {"capitals": POOR} for name in ("origin", "other")}
    more = ASKED | {"generation": "three"}
    stocked.run("r3", "asked", ("other", 30 * MB, 0.3), tasks=more, prompt_format="chat template")
    found = best.choose(stocked.home, best.limits(None, ["task/capitals=70%"]))
    assert found.winner.row.name == "fair" and "prompt_format" not in " ".join(found.breaches.values())


def test_answers_that_are_all_alike_promise_no_more_than_so_many_can(shelf: "Shelf") -> None:
    """Ten right ones are no proof that none of a hundred would be wrong, nor that the two models never differ."""
    shelf.answers = {hash_json(name): {"capitals": [1.0] * 10} for name in ("origin", "fair")}
    shelf.run("r1", "asked", ("fair", MB, 0.2), tasks={"capitals": "one"})
    found = figure(shelf, "task/capitals", "fair")
    least = 0.025 ** (1 / 10)
    assert (found.low, found.high) == (pytest.approx(least), 1.0)
    assert found.times is not None and found.times[0] == pytest.approx(least)
    assert not gates.judge(gate("task/capitals", min="0.95×"), found).kept
    assert gates.judge(gate("task/capitals", min="0.65×"), found).kept


def test_of_few_questions_the_value_is_judged(shelf: "Shelf") -> None:
    shelf.answers = {hash_json(name): {"capitals": [1.0, 1.0, 0.0]} for name in ("origin", "fair")}
    shelf.run("r1", "asked", ("fair", MB, 0.2), tasks={"capitals": "one"})
    told = gates.judge(gate("task/capitals", min=0.6), figure(shelf, "task/capitals", "fair"))
    assert told.kept and "judged by its value: there are too few questions for an interval" in told.text


def shown(found: best.Choice) -> str:
    console = Console(record=True, width=300, file=StringIO())
    best_words.show(console, found)
    return console.export_text()


def test_the_best_is_within_limits_on_tasks_and_what_was_not_asked_is_counted(stocked: "Shelf") -> None:
    assert best.choose(stocked.home).winner.row.name == "unasked"
    found = best.choose(stocked.home, best.limits(None, ["task/capitals=70%"]))
    assert found.winner.row.name == "fair" and found.unasked == (("task/capitals", 1),)
    assert "; 1 lacks task/capitals; left out: 2 outside the limits" in shown(found)
    assert "task/capitals was not asked here" in found.breaches[hash_json("unasked")]
    least = best.choose(stocked.home, best.limits(None, ["task/capitals=0.3×"]))
    assert least.winner.row.name == "poor"
    with pytest.raises(BadInput, match=r"the nearest is fair of run r1: task/capitals ≥ 0\.99 is not kept: 87\.50 %"):
        best.choose(stocked.home, best.limits(None, ["task/capitals=0.99"]))
    with pytest.raises(BadInput, match=r"no model here has task/captials: .* asked: task/capitals, task/describes"):
        best.choose(stocked.home, best.limits(None, ["task/captials=0.9"]))


def test_the_newest_that_were_asked_a_task_are_ranked(stocked: "Shelf") -> None:
    """Though others, measured otherwise, are newer."""
    stocked.run("r4", "longer", ("other", 10 * MB, 0.01), windows=8)
    assert best.choose(stocked.home).winner.row.name == "other"
    assert best.choose(stocked.home, best.limits(None, ["task/capitals=70%"])).winner.row.name == "fair"
    with pytest.raises(BadInput, match=r"no model here has task/capitals: .* no task is asked: give choices, facts"):
        best.choose(stocked.home, best.limits(None, ["task/capitals=70%"]), recipe="longer")


def test_other_questions_by_the_same_name_are_not_held_against_it(stocked: "Shelf") -> None:
    """The newest decides which were meant."""
    stocked.answers = {hash_json(name): {"capitals": POOR} for name in ("origin", "other")}
    stocked.run("r3", "asked", ("other", 30 * MB, 0.3), tasks={"capitals": "changed"})
    found = best.choose(stocked.home, best.limits(None, ["task/capitals=0.2"]))
    assert found.winner.row.name == "other"
    assert "the two differ in tasks" in found.breaches[hash_json("fair")]
