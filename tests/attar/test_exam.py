"""Exams: nothing by default, the same for all models, named by what they ask, refused before anything is computed."""

import json
from pathlib import Path

import pytest

from attar.data import Corpus, Document
from attar.data.documents import split_of
from attar.errors import BadInput
from attar.exam import set_exam
from attar.suite import ASKED, Suite

MODULES = [f"m{i}" for i in range(200)]
DOCUMENTS = [Document(f"{m}.f", m, f"What the function of the module {m} does, told in a few words.") for m in MODULES]
HELD_OUT = sum(split_of(module) == "held-out" for module in MODULES)


@pytest.fixture
def corpus() -> Corpus:
    return Corpus(DOCUMENTS, [Document("other", "other", "Another text.")], "some", "other")


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps({"prompt": "x", "answer": "y"}) + "\n")
    return path


def test_nothing_is_asked_by_default(corpus: Corpus, tmp_path: Path) -> None:
    exam = set_exam(Suite(), corpus, tmp_path)
    assert exam.inputs() == {} and not exam.tasks and not exam.prompts
    assert not list(tmp_path.iterdir())  # the libraries were not read


def test_what_is_asked_names_an_evaluation_by_its_content_alone(mine: Path) -> None:
    """A suite that asks has the name that it had without, so that only contents tell evaluations apart."""
    plain, asking = Suite(speed=False), Suite(speed=False, tasks=[str(mine)], generation=3, choices=2)
    assert plain.fingerprint({"model": "m"}, {}) == asking.fingerprint({"model": "m"}, {})
    assert plain.fingerprint({"model": "m", "task.mine": "c"}, {}) != plain.fingerprint({"model": "m"}, {})
    assert set(Suite.model_fields) >= ASKED


def test_everybody_gets_the_same_prompts_about_text_that_nothing_is_trained_on(corpus: Corpus, tmp_path: Path) -> None:
    suite = Suite(generation=HELD_OUT)
    exam = set_exam(suite, corpus, tmp_path)
    again = set_exam(suite, Corpus(DOCUMENTS[::-1], [], "some", "other"), tmp_path)
    assert exam.prompts == again.prompts and exam.inputs() == again.inputs()
    held_out = {document.name for document in corpus.documents("held-out")}
    assert all(any(name in prompt.messages[0]["content"] for name in held_out) for prompt in exam.prompts)
    longer = set_exam(Suite(generation=HELD_OUT, answer_tokens=65), corpus, tmp_path)
    assert longer.inputs() != exam.inputs()


def test_more_prompts_than_documents_are_refused(corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=f"generation=500 .* holds {HELD_OUT} documents"):
        set_exam(Suite(generation=500), corpus, tmp_path)


def test_a_task_that_changed_since_the_plan_is_refused(corpus: Corpus, tmp_path: Path, mine: Path) -> None:
    suite = Suite(tasks=[str(mine)])
    exam = set_exam(suite, corpus, tmp_path)
    exam.require_unchanged(exam.inputs())
    exam.require_unchanged({})  # what was planned without it is not refused
    mine.write_text(json.dumps({"prompt": "x", "answer": "z"}) + "\n")
    with pytest.raises(BadInput, match="the questions of mine have changed"):
        set_exam(suite, corpus, tmp_path).require_unchanged(exam.inputs())


def test_the_installed_libraries_give_a_thousand_questions_and_more(corpus: Corpus, tmp_path: Path) -> None:
    exam = set_exam(Suite(choices=1000, facts=500), corpus, tmp_path)
    sizes = {task.name: len(task.questions) for task in exam.tasks}  # type: ignore[union-attr]
    assert sizes == {"describes/easy": 500, "describes/hard": 500, "facts": 500}
    assert set(exam.contents()) == {"describes", "facts"}
    with pytest.raises(BadInput, match=r"measure\.facts: 20,000 questions are asked for where"):
        set_exam(Suite(facts=20_000), corpus, tmp_path)
