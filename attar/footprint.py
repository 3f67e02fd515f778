"""Speed of a model as a user feels it: prefill and decode of one sequence, batch 1, greedy."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch
from torch import nn

from attar.suite import Suite


@dataclass(frozen=True)
class Speed:
    """Median tokens per second over the suite's repeats, after one warm-up."""

    prefill: float
    decode: float


@torch.no_grad()
def measure_speed(
    model: nn.Module,
    vocabulary: int,
    suite: Suite,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Speed:
    """Time prefill of ``suite.prompt`` random tokens and greedy decoding of ``suite.new_tokens`` after it."""
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(0)
    prompt = torch.randint(0, vocabulary, (1, suite.prompt), generator=generator).to(device)
    prefills, decodes = [], []
    for done in range(suite.repeats + 1):
        progress(done, suite.repeats + 1)  # between what is timed
        started = _now(device)
        out = model(input_ids=prompt, use_cache=True, logits_to_keep=1)
        token = out.logits[:, -1:].argmax(-1)
        first = _now(device)
        for _ in range(suite.new_tokens):
            out = model(input_ids=token, past_key_values=out.past_key_values, use_cache=True)
            token = out.logits[:, -1:].argmax(-1)
        ended = _now(device)
        prefills.append(suite.prompt / (first - started))
        decodes.append(suite.new_tokens / (ended - first))
    return Speed(median(prefills[1:]), median(decodes[1:]))


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
