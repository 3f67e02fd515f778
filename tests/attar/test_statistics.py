"""Laws of comparisons: exact where it can be counted, honest under the null, sure where there is a difference."""

from itertools import product
from math import exp, inf, log

import numpy as np
import pytest

from attar import statistics
from attar.errors import BadInput
from attar.scores import Scores, of_answers
from attar.statistics import (
    above_chance,
    apart,
    difference,
    fewest_bounded,
    gap_interval,
    mean_interval,
    perplexity_retained,
    sign_flip,
)

GENERATOR = np.random.default_rng


def text(losses: "np.ndarray", counts: "np.ndarray | None" = None) -> Scores:  # type: ignore[type-arg]
    """Scores of documents with these mean losses, 100 tokens each unless told."""
    counts = np.full(len(losses), 100) if counts is None else counts
    sums = tuple((losses * counts).tolist())
    return Scores(tuple(f"d{i}" for i in range(len(losses))), sums, tuple(counts.tolist()))


def test_the_estimate_is_of_the_means_over_tokens() -> None:
    rng = GENERATOR(0)
    counts = rng.integers(50, 500, 30)
    a, b = text(rng.normal(3, 0.3, 30), counts), text(rng.normal(3.2, 0.3, 30), counts)
    found = difference(b, a)
    assert found.value == pytest.approx(b.mean - a.mean) and found.low < found.value < found.high
    kept = perplexity_retained(b, a)
    assert kept.value == pytest.approx(exp(a.mean) / exp(b.mean))
    assert (kept.low, kept.high) == pytest.approx((exp(-found.high), exp(-found.low)))
    assert (kept.p, kept.verdict) == (found.p, found.verdict)


def test_the_same_scores_give_the_same_interval_in_any_order_of_items() -> None:
    rng = GENERATOR(1)
    a, b = text(rng.normal(3, 0.3, 30)), text(rng.normal(3.1, 0.3, 30))
    turned = Scores(b.ids[::-1], b.sums[::-1], b.counts[::-1])
    assert difference(b, a) == difference(b, a) == difference(turned, a)


def test_a_model_is_not_told_from_itself() -> None:
    a = text(GENERATOR(2).normal(3, 0.3, 30))
    found = difference(a, a)
    assert (found.value, found.low, found.high, found.p, found.verdict) == (0, 0, 0, 1, "not distinguishable")


@pytest.mark.parametrize("items", [6, 25, 200])
def test_a_small_loss_on_every_document_is_real_though_documents_differ_much_more(items: int) -> None:
    rng = GENERATOR(3)
    losses = rng.normal(3, 1, items)
    worse, origin = text(losses + np.abs(rng.normal(0.05, 0.01, items))), text(losses)
    assert difference(worse, origin).verdict == "worse"
    assert difference(origin, worse).verdict == "better"
    assert difference(worse, origin, lower_is_better=False).verdict == "better"


def test_few_documents_tell_nothing_and_say_so() -> None:
    losses = GENERATOR(4).normal(3, 1, 5)
    found = difference(text(losses + 1), text(losses))
    assert found.verdict == "not distinguishable" and found.note == (
        "too few items to tell models apart: 5 of at least 6"
    )


@pytest.mark.parametrize("items", [2, 7, 11])
def test_the_test_of_few_items_counts_every_pattern_of_signs(items: int) -> None:
    differences = GENERATOR(items).normal(0.5, 1, items)
    patterns = [abs(float(np.dot(signs, differences))) for signs in product((1, -1), repeat=items)]
    expected = np.mean([found >= abs(differences.sum()) - 1e-9 for found in patterns])
    assert sign_flip(differences, GENERATOR(0)) == pytest.approx(expected)


def test_the_drawn_test_is_near_the_exact_one_and_never_zero() -> None:
    differences = GENERATOR(5).normal(0.3, 1, 14)
    signs = 1 - 2 * ((np.arange(2**14)[:, None] >> np.arange(14)) & 1)
    exact = (np.abs(signs @ differences) >= abs(differences.sum()) - 1e-9).mean()
    assert sign_flip(differences, GENERATOR(0)) == pytest.approx(exact, abs=0.02)
    assert sign_flip(np.ones(100), GENERATOR(0)) == pytest.approx(1 / 10_001)


@pytest.mark.parametrize("items", [8, 30])
def test_swapping_two_models_at_random_is_rarely_called_a_difference(items: int) -> None:
    rng = GENERATOR(items)
    counts = rng.integers(20, 700, items)
    one, two = rng.normal(3, 0.5, items), rng.normal(3.3, 0.5, items)
    wrong = 0
    for _ in range(200):
        swapped = rng.random(items) < 0.5
        a, b = text(np.where(swapped, one, two), counts), text(np.where(swapped, two, one), counts)
        wrong += difference(a, b).verdict != "not distinguishable"
    assert wrong <= 16


@pytest.mark.parametrize("items", [8, 14, 40])
def test_intervals_hold_what_is_true_about_as_often_as_they_say(items: int) -> None:
    rng = GENERATOR(6)
    held = 0
    for _ in range(400):
        base = rng.normal(3, 1, items)
        found = difference(text(base + rng.normal(0.1, 0.2, items)), text(base))
        held += found.low <= 0.1 <= found.high
    assert 0.92 <= held / 400 <= 0.98


def test_the_interval_of_a_single_bin_is_that_of_its_mean() -> None:
    bin_ = text(GENERATOR(8).uniform(0.1, 0.3, 20))
    assert gap_interval([bin_]) == pytest.approx(mean_interval(bin_), abs=1e-12)


def test_gaps_of_bins_do_not_cancel_and_the_value_lies_in_their_interval() -> None:
    rng = GENERATOR(9)
    gaps, turned = rng.normal(0.2, 0.1, 20), rng.normal(-0.2, 0.1, 20)
    low, high = gap_interval([text(gaps), text(turned)])
    assert 0.2 < low < gaps.mean() - turned.mean() < high
    for _ in range(20):  # no gaps but noise
        bins = [text(rng.normal(0, 0.1, 20)) for _ in range(15)]
        low, high = gap_interval(bins)
        assert 0 < low <= sum(abs(one.mean) for one in bins) <= high


def test_the_high_end_of_a_calibration_error_is_rarely_too_low() -> None:
    rng, truth, low = GENERATOR(10), np.array([0.05, -0.1, 0.02, 0.0]), 0
    for _ in range(100):
        bins = [text(gap + rng.normal(0, 0.1, 12)) for gap in truth]
        low += gap_interval(bins)[1] < np.abs(truth).sum()
    assert low <= 5


def test_retention_above_chance() -> None:
    rng = GENERATOR(7)
    ids = [f"q{i}" for i in range(400)]
    right = rng.random(400) < 0.85
    kept = right & (rng.random(400) < 0.8)
    origin, result = of_answers(ids, right.astype(float).tolist()), of_answers(ids, kept.astype(float).tolist())
    found = above_chance(result, origin, 0.25)
    assert found is not None
    assert found.value == pytest.approx((result.mean - 0.25) / (origin.mean - 0.25))
    assert found.low < found.value < found.high < 1 and found.verdict == "worse"
    itself = above_chance(origin, origin, 0.25)
    assert itself is not None and (itself.value, itself.low, itself.high) == (1, 1, 1)
    guessing = of_answers(ids, [float(i % 4 == 0) for i in range(400)])
    assert above_chance(result, guessing, 0.25) is None  # nothing that could be retained


def test_what_is_retained_is_the_same_in_any_order_of_items() -> None:
    """Pairs are pairs whoever lists them how: nobody retains less than nothing."""
    names, right = [str(i) for i in range(20)], [1.0] * 8 + [0.0] * 12
    result, origin = of_answers(names, [0.0, *right[:-1]]), of_answers(names, right)
    turned = of_answers(names[::-1], right[::-1])
    found = above_chance(result, origin)
    assert found is not None and found == above_chance(result, turned) and 0 <= found.low < 1 < found.high


def test_what_was_not_scored_alike_is_not_compared() -> None:
    a = text(np.array([3.0, 2.0, 4.0]))
    with pytest.raises(BadInput, match="not scored on the same items, token for token"):
        difference(text(np.array([3.0, 2.0])), a)
    with pytest.raises(BadInput, match="not scored on the same items, token for token"):
        difference(text(np.array([3.0, 2.0, 4.0]), np.array([100, 100, 99])), a)
    with pytest.raises(BadInput, match="no item was scored"):
        difference(Scores((), (), ()), Scores((), (), ()))


def test_the_interval_of_a_mean_holds_it() -> None:
    scores = text(GENERATOR(8).normal(log(20), 0.3, 50))
    low, high = mean_interval(scores)
    assert low < scores.mean < high and high - low < 0.4


def equals(rng: np.random.Generator, models: int, items: int) -> "np.ndarray":  # type: ignore[type-arg]
    """Losses [models, documents] of models that are equal: documents differ much, and models err alike on most."""
    common = rng.normal(3, 1, items) + rng.normal(0, 0.2, (models, 2)) @ rng.normal(0, 1, (2, items))
    losses: np.ndarray = common + rng.normal(0, 0.1, (models, items))  # type: ignore[type-arg]
    return losses


def winner(models: list[Scores]) -> int:
    return int(np.argmin([one.mean for one in models]))


@pytest.mark.parametrize(("models", "items", "most"), [(15, 40, 16), (6, 8, 16), (3, 14, 16)])
def test_of_equal_models_none_is_told_from_the_one_that_happens_to_be_best(
    models: int, items: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In 5 of 100 sets at most: which one is looked at was chosen by the same scores."""
    monkeypatch.setattr(statistics, "RESAMPLES", 2000)
    rng = GENERATOR(items)
    wrong = 0
    for _ in range(200):
        found = [text(one) for one in equals(rng, models, items)]
        wrong += bool((apart(found)[winner(found)] < 0.05).any())
    assert wrong <= most


def test_equal_models_are_not_told_apart_among_worse_ones_that_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "RESAMPLES", 2000)
    rng = GENERATOR(3)
    wrong = found = 0
    for _ in range(100):
        losses = equals(rng, 15, 40)
        losses[5:] += 0.5
        p = apart([text(one) for one in losses])
        wrong += bool((p[:5, :5] < 0.05).any()) or bool((p[5:, 5:] < 0.05).any())
        found += int((p[:5, 5:] < 0.05).sum())
    assert wrong <= 10 and found > 0.8 * 100 * 50


def test_two_models_are_tested_as_if_alone_and_the_same_whoever_lists_them_how() -> None:
    rng = GENERATOR(4)
    for items in (6, 12, 30):
        a, b, c = (text(one) for one in equals(rng, 3, items))
        assert apart([a, b])[0, 1] == pytest.approx(difference(a, b).p, abs=0.02)
        all_three, turned = apart([a, b, c]), apart([c, b, a])
        assert all_three == pytest.approx(turned[::-1, ::-1]) and all_three == pytest.approx(all_three.T)
        assert all_three[0, 1] >= apart([a, b])[0, 1] - 1e-9
    assert apart([]).shape == (0, 0) and apart([a]).tolist() == [[1]]


def test_six_documents_can_tell_any_number_of_models_apart_and_five_none() -> None:
    for items, told in ((6, True), (5, False)):
        base = GENERATOR(5).normal(3, 1, items)
        p = apart([text(base + 0.1 * step) for step in range(30)])
        assert ((p < 0.05) | np.eye(30, dtype=bool)).all() == told and (np.diag(p) == 1).all()


def test_a_model_is_not_told_from_its_copy_among_others() -> None:
    rng = GENERATOR(6)
    a, b = (text(one) for one in equals(rng, 2, 20))
    rounded = Scores(a.ids, tuple(one * (1 + 1e-15) for one in a.sums), a.counts)
    p = apart([a, a, b, rounded])
    assert p[0, 1] == p[0, 3] == p[1, 3] == 1


@pytest.mark.parametrize("tests", [1, 10, 20, 60])
def test_of_fewer_documents_no_interval_has_an_end_and_of_so_many_it_has(tests: int) -> None:
    needed = fewest_bounded(tests)
    assert needed is not None and needed >= 6
    rng = GENERATOR(1)
    for documents in (needed, needed - 1):
        a, b = text(rng.normal(3, 0.3, documents)), text(rng.normal(3.2, 0.3, documents))
        found = difference(b, a, tests=tests)
        assert np.isfinite(found.low) == np.isfinite(found.high) == (documents == needed or needed == 6)
    assert fewest_bounded(251) is None  # less than one of the draws is beyond either end


def test_intervals_that_hold_together_are_wider() -> None:
    rng = GENERATOR(12)
    a, b = text(rng.normal(3, 0.3, 30)), text(rng.normal(3.1, 0.3, 30))
    one, ten = perplexity_retained(b, a), perplexity_retained(b, a, tests=10)
    assert ten.low < one.low < one.value == ten.value < one.high < ten.high


@pytest.mark.parametrize("items", [6, 12, 30])
def test_where_the_draws_do_not_reach_nothing_is_bounded(items: int) -> None:
    """What happens once in 40,000 times is in none of 10,000 draws, however small the differences are."""
    rng = GENERATOR(13)
    losses = rng.normal(3, 0.3, items)
    a, b = text(losses), text(losses + rng.normal(0.0001, 0.0001, items))
    alone, together = difference(b, a), difference(b, a, tests=100)
    assert abs(alone.low) < 0.001 > abs(alone.high) and alone.value == together.value
    assert (together.low, together.high, together.verdict) == (-inf, inf, "not distinguishable")
    assert perplexity_retained(b, a, tests=100).low == 0
