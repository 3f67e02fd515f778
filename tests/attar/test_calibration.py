"""Calibration against its definition."""

import numpy as np
import pytest

from attar.calibration import bins_of, calibration_error, confidently_wrong


def test_a_model_right_as_often_as_it_says_has_next_to_no_error() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.random(200_000)
    assert calibration_error(confidence, rng.random(200_000) < confidence) < 0.01


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_one_confidence_for_all_is_off_by_the_difference(share: float) -> None:
    right = np.arange(1500) % 10 < 10 * share
    assert calibration_error(np.full(1500, 0.8), right) == pytest.approx(abs(0.8 - share), abs=1e-9)


def test_bins_hold_equally_many_and_their_gaps_do_not_cancel() -> None:
    confidence = np.array([0.1] * 30 + [0.9] * 30)
    right = np.array([True] * 30 + [False] * 30)
    assert calibration_error(confidence, right, bins=2) == pytest.approx(0.9)
    assert calibration_error(confidence, right, bins=1) == pytest.approx(0.0)
    assert calibration_error(np.array([0.25]), np.array([True])) == pytest.approx(0.75)


@pytest.mark.parametrize(("items", "bins"), [(3, 15), (15, 15), (100, 15), (7, 2)])
def test_bins_are_equally_full_and_in_the_order_of_confidence(items: int, bins: int) -> None:
    confidence = np.random.default_rng(1).random(items)
    found = bins_of(confidence, bins)
    sizes = np.bincount(found)
    assert len(sizes) == min(items, bins) and sizes.max() - sizes.min() <= 1
    assert (np.diff(found[np.argsort(confidence)]) >= 0).all()


def test_confidently_wrong_is_a_share_of_everything() -> None:
    confidence, right = np.array([0.95, 0.95, 0.5, 0.9]), np.array([True, False, False, False])
    assert confidently_wrong(confidence, right) == 0.5
