"""Is a difference real: paired bootstrap intervals, a sign-flip test, and a verdict both must agree on.

Two models are compared on the same items (:mod:`attar.scores`). Tokens of one document say much the same thing, so
whole items are drawn and flipped, never tokens, and both models' scores of an item go together.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import exp, inf, lgamma, log, log1p
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
    before = dict(zip(origin.ids, origin.sums, strict=True))
    base = np.array([before[one] for one in sorted(before)]) - chance * counts  # in the order of the differences
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

    Of whole answers it is the exact one (Clopper and Pearson 1934, Biometrika 26:404-413), so that one more right never
    lowers an end. Of parts it is that of the mean, whose ends are never beyond the exact ones of all right and all
    wrong: those hold for parts, too, since a mean below m shows n whole ones at most mⁿ times.
    """
    items = len(scores.ids)
    if items < FEWEST:
        return None
    found = [total / count for total, count in zip(scores.sums, scores.counts, strict=True)]
    if set(scores.counts) == {1} and set(found) <= {0.0, 1.0}:
        right = int(sum(found))
        return _exact_low(right, items), 1 - _exact_low(items - right, items)
    low, high = mean_interval(scores)
    if min(found) < 0 or max(found) > 1:  # no shares, such as a length
        return low, high
    end = _exact_low(items, items)
    return min(low, end), max(high, 1 - end)


def mean_interval(scores: Scores) -> tuple[float, float]:
    """95 % interval of one model's own mean, by bootstrap over items."""
    sums, counts = np.asarray(scores.sums), np.asarray(scores.counts, dtype=np.float64)
    drawn = _drawn(_generator(sums, counts), np.stack([sums, counts], axis=1))
    return _bounds(drawn[:, 0] / drawn[:, 1], len(sums))


def gap_interval(bins: Sequence[Scores]) -> tuple[float, float]:
    """95 % interval of a calibration error, Σ over bins |Σ over items| ÷ Σ of the counts, by bootstrap over items.

    ``bins`` hold each item's summed gap in one bin and all its tokens as the count; which token is in which bin stays
    as it was. What is drawn has noise more than what was seen, which makes gaps larger, so that the high end is too
    high rather than too low, and the value may lie at the low one.
    """
    columns = [np.asarray(one.sums) for one in bins] + [np.asarray(bins[0].counts, dtype=np.float64)]

    def error(sums: Floats) -> Floats:
        return np.asarray(np.abs(sums[..., :-1]).sum(axis=-1) / sums[..., -1])

    values = np.stack(columns, axis=1)
    low, high = _bounds(error(_drawn(_generator(*columns), values)), len(values))
    value = float(error(values.sum(axis=0)))
    return min(low, value), max(high, value)


def sign_flip(differences: Floats, generator: np.random.Generator) -> float:
    """Two-sided p of a sum of paired differences [items], under the null that either sign of each was as likely.

    Exact up to :data:`EXACT` items. Of more, :data:`RESAMPLES` patterns of signs are drawn, and what was seen counts as
    one of them, which keeps p from ever being too small (Phipson and Smyth 2010, arXiv 1603.05766).
    """
    # What differs by rounding alone is as extreme as what was seen.
    least = abs(differences.sum()) - 1e-12 * np.abs(differences).sum()
    extreme = [int((np.abs(signs @ differences) >= least).sum()) for signs in _signs(len(differences), generator)]
    if len(differences) <= EXACT:
        return float(sum(extreme) / 2 ** (len(differences) - 1))
    return (1 + sum(extreme)) / (1 + RESAMPLES)


def apart(models: Sequence[Scores]) -> Floats:
    """Two-sided p of every pair of models [models, models], by the sign-flip test, corrected for all pairs together.

    Of models of which some are equal, any of those is told from another in 5 of 100 cases at most, so whichever is
    looked at after the scores were seen, such as the best. A document's sign is flipped for all models at once, which
    keeps what is common to them; a pair is compared with the most extreme of its own and all less extreme pairs
    (Westfall and Young 1993, Resampling-Based Multiple Testing, step-down maxT; Romano and Wolf 2005, J. Amer. Statist.
    Assoc. 100:94-108). Unlike with Bonferroni or Holm, documents need not be the more for more models.

    Raises:
        BadInput: the models were not scored on the same items, token for token.
    """
    count = len(models)
    adjusted = np.ones((count, count))
    if count < 2:
        return adjusted
    losses = np.stack([_paired(one, models[0])[0] for one in models], axis=1)
    first, second = np.triu_indices(count, 1)
    # Σ ± d ÷ √Σ d² grows as Student's t does, so that a model of wide differences hides no other; no sign moves √Σ d².
    norms = np.sqrt(((losses[:, first] - losses[:, second]) ** 2).sum(axis=0))
    told = norms > 1e-12 * np.abs(np.asarray(models[0].sums)).sum()  # more than rounding
    contrasts: Floats = np.zeros((count, len(first)))
    pairs = np.arange(len(first))[told]
    contrasts[first[told], pairs], contrasts[second[told], pairs] = 1 / norms[told], -1 / norms[told]
    seen = np.abs(losses.sum(axis=0) @ contrasts)
    order = np.argsort(seen)  # the least extreme first
    seen, contrasts = seen[order], contrasts[:, order]
    extreme, drawn = np.zeros(len(seen)), 0
    for signs in _signs(len(losses), np.random.default_rng(len(losses)), len(seen)):  # the same in any order
        flipped = np.maximum.accumulate(np.abs(signs @ losses @ contrasts), axis=1)
        extreme += (flipped >= seen - 1e-9).sum(axis=0)
        drawn += len(signs)
    p = extreme / drawn if len(losses) <= EXACT else (1 + extreme) / (1 + drawn)
    least = np.maximum.accumulate(p[::-1])[::-1]  # that of all more extreme ones
    adjusted[first[order], second[order]] = adjusted[second[order], first[order]] = least
    return adjusted


def fewest_bounded(tests: int) -> int | None:
    """Items of which the interval of one of so many tests has ends; None: no number up to a thousand is enough."""
    return next((items for items in range(FEWEST, 1001) if _tail(items, LEVEL / tests) * RESAMPLES >= 1), None)


def _exact_low(right: int, items: int) -> float:
    """The share of which so many right answers or more are seen in 2.5 of 100 cases."""
    if right == 0:
        return 0.0
    counts = np.arange(right, items + 1)
    ways = np.array([lgamma(items + 1) - lgamma(k + 1) - lgamma(items - k + 1) for k in range(right, items + 1)])
    low, high = 0.0, 1.0
    for _ in range(50):
        share = (low + high) / 2
        chance = np.exp(ways + counts * log(share) + (items - counts) * log1p(-share)).sum()
        low, high = (share, high) if chance < LEVEL / 2 else (low, share)
    return low


def _paired(result: Scores, origin: Scores) -> tuple[Floats, Floats]:
    """Differences of the sums [items] and the counts [items], which are those of both."""
    if not result.pairs_with(origin):
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
    parts = [values[generator.integers(0, n, (rows, n))].sum(axis=1) for rows in _blocks(n * values.shape[1] // 2)]
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


def _signs(
    items: int, generator: np.random.Generator, wide: int = 0
) -> Iterator[npt.NDArray[np.int64] | npt.NDArray[np.int8]]:
    """Patterns of signs [patterns, items] in blocks for results so wide: all there are up to :data:`EXACT` items."""
    if items <= EXACT:
        patterns = np.arange(2 ** (items - 1), dtype=np.int64)  # a pattern and its opposite are equally extreme
        for start in range(0, len(patterns), size := max(1, CELLS // max(items, wide))):
            yield 1 - 2 * ((patterns[start : start + size, None] >> np.arange(items)) & 1)
        return
    for rows in _blocks(max(items, wide)):
        yield 1 - 2 * generator.integers(0, 2, (rows, items), dtype=np.int8)


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
