"""What is retained of the origin's answers: a model with an answer less is never judged more mildly."""

from itertools import pairwise

import pytest

from attar.scores import Scores, of_answers
from pipelines import task_evidence

ITEMS = 100
RIGHT = 80


def answers(right: int) -> Scores:
    return of_answers([str(i) for i in range(ITEMS)], [1.0] * right + [0.0] * (ITEMS - right))


@pytest.mark.parametrize("chance", [0.0, 0.25])
def test_one_more_answer_kept_never_lowers_an_end(chance: float) -> None:
    kept = [task_evidence._kept(answers(right), answers(RIGHT), chance) for right in range(70, 91)]
    found = [one.ends for one in kept if one is not None and one.ends is not None]
    assert len(found) == 21
    for one, more in pairwise(found):
        assert one[0] <= more[0] and one[1] <= more[1]
    low, high = found[RIGHT - 70]  # of equal answers
    assert low < 1 < high and 1 - low == pytest.approx(high - 1)


def test_a_model_that_is_plainly_worse_or_better_is_told_so() -> None:
    for right, sign in ((50, -1), (100, 1)):
        kept = task_evidence._kept(answers(right), answers(RIGHT), 0.25)
        assert kept is not None and kept.ends is not None
        assert all((end - 1) * sign > 0 for end in kept.ends)
