"""Picking the described function out of four: a measure of knowledge that is not next-token loss.

A question shows the first paragraph of a docstring and four function names, of which one is described; the model's
choice is the name with the largest mean log-probability per token after the question (the length-normalised accuracy
of common evaluation harnesses). Chance is 25 %.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from attar.data import Document
from attar.data.windows import load_tokenizer
from attar.responses.prompts import public_name
from attar.scores import Scores, of_answers

CHOICES = 4
SHORTEST, LONGEST = 40, 400  # characters of a description
QUESTION = "Description: {description}\nThe Python function described above is"


@dataclass(frozen=True)
class Question:
    """A question, its choices, and which one is right."""

    text: str
    choices: tuple[str, ...]
    right: int


def questions(documents: Sequence[Document], count: int, seed: int) -> list[Question]:
    """At most ``count`` questions about documents, the same for the same seed; fewer are a prefix of more.

    Choices are of one library, so that the library's name tells nothing; a description that holds the function's own
    name is not asked about.
    """
    described = {name: text for d in documents if (name := public_name(d)) and (text := _description(d, name))}
    by_library: dict[str, list[str]] = defaultdict(list)
    for name in sorted(described):
        by_library[name.partition(".")[0]].append(name)
    found = []
    for name in sorted(described, key=lambda name: _draw(seed, name)):
        others = [other for other in by_library[name.partition(".")[0]] if _leaf(other) != _leaf(name)]
        drawn = sorted(others, key=lambda other: _draw(seed, name, other))[: CHOICES - 1]
        if len(drawn) == CHOICES - 1:
            choices = sorted([name, *drawn], key=lambda choice: _draw(seed, name, choice, "place"))
            text = QUESTION.format(description=described[name])
            found.append(Question(text, tuple(choices), choices.index(name)))
    return found[:count]


@torch.no_grad()
def choose(
    model: nn.Module,
    tokenizer_file: Path,
    asked: Sequence[Question],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[int]:
    """The choice of a causal language model for every question. ``progress`` hears (done, total)."""
    tokenizer = load_tokenizer(tokenizer_file)
    device = next(model.parameters()).device
    chosen = []
    for done, question in enumerate(asked, start=1):
        prompt = tokenizer.encode(question.text, add_special_tokens=False).ids
        names = [tokenizer.encode(f" {choice}", add_special_tokens=False).ids for choice in question.choices]
        longest = max(len(name) for name in names)
        out = model(input_ids=torch.tensor([prompt], device=device), use_cache=True, logits_to_keep=1)
        out.past_key_values.batch_repeat_interleave(len(names))  # the prompt is read once for all choices
        # Padded on the right, where a causal model does not look from.
        rows_CT = torch.tensor([name + [0] * (longest - len(name)) for name in names], device=device)
        after = model(input_ids=rows_CT, past_key_values=out.past_key_values, use_cache=True).logits
        logits_CTV = torch.cat([out.logits.expand(len(names), -1, -1), after[:, :-1]], dim=1)
        scores = []
        for name, row_TV in zip(names, logits_CTV, strict=True):
            losses = functional.cross_entropy(row_TV[: len(name)].float(), torch.tensor(name, device=device))
            scores.append(-losses.item())
        chosen.append(max(range(len(scores)), key=scores.__getitem__))
        progress(done, len(asked))
    return chosen


def accuracy(chosen: Sequence[int], asked: Sequence[Question]) -> float:
    """Share of right choices."""
    return sum(choice == question.right for choice, question in zip(chosen, asked, strict=True)) / len(asked)


def answers(chosen: Sequence[int], asked: Sequence[Question]) -> Scores:
    """The same question by question, each called by the function that it asks for."""
    right = [float(choice == question.right) for choice, question in zip(chosen, asked, strict=True)]
    return of_answers([question.choices[question.right] for question in asked], right)


def _description(document: Document, name: str) -> str | None:
    """The first paragraph on one line, if it is neither too short nor too long and does not give the name away."""
    text = " ".join(re.split(r"\n[ \t\r]*\n", document.text.strip(), maxsplit=1)[0].split())
    told = re.search(rf"\b{re.escape(_leaf(name))}\b", text, re.IGNORECASE)
    return text if SHORTEST <= len(text) <= LONGEST and not told else None


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]


def _draw(seed: int, *words: str) -> bytes:
    return hashlib.sha256("/".join((str(seed), *words)).encode()).digest()
