"""Pairs as rows of tokens, and which rows a step of training reads.

One pair is one row, padded on the right: a causal model never looks at what comes after, so that padding needs no mask
and no pair can see another. Rows of about one length share a batch, so that little of it is padding.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from math import floor
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from attar.errors import BadInput
from attar.responses.chat import Chat
from attar.responses.pairs import Pair

POOL = 16  # batches' worth of rows that are sorted by length together


@dataclass(frozen=True)
class Row:
    """Token ids of a prompt and its answer; what is learned is all that comes after the prompt."""

    ids: tuple[int, ...]
    prompt: int  # tokens of the prompt


class Tokenized(NamedTuple):
    """Rows, and how many pairs did not fit whole."""

    rows: list[Row]
    left_out: int  # the prompt alone fills a row
    cut: int  # the answer's end is missing


class Batch(NamedTuple):
    """int64 [rows, tokens] and bool [rows, tokens − 1]: whether the token after this one belongs to an answer."""

    ids_BT: npt.NDArray[np.int64]
    learned_BT: npt.NDArray[np.bool_]


def tokenize(pairs: Sequence[Pair], chat: Chat, length: int) -> Tokenized:
    """Rows of at most ``length`` tokens; raises :class:`BadInput` when not one prompt leaves room for an answer."""
    rows: list[Row] = []
    cut = 0
    for pair in pairs:
        asked = chat.prompt(pair.messages)
        whole = asked + chat.answer(pair.answer)
        if len(asked) < length:
            rows.append(Row(tuple(whole[:length]), len(asked)))
            cut += len(whole) > length
    if not rows:
        raise BadInput(f"none of {len(pairs)} prompts is shorter than length={length} tokens; raise length")
    return Tokenized(rows, len(pairs) - len(rows), cut)


def steps_of(
    generated: Sequence[int], human: Sequence[int], human_ratio: float, steps: int, tokens: int, seed: int
) -> list[list[int]]:
    """Which rows each of ``steps`` steps reads, at most ``tokens`` tokens a step with its padding.

    Args:
        generated, human: lengths of the rows; the human ones are numbered on after the generated ones.
        human_ratio: share of the rows read that are human.

    Every kind is read in an order of its own in every epoch; all depends on the arguments alone.
    """
    order = _mixed(len(generated), len(human), human_ratio, seed)
    lengths = [*generated, *human]
    found: list[list[int]] = []
    waiting: list[int] = []  # rows of a last batch that was not full
    for number in count():
        pool = waiting + list(islice(order, max(1, POOL * tokens // max(lengths))))
        # From either end in turn: what waits now comes first then, so that no row waits for ever.
        batches = _by_length(pool, lengths, tokens, from_longest=number % 2 == 0)
        waiting = batches.pop() if len(batches) > 1 else []
        shuffled = np.random.default_rng((seed, 2, number)).permutation(len(batches))
        found += [batches[place] for place in shuffled]
        if len(found) >= steps:
            break
    return found[:steps]


def _by_length(pool: list[int], lengths: Sequence[int], tokens: int, from_longest: bool) -> list[list[int]]:
    """Batches of at most ``tokens`` tokens, padding included, from the longest rows to the shortest or back."""
    batches: list[list[int]] = []
    for row in sorted(pool, key=lambda row: lengths[row], reverse=from_longest):
        if batches and (len(batches[-1]) + 1) * max(lengths[batches[-1][0]], lengths[row]) <= tokens:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


def _mixed(generated: int, human: int, human_ratio: float, seed: int) -> Iterator[int]:
    """Row numbers without end, the human ones evenly among the others."""
    machine_rows, human_rows = _epochs(generated, seed, 0), _epochs(human, seed, 1)
    for place in count():
        if floor((place + 1) * human_ratio) > floor(place * human_ratio):
            yield generated + next(human_rows)
        else:
            yield next(machine_rows)


def _epochs(size: int, seed: int, kind: int) -> Iterator[int]:
    for epoch in count():
        yield from np.random.default_rng((seed, kind, epoch)).permutation(size).tolist()


def padded(rows: Sequence[Row]) -> Batch:
    """Rows side by side; what stands after a row's end is token 0, and nothing is learned there."""
    width = max(len(row.ids) for row in rows)
    ids_BT = np.zeros((len(rows), width), dtype=np.int64)
    learned_BT = np.zeros((len(rows), width - 1), dtype=np.bool_)
    for place, row in enumerate(rows):
        ids_BT[place, : len(row.ids)] = row.ids
        learned_BT[place, max(0, row.prompt - 1) : len(row.ids) - 1] = True
    return Batch(ids_BT, learned_BT)
