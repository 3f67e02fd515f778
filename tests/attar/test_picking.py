"""Picking an answer: the likeliest by its tokens, chance for whoever knows nothing, and 1 for whoever knows."""

from dataclasses import replace
from math import sqrt

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers
from torch import nn

from attar.choices import questions
from attar.data import Document
from attar.data.windows import load_tokenizer
from attar.errors import BadInput
from attar.model import Model
from attar.picking import answers, longest, pick, tokenized
from attar.questions import Choosing, Question
from attar.tiny import tiny_model

TEXT = "Compute the number {} of a thing that nobody asked for."
DOCUMENTS = [Document(f"one.core.f{i}_{i * i % 97}", "one.core", TEXT.format(i * 7)) for i in range(600)]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return Model(tiny_model(tmp_path_factory.mktemp("picking") / "model"))


@pytest.fixture(scope="module")
def model(source: Model) -> nn.Module:
    return source.materialize(torch.float32)


@pytest.mark.parametrize("per_token", [True, False])
@torch.no_grad()
def test_the_choice_is_the_likeliest_by_its_tokens(source: Model, model: nn.Module, per_token: bool) -> None:
    """Against plain sums of log-probabilities, one choice at a time."""
    asked = Choosing("describes", tuple(questions(DOCUMENTS, "easy", 6)), per_token)
    tokenizer = load_tokenizer(source.tokenizer_file)

    def score(question: Question, choice: str) -> torch.Tensor:
        prompt, name = (tokenizer.encode(t, add_special_tokens=False).ids for t in (question.text, f" {choice}"))
        logs = model(input_ids=torch.tensor([prompt + name])).logits[0].log_softmax(-1)
        total = sum(logs[len(prompt) - 1 + i, token] for i, token in enumerate(name))
        return torch.as_tensor(total / len(name) if per_token else total)

    for question, picked in zip(asked.questions, pick(model, source.tokenizer_file, asked), strict=True):
        shares = torch.stack([score(question, choice) for choice in question.choices]).softmax(0)
        assert picked.choice == int(shares.argmax())
        assert picked.confidence == pytest.approx(float(shares.max()), abs=1e-4)


def test_a_random_model_scores_chance(source: Model, model: nn.Module) -> None:
    asked = Choosing("describes", tuple(questions(DOCUMENTS, "easy", 200)))
    found = answers(asked, pick(model, source.tokenizer_file, asked))
    assert len(found.ids) == 200 and asked.chance == 0.25
    assert abs(found.mean - asked.chance) < 4 * sqrt(0.25 * 0.75 / 200)


def test_who_always_knows_scores_one_and_who_never_does_none(source: Model, model: nn.Module) -> None:
    asked = Choosing("describes", tuple(questions(DOCUMENTS, "hard", 12)))
    heard: list[int] = []
    picked = pick(model, source.tokenizer_file, asked, heard.append)
    assert sum(heard) == 12
    for shift, mean in ((0, 1.0), (1, 0.0)):
        pairs = zip(asked.questions, picked, strict=True)
        known = Choosing("known", tuple(replace(q, right=(p.choice + shift) % 4) for q, p in pairs))
        assert answers(known, pick(model, source.tokenizer_file, known)).mean == mean


def test_the_longest_question_is_told_with_its_longest_choice(source: Model) -> None:
    asked = Choosing("two", (Question("a", "x", ("y", "z"), 0), Question("b", "x y z", ("y", "y y y"), 0)))
    prompt, choices = tokenized(load_tokenizer(source.tokenizer_file), asked.questions[1])
    assert longest(source.tokenizer_file, asked) == len(prompt) + len(choices[1]) == 11


def test_a_choice_has_the_tokens_that_it_has_behind_its_text() -> None:
    """Of a tokenizer that begins every text with a blank, as Llama 2's: alone, a choice would have two."""
    vocabulary = {name: number for number, name in enumerate(["▁", "a", "b", "c", "▁a", "▁b", "▁a▁b"])}
    merges = [("▁", "a"), ("▁", "b")]
    prepending = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.normalizer = prepending
    asked = Question("q", "a", ("b", "bc"), 0)
    assert tokenizer.encode(" b").ids == [0, 5]
    assert tokenized(tokenizer, asked) == ([4], [[5], [5, 3]])
    assert tokenized(tokenizer, asked, [9]) == ([9, 4], [[5], [5, 3]])
    joining = Tokenizer(models.BPE(vocabulary, [*merges, ("▁a", "▁b")]))  # text and choice become one token
    joining.normalizer = prepending
    assert tokenized(joining, asked, [9]) == ([9], [[6], [6, 3]])
    with pytest.raises(BadInput, match="'q' cannot be put: its text and a choice become one token"):
        tokenized(joining, asked)
