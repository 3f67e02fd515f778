"""Picking one of several continuations: the one that a model finds likeliest, and how sure it is of it.

The score of a choice is the sum of its tokens' log-probabilities after the text, or their mean (the length-normalised
accuracy of common evaluation harnesses); the confidence is the share of the picked one in the softmax of the scores.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from attar.data.windows import load_tokenizer, opening
from attar.errors import BadInput
from attar.questions import Choosing, Question
from attar.scores import Scores, of_answers

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True)
class Picked:
    """A model's choice, by its place among the choices, and the probability it gave to it among them."""

    choice: int
    confidence: float


def tokenized(
    tokenizer: "Tokenizer", question: Question, opening: Sequence[int] = ()
) -> tuple[list[int], list[list[int]]]:
    """Token ids of a question's text and of each of its choices, which follow after a blank.

    Text and choice are cut into tokens together, as a model reads them: some tokenizers begin every text with a blank
    of their own, which in the middle of a sentence is likely after nothing. Where a token would reach from the one
    into the other it counts to the choices. ``opening`` stands before all, see :func:`attar.data.windows.opening`.
    """
    texts = [question.text, *(f"{question.text} {choice}" for choice in question.choices)]
    prompt, *wholes = [one.ids for one in tokenizer.encode_batch(texts, add_special_tokens=False)]
    most = min(len(prompt), *(len(whole) - 1 for whole in wholes))  # a choice has a token at least
    shared = next((i for i in range(most) if len({ids[i] for ids in (prompt, *wholes)}) > 1), most)
    if not shared and not opening:
        raise BadInput(f"the question {question.key!r} cannot be put: its text and a choice become one token together")
    return [*opening, *prompt[:shared]], [whole[shared:] for whole in wholes]


def longest(tokenizer_file: Path, task: Choosing) -> int:
    """Tokens of the longest question with its longest choice."""
    tokenizer, begin = _opened(tokenizer_file)
    sizes = (tokenized(tokenizer, question, begin) for question in task.questions)
    return max(len(prompt) + max(map(len, choices)) for prompt, choices in sizes)


@torch.no_grad()
def pick(
    model: nn.Module, tokenizer_file: Path, task: Choosing, progress: Callable[[int], None] = lambda done: None
) -> list[Picked]:
    """The choice of a causal language model for every question. ``progress`` hears of each as it is answered."""
    tokenizer, begin = _opened(tokenizer_file)
    found = []
    for question in task.questions:
        scores = _scores(model, *tokenized(tokenizer, question, begin), task.per_token)
        confidence, choice = scores.softmax(0).max(0)
        found.append(Picked(int(choice), float(confidence)))
        progress(1)
    return found


def answers(task: Choosing, picked: list[Picked]) -> Scores:
    """1 for every right answer and 0 for every wrong one, with how sure the model was."""
    right = [float(one.choice == question.right) for one, question in zip(picked, task.questions, strict=True)]
    return of_answers([question.key for question in task.questions], right, [one.confidence for one in picked])


def _opened(tokenizer_file: Path) -> tuple["Tokenizer", list[int]]:
    """The tokenizer, and the ids that every text begins with."""
    tokenizer = load_tokenizer(tokenizer_file)
    return tokenizer, opening(tokenizer, tokenizer_file)


def _scores(model: nn.Module, prompt: list[int], choices: list[list[int]], per_token: bool) -> Tensor:
    """A score for every choice [choices]. Shape suffixes: C choices, T tokens of a choice, V vocabulary."""
    device = next(model.parameters()).device
    width = max(len(choice) for choice in choices)
    out = model(input_ids=torch.tensor([prompt], device=device), use_cache=True, logits_to_keep=1)
    out.past_key_values.batch_repeat_interleave(len(choices))  # the prompt is read once for all choices
    # Padded on the right, where a causal model does not look from.
    rows_CT = torch.tensor([choice + [0] * (width - len(choice)) for choice in choices], device=device)
    after = model(input_ids=rows_CT, past_key_values=out.past_key_values, use_cache=True).logits
    logits_CTV = torch.cat([out.logits.expand(len(choices), -1, -1), after[:, :-1]], dim=1)
    found = []
    for choice, row_TV in zip(choices, logits_CTV, strict=True):
        target = torch.tensor(choice, device=device)
        reduction = "mean" if per_token else "sum"
        found.append(-functional.cross_entropy(row_TV[: len(choice)].float(), target, reduction=reduction))
    return torch.stack(found).double().cpu()
