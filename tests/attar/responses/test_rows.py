"""Pairs as rows: what is learned, what padding costs, and that no pair sees another."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from attar.errors import BadInput
from attar.model import Model
from attar.responses.chat import Chat
from attar.responses.pairs import Pair
from attar.responses.rows import Row, padded, steps_of, tokenize
from attar.tiny import tiny_model
from attar.training import loss_of
from attar.training_settings import TrainingSettings


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


def pair(question: str, answer: str) -> Pair:
    return Pair(({"role": "user", "content": question},), answer)


def test_answers_and_their_end_are_learned_and_prompts_are_not(folder: Path) -> None:
    chat = Chat(folder)
    (row,), left, cut = tokenize([pair("What is it?", "A thing.")], chat, 64)
    assert (left, cut) == (0, 0)
    assert chat.text(row.ids[row.prompt :]) == "A thing." and row.ids[-1] == chat.end
    ids, learned = padded([row, Row((1, 2, 3), 1)])
    assert ids.shape == (2, len(row.ids)) and learned.shape == (2, len(row.ids) - 1)
    assert ids[0][1:][learned[0]].tolist() == list(row.ids[row.prompt :])
    assert ids[1][1:][learned[1]].tolist() == [2, 3]


def test_what_does_not_fit_is_cut_or_left_out(folder: Path) -> None:
    chat = Chat(folder)
    asked = len(chat.prompt(pair("why?", "x").messages))
    rows, left, cut = tokenize([pair("why?", "because " * 50), pair("why? " * 50, "x")], chat, asked + 5)
    assert (len(rows), left, cut) == (1, 1, 1)
    assert len(rows[0].ids) == asked + 5 and rows[0].ids[-1] != chat.end
    with pytest.raises(BadInput, match="raise length"):
        tokenize([pair("why? " * 50, "x")], chat, 8)


def test_the_loss_of_a_batch_is_that_of_its_pairs_one_by_one(folder: Path) -> None:
    """Padding changes nothing, and no pair sees another: in value and in gradient."""
    student, teacher = (Model(folder).materialize(torch.float64) for _ in range(2))
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.mul_(1.05)
    student.requires_grad_(True)
    draw = np.random.default_rng(0)
    rows = [Row(tuple(draw.integers(0, 512, size).tolist()), size // 2) for size in (5, 40, 17)]
    ids, learned = (torch.from_numpy(array) for array in padded(rows))
    settings = TrainingSettings(alpha=0.5)
    found = loss_of(student, teacher, ids, settings, learned_BT=learned)
    total, count = torch.zeros((), dtype=torch.float64), 0
    for row in rows:
        one = torch.tensor([row.ids])
        q, p = (
            student(input_ids=one).logits[0, row.prompt - 1 : -1],
            teacher(input_ids=one).logits[0, row.prompt - 1 : -1],
        )
        cross = functional.cross_entropy(q, one[0, row.prompt :], reduction="sum")
        distance = functional.kl_div(q.log_softmax(-1), p.log_softmax(-1), log_target=True, reduction="sum")
        total, count = total + 0.5 * cross + 0.5 * distance, count + len(q)
    parameters = list(student.parameters())
    assert torch.allclose(found.loss, total / count, atol=1e-9)
    expected = torch.autograd.grad(total / count, parameters)
    for mine, other in zip(torch.autograd.grad(found.loss, parameters), expected, strict=True):
        assert torch.allclose(mine, other, atol=1e-8)


def lengths(count: int, seed: int = 0) -> list[int]:
    return [int(n) for n in np.random.default_rng(seed).integers(10, 200, count)]


@pytest.mark.parametrize("seed", range(3))
def test_steps_keep_the_budget_and_waste_little(seed: int) -> None:
    sizes = lengths(100)
    steps = steps_of(sizes, [], 0.0, 60, 1024, seed)
    assert len(steps) == 60
    widest = [max(sizes[i] for i in step) * len(step) for step in steps]
    assert max(widest) <= 1024
    assert sum(sizes[i] for step in steps for i in step) > 0.8 * 60 * 1024
    assert steps_of(sizes, [], 0.0, 30, 1024, seed) == steps[:30] and steps_of(sizes, [], 0.0, 60, 1024, 9) != steps


def test_every_row_is_read_about_as_often_as_any_other() -> None:
    sizes = lengths(37)
    steps = steps_of(sizes, [], 0.0, 200, 512, 0)
    read = np.bincount([i for step in steps for i in step], minlength=37)
    assert read.min() >= read.max() - 4 and read.min() > 5


@pytest.mark.parametrize("ratio", [0.1, 0.25, 0.5, 0.9])
def test_human_rows_have_their_share(ratio: float) -> None:
    steps = steps_of(lengths(100), lengths(7, 1), ratio, 200, 1024, 0)
    read = [i for step in steps for i in step]
    assert abs(sum(i >= 100 for i in read) / len(read) - ratio) < 0.03
    assert {i for i in read if i >= 100} == set(range(100, 107))
