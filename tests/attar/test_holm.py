"""Tests held together: one that is true of nothing is rarely believed, however many there are."""

import numpy as np

from attar.holm import holm


def test_of_many_tests_of_nothing_few_hold() -> None:
    assert holm([0.01, 0.04, 0.03]) == [True, False, False]  # 0.03 is not under 0.05 ÷ 2, and 0.04 comes after it
    assert holm([0.01, 0.04, 0.02]) == [True, True, True]
    assert holm([0.05]) == [False] and holm([]) == []
    rng = np.random.default_rng(7)
    assert sum(any(holm(row.tolist())) for row in rng.random((1000, 20))) < 70
