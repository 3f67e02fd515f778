"""Latency at chosen batch sizes: seconds until the first token, and from each token to the next.

A batch is so many prompts of one length that arrive together. After a warm-up come :data:`attar.suite.LATENCY_PASSES`
passes of at most :data:`attar.suite.LATENCY_TOKENS` tokens, each timed by itself: some hundred steps, of which the 95th
percentile is one that was really taken. Bump ``Suite.version`` when any of this changes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from statistics import median

from torch import nn

from attar.speed import random_prompt, timed_pass
from attar.suite import LATENCY_PASSES, Suite

WARM_UP = 2  # tokens


@dataclass(frozen=True)
class Latency:
    """What a user of one of ``batch`` sequences waits for, in seconds, and what all of them get, in tokens/s."""

    first_token: float  # median over the passes
    p50: float  # of a token after the first, over all steps of all passes
    p95: float
    prefill: float  # tokens/s of all sequences together, as decode
    decode: float


def measure_latencies(
    model: nn.Module,
    vocabulary: int,
    suite: Suite,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[int, Latency]:
    """Batch size → latency, for every size of the suite; nothing where it asks for none."""
    total, found = len(suite.batches) * (LATENCY_PASSES + 1), dict[int, Latency]()
    for batch in suite.batches:
        prompt_BT = random_prompt(model, vocabulary, batch, suite.prompt)
        done = len(found) * (LATENCY_PASSES + 1)
        progress(done, total)  # between what is timed
        timed_pass(model, prompt_BT, WARM_UP)
        passes = []
        for number in range(1, LATENCY_PASSES + 1):
            progress(done + number, total)
            passes.append(timed_pass(model, prompt_BT, suite.latency_tokens, each=True))
        found[batch] = summarize(passes, batch, suite.prompt)
    return found


def summarize(passes: Sequence[Sequence[float]], batch: int, prompt: int) -> Latency:
    """Of passes, each the seconds of its first token and then of every other one."""
    first = median(seconds[0] for seconds in passes)
    steps = [step for seconds in passes for step in seconds[1:]]
    return Latency(
        first_token=first,
        p50=percentile(steps, 0.50),
        p95=percentile(steps, 0.95),
        prefill=batch * prompt / first,
        decode=batch * median((len(seconds) - 1) / sum(seconds[1:]) for seconds in passes),
    )


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest of the values that at least this share of them does not exceed (nearest rank)."""
    return sorted(values)[max(0, ceil(share * len(values) - 1e-9) - 1)]
