"""Four choices: fair questions, the same for everybody, and a model that knows is told from one that does not."""

from pathlib import Path

import pytest
import torch

from attar.choices import CHOICES, Question, accuracy, answers, choose, questions
from attar.data import Document
from attar.model import Model
from attar.tiny import tiny_model


def document(library: str, leaf: str, text: str) -> Document:
    return Document(f"{library}._core.{leaf}", f"{library}._core", text)


TEXT = "Compute the number {} of a thing that nobody asked for.\n\nMore about it."
DOCUMENTS = [document(lib, f"{lib}_f{i}", TEXT.format(i * 7)) for lib in ("one", "two") for i in range(20)]


def test_questions_are_fair() -> None:
    found = questions(DOCUMENTS, 100, seed=0)
    assert len(found) == 40
    for question in found:
        assert len(set(question.choices)) == CHOICES
        assert len({choice.partition(".")[0] for choice in question.choices}) == 1
        name = question.choices[question.right]
        index = int(name.rpartition("f")[2])
        assert f"the number {index * 7} of" in question.text and name not in question.text
        assert "More about it" not in question.text
    places = [question.right for question in found]
    assert set(places) == set(range(CHOICES))


def test_questions_are_the_same_for_everybody() -> None:
    found = questions(DOCUMENTS, 10, seed=0)
    assert questions(list(reversed(DOCUMENTS)), 30, seed=0)[:10] == found
    assert questions(DOCUMENTS, 10, seed=1) != found


@pytest.mark.parametrize(
    "odd",
    [
        document("one", "norm", "Compute the norm of a vector or of a matrix of numbers."),
        document("one", "short", "Too short."),
        document("one", "_hidden", "Compute something that is of no concern to anybody else."),
        Document("one._core:12", "one._core", "Compute something that has no name of its own in there."),
    ],
    ids=lambda d: d.name,
)
def test_what_makes_no_question(odd: Document) -> None:
    assert questions([*DOCUMENTS, odd], 100, seed=0) == questions(DOCUMENTS, 100, seed=0)


def test_three_others_are_needed() -> None:
    assert questions(DOCUMENTS[:3], 10, seed=0) == []


def test_the_choice_is_the_likeliest_name_per_token(tmp_path: Path) -> None:
    """Against plain sums of log-probabilities, one choice at a time."""
    source = Model(tiny_model(tmp_path / "model"))
    model = source.materialize(torch.float32)
    asked = questions(DOCUMENTS, 6, seed=0)
    from attar.data.windows import load_tokenizer

    tokenizer = load_tokenizer(source.tokenizer_file)

    def score(question: Question, choice: str) -> float:
        prompt, name = (tokenizer.encode(t, add_special_tokens=False).ids for t in (question.text, f" {choice}"))
        logs = model(input_ids=torch.tensor([prompt + name])).logits[0].log_softmax(-1)
        return float(sum(logs[len(prompt) - 1 + i, token] for i, token in enumerate(name)) / len(name))

    with torch.no_grad():
        expected = [max(range(CHOICES), key=lambda i: score(q, q.choices[i])) for q in asked]
    assert choose(model, source.tokenizer_file, asked) == expected


def test_accuracy_is_the_share_of_right_choices() -> None:
    asked = [Question("?", ("a", "b", "c", "d"), right) for right in (0, 1, 2, 3)]
    assert accuracy([0, 1, 2, 0], asked) == 0.75
    scored = answers([0, 1, 2, 0], asked)
    assert (scored.ids, scored.sums, scored.mean) == (("a", "b", "c", "d"), (1, 1, 1, 0), 0.75)
