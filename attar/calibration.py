"""Does a model know what it does not know: calibration error, and how often it is sure and wrong."""

import numpy as np
import numpy.typing as npt

BINS = 15
SURE = 0.9  # probability of the likeliest token from which on a model counts as sure of it

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]


def calibration_error(confidence: Floats, right: Bools, bins: int = BINS) -> float:
    """Expected calibration error: mean |confidence − share of right ones| over bins that hold equally many predictions.

    Bins of equal mass, because a language model's confidences crowd at both ends (Nguyen and O'Connor 2015, arXiv
    1508.05154; Naeini et al. 2015; Guo et al. 2017, arXiv 1706.04599, with bins of equal width).

    Args:
        confidence: probability of the likeliest class of every prediction [n], n ≥ 1.
        right: whether that class was the true one [n].
    """
    gaps = np.bincount(bins_of(confidence, bins), confidence - right)
    return float(np.abs(gaps).sum() / len(confidence))


def bins_of(confidence: Floats, bins: int = BINS) -> Ints:
    """The bin of every prediction [n], from the least sure to the surest, all of them equally full."""
    order = np.argsort(confidence, kind="stable")
    edges = np.linspace(0, len(order), min(bins, len(order)) + 1).round().astype(np.int64)
    found = np.empty(len(order), dtype=np.int64)
    found[order] = np.repeat(np.arange(len(edges) - 1), np.diff(edges))
    return found


def confidently_wrong(confidence: Floats, right: Bools) -> float:
    """Share of all predictions that had a confidence of at least :data:`SURE` and were wrong."""
    return float(sure_and_wrong(confidence, right).mean())


def sure_and_wrong(confidence: Floats, right: Bools) -> Bools:
    """Which predictions these are [n]."""
    return (confidence >= SURE) & ~right
