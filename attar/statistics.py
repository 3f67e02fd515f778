"""Is a difference real: paired bootstrap intervals, a sign-flip test, and a verdict both must agree on.

Two models are compared on the same items (:mod:`attar.scores`). Tokens of one document say much the same thing, so
whole items are drawn and flipped, never tokens, and both models' scores of an item go together.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, inf
from statistics import NormalDist
from typing import Literal

import numpy as np
import numpy.typing as npt

from attar.errors import BadInput
from attar.scores import Scores

Verdict = Literal["better", "worse", "not distinguishable"]
Floats = npt.NDArray[np.float64]

LEVEL = 0.05  # two-sided; intervals are of 95 %
RESAMPLES = 10_000
FEWEST = 6  # of five items, even the rarest signs have a two-sided chance of 2/32, above the level
EXACT = 13  # up to so many items every one of the 2ⁿ⁻¹ patterns of signs is looked at
CELLS = 1 << 21  # numbers in memory at one time while resampling


@dataclass(frozen=True)
class Comparison:
    """A model against another on the same items: an estimate, its 95 % interval, and what may be said of it.

    Of fewer than :data:`FEWEST` items the bounds are those of the draws and promise nothing; ``note`` says so.
    """

    value: float
    low: float
    high: float
    p: float  # two-sided, of the sign-flip test
    verdict: Verdict
    items: int
    note: str | None = None


def difference(result: Scores, origin: Scores, lower_is_better: bool = True, tests: int = 1) -> Comparison:
    """Mean of ``result`` − mean of ``origin``, over all tokens or questions, in the measure's own unit.

    The interval is that of the percentile bootstrap over items, paired (Efron and Tibshirani 1993, An Introduction to
    the Bootstrap, ch. 13; for language: Koehn 2004, Statistical Significance Tests for Machine Translation
    Evaluation), widened for few items as Student's t is (Hesterberg 2015, arXiv 1411.5279), of :data:`RESAMPLES` draws
    that are the same for the same scores. The test flips the sign of whole items' differences (Fisher's randomisation;
    Noreen 1989; Dror et al. 2018, The Hitchhiker's Guide to Testing Statistical Significance in NLP). Better or worse
    is said only if the interval leaves 0 out and p is below 5 %. Of several ``tests`` the intervals hold together in
    95 of 100 cases (Bonferroni); of more than the draws can tell they have no ends (∓∞).

    Raises:
        BadInput: the two were not scored on the same items, token for token.
    """
    differences, counts = _paired(result, origin)
    generator = _generator(differences, counts)
    drawn = _drawn(generator, np.stack([differences, counts], axis=1))
    found = drawn[:, 0] / drawn[:, 1]
    low, high = _bounds(found, len(differences), LEVEL / tests)
    p = sign_flip(differences, generator)
    verdict, note = _verdict(low, high, p, len(differences), lower_is_better)
    return Comparison(float(differences.sum() / counts.sum()), low, high, p, verdict, len(differences), note)


def perplexity_retained(result: Scores, origin: Scores, tests: int = 1) -> Comparison:
    """Perplexity of ``origin`` ÷ that of ``result``, not capped at 1, from their losses in nats.

    It is exp of the difference of the mean losses, so its interval is that of the difference.
    """
    found = difference(result, origin, tests=tests)
    value, low, high = (exp(min(-bound, 700.0)) for bound in (found.value, found.high, found.low))
    return Comparison(value, low, high, found.p, found.verdict, found.items, found.note)


def above_chance(result: Scores, origin: Scores, chance: float = 0.0) -> Comparison | None:
    """(``result`` − chance) ÷ (``origin`` − chance) of a measure where higher is better, not capped at 1.

    None when the origin itself is not above chance by its interval: there is nothing then that could be retained. The
    interval is of the ratio of the resampled means; the test is that of the difference, whose zero is the ratio's 1.
    """
    differences, counts = _paired(result, origin)
    base = np.asarray(origin.sums) - chance * counts
    generator = _generator(differences, counts)
    drawn = _drawn(generator, np.stack([differences, base], axis=1))
    if _bounds(drawn[:, 1], len(base))[0] <= 0:
        return None
    kept = drawn[:, 1] > 0
    ratios = 1 + drawn[kept, 0] / drawn[kept, 1]
    low, high = _bounds(ratios, len(differences))
    p = sign_flip(differences, generator)
    verdict, note = _verdict(low - 1, high - 1, p, len(differences), lower_is_better=False)
    return Comparison(float(1 + differences.sum() / base.sum()), low, high, p, verdict, len(differences), note)


def share_interval(scores: Scores) -> tuple[float, float] | None:
    """95 % interval of one model's own share of right answers; None of fewer than :data:`FEWEST`.

    Where all items agree at 0 or 1 every draw is the same, and the interval is the exact one (Clopper and Pearson 1934,
    Biometrika 26:404-413), which holds for parts of an answer, too: a mean below m shows n whole ones at most mⁿ times.
    """
    items = len(scores.ids)
    if items < FEWEST:
        return None
    found = {total / count for total, count in zip(scores.sums, scores.counts, strict=True)}
    end = float((LEVEL / 2) ** (1 / items))
    if found == {1.0}:
        return end, 1.0
    return (0.0, 1 - end) if found == {0.0} else mean_interval(scores)


def mean_interval(scores: Scores) -> tuple[float, float]:
    """95 % interval of one model's own mean, by bootstrap over items."""
    sums, counts = np.asarray(scores.sums), np.asarray(scores.counts, dtype=np.float64)
    drawn = _drawn(_generator(sums, counts), np.stack([sums, counts], axis=1))
    return _bounds(drawn[:, 0] / drawn[:, 1], len(sums))


def sign_flip(differences: Floats, generator: np.random.Generator) -> float:
    """Two-sided p of a sum of paired differences [items], under the null that either sign of each was as likely.

    Exact up to :data:`EXACT` items. Of more, :data:`RESAMPLES` patterns of signs are drawn, and what was seen counts as
    one of them, which keeps p from ever being too small (Phipson and Smyth 2010, arXiv 1603.05766).
    """
    n = len(differences)
    # What differs by rounding alone is as extreme as what was seen.
    least = abs(differences.sum()) - 1e-12 * np.abs(differences).sum()
    if n <= EXACT:
        patterns = np.arange(2 ** (n - 1), dtype=np.int64)  # a pattern and its opposite are equally extreme
        signs = 1 - 2 * ((patterns[:, None] >> np.arange(n)) & 1)
        return float((np.abs(signs @ differences) >= least).mean())
    extreme = 0
    for rows in _blocks(n):
        signs = 1 - 2 * generator.integers(0, 2, (rows, n), dtype=np.int8)
        extreme += int((np.abs(signs @ differences) >= least).sum())
    return (1 + extreme) / (1 + RESAMPLES)


def holm(p_values: Sequence[float]) -> list[bool]:
    """Which of several tests hold at :data:`LEVEL` for all of them together (Holm 1979, Scand. J. Statist. 6:65-70)."""
    held = [False] * len(p_values)
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if p_values[index] >= LEVEL / (len(p_values) - rank):
            break
        held[index] = True
    return held


def fewest(tests: int) -> int | None:
    """Items of which one of so many tests can hold by :func:`holm`, were all signs alike; None: no number is enough."""
    drawn = 1 / (1 + RESAMPLES)  # the least p of signs that are drawn
    for items in range(FEWEST, 64):
        rarest = 2.0 ** (1 - items)
        if (rarest if items <= EXACT else drawn + rarest) < LEVEL / tests:
            return items
    return None


def fewest_bounded(tests: int) -> int | None:
    """Items of which the interval of one of so many tests has ends; None: no number up to a thousand is enough."""
    return next((items for items in range(FEWEST, 1001) if _tail(items, LEVEL / tests) * RESAMPLES >= 1), None)


def _paired(result: Scores, origin: Scores) -> tuple[Floats, Floats]:
    """Differences of the sums [items] and the counts [items], which are those of both."""
    if dict(zip(result.ids, result.counts, strict=True)) != dict(zip(origin.ids, origin.counts, strict=True)):
        raise BadInput(
            "the two models were not scored on the same items, token for token, so they cannot be compared in pairs; "
            "measure both with the same suite, data and tokenizer"
        )
    if not result.ids:
        raise BadInput("no item was scored, so there is nothing to compare; measure more windows")
    before = dict(zip(origin.ids, origin.sums, strict=True))
    order = sorted(range(len(result.ids)), key=result.ids.__getitem__)  # the same whoever lists them how
    differences = np.array([result.sums[i] - before[result.ids[i]] for i in order], dtype=np.float64)
    return differences, np.array([result.counts[i] for i in order], dtype=np.float64)


def _drawn(generator: np.random.Generator, values: Floats) -> Floats:
    """Sums [resamples, columns] of n items drawn with replacement out of ``values`` [n, columns]."""
    n = len(values)
    parts = [values[generator.integers(0, n, (rows, n))].sum(axis=1) for rows in _blocks(n)]
    return np.concatenate(parts)


def _bounds(drawn: Floats, items: int, level: float = LEVEL) -> tuple[float, float]:
    """Interval of what was drawn from so many items; of 95 % unless told.

    The plain percentiles are too narrow by √((n − 1) ÷ n) and by Student's t over the normal: of 14 documents they
    leave the truth out 9 times in 100. A tail that less than one of the draws lies in has no end that was seen: ∓∞.
    """
    if items < 2:
        return float(drawn.min()), float(drawn.max())
    tail = _tail(items, level)
    if tail * RESAMPLES < 1 and items >= FEWEST:  # of fewer items nothing is promised
        return -inf, inf
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return float(low), float(high)


def _tail(items: int, level: float) -> float:
    """The share of the draws beyond either end of an interval, see :func:`_bounds`."""
    normal = NormalDist()
    z, nu = normal.inv_cdf(1 - level / 2), items - 1
    # Student's t by its expansion in 1/ν (Abramowitz and Stegun 26.7.5), right to 0.003 from ν = 5 on.
    t = z + (z**3 + z) / (4 * nu) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * nu**2)
    t += (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * nu**3)
    return normal.cdf(-t * (items / nu) ** 0.5)


def _blocks(items: int) -> list[int]:
    size = max(1, min(RESAMPLES, CELLS // items))
    return [min(size, RESAMPLES - start) for start in range(0, RESAMPLES, size)]


def _generator(*values: Floats) -> np.random.Generator:
    """Seeded by what is compared: the same scores give the same interval, on every machine."""
    digest = hashlib.sha256(b"".join(np.ascontiguousarray(value).tobytes() for value in values)).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))


def _verdict(low: float, high: float, p: float, items: int, lower_is_better: bool) -> tuple[Verdict, str | None]:
    if items < FEWEST:
        return "not distinguishable", f"too few items to tell models apart: {items} of at least {FEWEST}"
    if p >= LEVEL or low <= 0 <= high:
        return "not distinguishable", None
    return ("better" if (high < 0) == lower_is_better else "worse"), None
