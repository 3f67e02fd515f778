"""Intervals of shares keep what they promise, where all answers were right or wrong, too; of few there are none."""

from collections.abc import Callable
from itertools import pairwise
from math import comb

import pytest

from attar.scores import Scores, of_answers
from attar.statistics import FEWEST, mean_interval, share_interval


def answers(right: list[float]) -> Scores:
    return of_answers([str(i) for i in range(len(right))], right)


@pytest.mark.parametrize("items", range(1, FEWEST))
def test_of_few_items_nothing_is_promised(items: int) -> None:
    assert share_interval(answers([1.0] * items)) is None


@pytest.mark.parametrize("items", [6, 20, 1000])
def test_all_right_is_not_certainty(items: int) -> None:
    found = share_interval(answers([1.0] * items))
    assert found is not None and found[1] == 1
    assert found[0] ** items == pytest.approx(0.025)  # so rare are so many right ones at the lower end
    mirrored = share_interval(answers([0.0] * items))
    assert mirrored == pytest.approx((0.0, 1 - found[0]))


def test_the_more_items_the_narrower() -> None:
    ends = [found[0] for n in (6, 12, 50, 400) if (found := share_interval(answers([1.0] * n)))]
    assert len(ends) == 4 and ends == sorted(ends) and ends[0] == pytest.approx(0.541, abs=0.001)


def test_of_parts_of_answers_it_is_that_of_the_mean() -> None:
    mixed = answers([1.0] * 10 + [0.5] * 5 + [0.0] * 5)
    assert share_interval(mixed) == mean_interval(mixed)
    same = answers([0.5] * 8)  # a share that is neither 0 nor 1
    assert share_interval(same) == mean_interval(same)
    longer = answers([3.0] * 8)  # no share at all
    assert share_interval(longer) == mean_interval(longer)


@pytest.mark.parametrize("items", [6, 20, 100])
def test_one_more_right_answer_never_lowers_an_end(items: int) -> None:
    found = [share_interval(answers([1.0] * right + [0.0] * (items - right))) for right in range(items + 1)]
    ends = [bounds for bounds in found if bounds is not None]
    assert len(ends) == items + 1
    for one, more in pairwise(ends):
        assert one[0] < more[0] and one[1] < more[1]


@pytest.mark.parametrize("part", [0.01, 0.5, 0.99])
def test_no_part_of_an_answer_is_more_than_a_whole_one(part: float) -> None:
    most, best = share_interval(answers([1.0] * 99 + [part])), share_interval(answers([1.0] * 100))
    least, worst = share_interval(answers([0.0] * 99 + [part])), share_interval(answers([0.0] * 100))
    assert most and best and least and worst
    assert most[0] <= best[0] and most[1] <= best[1] and least[0] >= worst[0] and least[1] >= worst[1]


@pytest.mark.parametrize("share", [0.5, 0.85, 0.97])
def test_it_holds_the_truth(share: float) -> None:
    """Of 20 answers: by the chance of every number of right ones, how often an interval leaves the true share out."""
    assert missed(share_interval, share) <= 0.05


def test_the_plain_one_does_not() -> None:
    assert missed(mean_interval, 0.9) > 0.07 and missed(mean_interval, 0.97) > 0.07


def missed(interval: Callable[[Scores], tuple[float, float] | None], share: float) -> float:
    chance = 0.0
    for right in range(21):
        bounds = interval(answers([1.0] * right + [0.0] * (20 - right)))
        if bounds is None or not bounds[0] <= share <= bounds[1]:
            chance += comb(20, right) * share**right * (1 - share) ** (20 - right)
    return chance
