"""Does a model know what it does not know: calibration error, and how often it is sure and wrong."""

import numpy as np
import numpy.typing as npt

BINS = 15
SURE = 0.9  # probability of the likeliest token from which on a model counts as sure of it

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


def calibration_error(confidence: Floats, right: Bools, bins: int = BINS) -> float:
    """Expected calibration error: mean |confidence − share of right ones| over bins that hold equally many predictions.

    Bins of equal mass, because a language model's confidences crowd at both ends (Nguyen and O'Connor 2015, arXiv
    1508.05154; Naeini et al. 2015; Guo et al. 2017, arXiv 1706.04599, with bins of equal width).

    Args:
        confidence: probability of the likeliest class of every prediction [n], n ≥ 1.
        right: whether that class was the true one [n].
    """
    order = np.argsort(confidence, kind="stable")
    edges = np.linspace(0, len(order), min(bins, len(order)) + 1).round().astype(np.int64)
    gaps = np.add.reduceat(confidence[order] - right[order], edges[:-1])
    return float(np.abs(gaps).sum() / len(order))


def confidently_wrong(confidence: Floats, right: Bools) -> float:
    """Share of all predictions that had a confidence of at least :data:`SURE` and were wrong."""
    return float(((confidence >= SURE) & ~right).mean())
