"""Sitting an exam: the origin is like itself, figures are those of the scores, and long questions are refused first."""

from pathlib import Path

import pytest
import torch

from attar.errors import BadInput
from attar.exam import Exam
from attar.examining import Found, examine
from attar.model import Model
from attar.questions import Choosing, Question, Task, Writing, Written
from attar.responses.prompts import Prompt
from attar.tiny import tiny_model

PROMPTS = tuple(Prompt(({"role": "user", "content": f"Say something about the number {i}."},)) for i in range(9))
PICK = Choosing("picked", tuple(Question(str(i), f"Is {i} a number?", ("yes", "no"), 0) for i in range(8)))
WRITE = Writing("written", tuple(Written(str(i), f"Say {i}.", (str(i),)) for i in range(3)), 8)
EXAM = Exam((PICK, WRITE), PROMPTS, tokens=12)


def sit(source: Model, exam: Exam, before: dict[str, str] | None, heard: list[tuple[int, int, str]]) -> Found:
    model = source.materialize(torch.float32)
    return examine(exam, model, source, before, lambda *told: heard.append(told))


@pytest.fixture(scope="module")
def heard() -> list[tuple[int, int, str]]:
    return []


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return Model(tiny_model(tmp_path_factory.mktemp("examining") / "model"))


@pytest.fixture(scope="module")
def origin(source: Model, heard: list[tuple[int, int, str]]) -> Found:
    return sit(source, EXAM, None, heard)


def test_the_origin_is_like_itself_and_measured_the_same_twice(source: Model, origin: Found) -> None:
    assert origin.figures["generation/overlap"]["value"] == origin.figures["generation/same"]["value"] == 1
    again = sit(source, EXAM, origin.answers, [])
    assert again == origin
    assert set(origin.answers) == {prompt.key for prompt in PROMPTS} and origin.prompt_format == "plain"


def test_another_model_answers_the_same_prompts_and_is_less_like(origin: Found, tmp_path: Path) -> None:
    other = sit(Model(tiny_model(tmp_path / "other", seed=1)), EXAM, origin.answers, [])
    for name, scored in origin.scores.items():
        assert other.scores[name].ids == scored.ids and other.scores[name].counts == scored.counts
    assert other.figures["generation/overlap"]["value"] < 0.5
    assert other.figures["generation/repetition"]["lower_is_better"]


def test_figures_are_those_of_the_scores(origin: Found) -> None:
    assert set(origin.figures) == set(origin.scores)
    for name, figures in origin.figures.items():
        assert figures["value"] == origin.scores[name].mean and figures["items"] == len(origin.scores[name].ids)
        assert "low" not in figures  # intervals are made of the scores by who shows them
    picked = origin.figures["picked"]
    assert picked["chance"] == 0.5 and 0 <= picked["confidently_wrong"] <= 1 and 0 <= picked["calibration_error"] <= 1


def test_progress_goes_to_the_end_of_every_part(origin: Found, heard: list[tuple[int, int, str]]) -> None:
    ends = {what: (done, total) for done, total, what in heard}
    assert ends == {
        "questions of picked": (8, 8),
        "answers of written": (3, 3),
        "answers to prompts": (9, 9),
    }


def test_who_writes_what_is_asked_for_is_always_right(source: Model) -> None:
    """Asked for what it writes anyway, the model scores 1."""
    prompts = [Prompt(({"role": "user", "content": item.prompt},)) for item in WRITE.items]
    said = sit(source, Exam((), tuple(prompts), WRITE.tokens), None, []).answers
    items = tuple(Written(i.key, i.prompt, (said[p.key],)) for i, p in zip(WRITE.items, prompts, strict=True))
    found = sit(source, Exam((Writing("written", items, WRITE.tokens),)), None, [])
    assert found.figures["written"]["value"] == 1


@pytest.mark.parametrize(
    "task",
    [
        Choosing("long", (Question("1", "word " * 700, ("yes", "no"), 0),)),
        Writing("long", (Written("1", "word " * 500, ("yes",)),), 64),
    ],
    ids=["picked", "written"],
)
def test_a_question_longer_than_the_positions_is_a_sentence(task: Task, tmp_path: Path) -> None:
    learned = Model(tiny_model(tmp_path / "gpt2", "gpt2"))
    with pytest.raises(BadInput, match=r"of long.* longer than the 512 positions"):
        sit(learned, Exam((task,)), None, [])
