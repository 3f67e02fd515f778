"""Batched generation: what padding, batches and a cache give is what the bare model says, token by token."""

from pathlib import Path
from typing import Any

import pytest
import torch

from attar.model import Model
from attar.responses.answers import Answer
from attar.responses.chat import Chat
from attar.responses.decoding import Decoding
from attar.responses.generation import Sampling, answer_all
from attar.responses.prompts import Prompt
from attar.tiny import tiny_model

PROMPTS = [Prompt(({"role": "user", "content": "word " * n + "why?"},)) for n in (1, 9, 3, 30, 5)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


def answers(folder: Path, decoding: Decoding, batch: int, known: tuple[str, ...] = ()) -> dict[str, Answer]:
    model = Model(folder).materialize(torch.float32)
    found: list[Answer] = []
    answer_all(model, Chat(folder), PROMPTS, decoding, batch, lambda p: p.key in known, found.extend)
    return {answer.key: answer for answer in found}


@torch.no_grad()
def by_hand(folder: Path, prompt: Prompt, count: int) -> tuple[str, str, int]:
    """Greedy decoding of one prompt by whole forwards: no cache, no padding, no batch."""
    chat, model = Chat(folder), Model(folder).materialize(torch.float32)
    ids = chat.prompt(prompt.messages)
    said: list[int] = []
    for _ in range(count):
        token = int(model(input_ids=torch.tensor([ids + said])).logits[0, -1].argmax())
        if token in chat.stops:
            return chat.text(said), "stop", len(said) + 1
        said.append(token)
    return chat.text(said), "length", len(said)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_greedy_answers_are_those_of_the_bare_model(folder: Path, batch: int) -> None:
    found = answers(folder, Decoding(6), batch)
    for prompt in PROMPTS:
        answer = found[prompt.key]
        assert (answer.text, answer.finish, answer.answer_tokens) == by_hand(folder, prompt, 6)
        assert answer.prompt_tokens == len(Chat(folder).prompt(prompt.messages))


def test_an_end_of_text_ends_an_answer(folder: Path, tmp_path: Path) -> None:
    """The token that the model likes best as its third is declared an end."""
    import json
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    chat, model = Chat(folder), Model(folder).materialize(torch.float32)
    ids = chat.prompt(PROMPTS[0].messages)
    said: list[int] = []
    with torch.no_grad():
        for _ in range(3):
            said.append(int(model(input_ids=torch.tensor([ids + said])).logits[0, -1].argmax()))
    (copy / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, said[-1]]}))
    answer = answers(copy, Decoding(6), 5)[PROMPTS[0].key]
    assert answer.finish == "stop" and answer.answer_tokens == said.index(said[-1]) + 1


def test_sampling_depends_on_the_prompt_and_the_seed_alone(folder: Path) -> None:
    drawn = Decoding(8, temperature=1.5, top_p=0.9, seed=3)
    one, other = answers(folder, drawn, 2), answers(folder, drawn, 2)
    assert one == other
    assert answers(folder, Decoding(8, 1.5, 0.9, seed=4), 2) != one
    resumed = answers(folder, drawn, 2, known=tuple(one)[:3])  # the first batch is whole, the second half done
    assert resumed == {key: one[key] for key in resumed} and set(resumed) >= set(one) - set(tuple(one)[:3])


def test_samples_follow_the_softmax_within_the_nucleus() -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0])
    expected = (logits / 0.8).softmax(0)
    keys = [str(i) for i in range(4000)]
    for top_p, allowed in ((1.0, 4), (0.9, 2)):
        process = Sampling(Decoding(1, 0.8, top_p), keys)
        drawn: Any = process(torch.zeros(1), logits.expand(len(keys), 4)).argmax(-1)
        found = drawn.bincount(minlength=4) / len(keys)
        share = torch.where(torch.arange(4) < allowed, expected, 0)
        assert torch.allclose(found, share / share.sum(), atol=0.03)
