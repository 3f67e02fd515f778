"""Speed of a model as a user feels it: prefill and decode of one sequence, batch 1, greedy."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

import torch
from torch import nn

from attar.suite import Suite


@dataclass(frozen=True)
class Speed:
    """Median tokens per second over the suite's repeats, after one warm-up."""

    prefill: float
    decode: float


def measure_speed(
    model: nn.Module,
    vocabulary: int,
    suite: Suite,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Speed:
    """Time prefill of ``suite.prompt`` random tokens and greedy decoding of ``suite.new_tokens`` after it."""
    prompt_BT = random_prompt(model, vocabulary, 1, suite.prompt)
    prefills, decodes = [], []
    for done in range(suite.repeats + 1):
        progress(done, suite.repeats + 1)  # between what is timed
        first, rest = timed_pass(model, prompt_BT, suite.new_tokens)
        prefills.append(suite.prompt / first)
        decodes.append(suite.new_tokens / rest)
    return Speed(median(prefills[1:]), median(decodes[1:]))


def random_prompt(model: nn.Module, vocabulary: int, batch: int, length: int) -> torch.Tensor:
    """The same random token ids [batch, length] for every model of this vocabulary, on the model's device."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, vocabulary, (batch, length), generator=generator).to(next(model.parameters()).device)


@torch.no_grad()
def timed_pass(model: nn.Module, prompt_BT: torch.Tensor, new_tokens: int, each: bool = False) -> list[float]:
    """Seconds until the first token, and from there until the last of ``new_tokens`` more; or until ``each`` of them.

    Looking at the clock waits for a GPU, as whoever reads every token does.
    """
    marks = [_now(prompt_BT.device)]
    out = model(input_ids=prompt_BT, use_cache=True, logits_to_keep=1)
    token_B1 = out.logits[:, -1:].argmax(-1)
    marks.append(_now(prompt_BT.device))
    for left in reversed(range(new_tokens)):
        out = model(input_ids=token_B1, past_key_values=out.past_key_values, use_cache=True)
        token_B1 = out.logits[:, -1:].argmax(-1)
        if each or not left:
            marks.append(_now(prompt_BT.device))
    return [after - before for before, after in pairwise(marks)]


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
