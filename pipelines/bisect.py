"""Bisection: the boldest value that keeps a gate, in few probes. Pure, and the same twice.

It takes for granted that a milder value loses less: where one value keeps the gate, every milder one does.
"""

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from itertools import pairwise
from typing import TypeVar

Number = int | float
T = TypeVar("T")
MANY = 1000  # values of a grid that is made finer


def grid(mild: Number, bold: Number, whole: bool, probes: int) -> list[Number]:
    """Values from ``mild`` to ``bold``, both among them: as many as so many probes can search to the last.

    They are round numbers: the distance is 1, 2 or 5 times a power of ten. ``whole`` asks for whole ones.
    """
    return next(grids(mild, bold, whole, probes))


def grids(mild: Number, bold: Number, whole: bool, probes: int) -> Iterator[list[Number]]:
    """That grid, then finer ones, for where so many of its values come to the same that probes would be left."""
    width = abs(bold - mild)
    step = _step(width / (2**probes - 2))
    if whole:
        step = max(1, math.ceil(step))
    while True:
        yield _values(mild, bold, step, whole)
        if (whole and step <= 1) or width / step > MANY:
            return
        step = _step(step / 2.6)  # 5, 2, 1, 0.5, …


def _values(mild: Number, bold: Number, step: float, whole: bool) -> list[Number]:
    width, sign = abs(bold - mild), 1 if bold > mild else -1
    count = math.floor(width / step + 1e-9) + 1
    values: list[Number] = [float(f"{mild + sign * i * step:.12g}") for i in range(count)]
    if abs(values[-1] - bold) > 1e-9 * width:
        values.append(float(bold))
    return [round(value) for value in values] if whole else values


def boldest(values: Sequence[T], keeps: Callable[[T], bool], probes: int) -> T | None:
    """The last of ``values``, mildest first, that keeps the gate; None if none was found to.

    Of n values it takes ⌈log₂(n + 1)⌉ probes; with fewer allowed, it is the boldest of those that were tried.
    """
    kept, breached = -1, len(values)
    for _ in range(probes):
        if kept + 1 >= breached:
            break
        middle = (kept + breached) // 2
        if keeps(values[middle]):
            kept = middle
        else:
            breached = middle
    return values[kept] if kept >= 0 else None


def distinct(values: Sequence[T], outcome: Callable[[T], Hashable]) -> list[T]:
    """Without values that come to the same as the next bolder one, such as shares that round to as many channels.

    Where all come to the same, the outcome does not tell them apart, and all stay.
    """
    outcomes = [outcome(value) for value in values]
    if len(set(outcomes)) <= 1:
        return list(values)
    kept = [value for value, (own, bolder) in zip(values, pairwise(outcomes), strict=False) if own != bolder]
    return [*kept, values[-1]]


def _step(least: float) -> float:
    """The smallest of 1, 2 and 5 times a power of ten that is not under ``least``."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))
