"""What a swept setting did: only its own doing counts, and the verdict is that of the paired test."""

from math import exp

import numpy as np
import pytest

from attar import statistics
from attar.scores import Scores
from pipelines import asked_runs, findings
from pipelines.findings import Scored

BASE = tuple(2.0 + 0.1 * i for i in range(12))


def losses(more: float) -> Scores:
    """Losses on twelve documents of ten tokens: the origin's and so much more, unevenly."""
    ids = tuple(f"d{i}" for i in range(len(BASE)))
    return Scores(ids, tuple(10 * (loss + more + 0.01 * (i % 3 - 1)) for i, loss in enumerate(BASE)), (10,) * len(ids))


def variants(*entries: tuple[str, str, float]) -> list[Scored]:
    return [Scored({"a": a, "b": b}, losses(more)) for a, b, more in entries]


ORIGIN = losses(0.0)
DOCUMENTS = tuple(f"d{i}" for i in range(14))
GRID = [("10", "x", 0.30), ("2", "x", 0.10), ("10", "y", 0.35), ("2", "y", 0.15)]


def test_a_value_stands_for_the_mean_of_its_variants() -> None:
    a, b = findings.find(variants(*GRID), ORIGIN)
    assert [level.value for level in a.levels] == ["2", "10"]  # as numbers, not as words
    assert (a.best.value, a.levels[1].verdict, a.levels[1].variants) == ("2", "worse", 2)
    assert a.best.retained == pytest.approx(exp(-0.125))
    assert a.levels[1].behind == pytest.approx(exp(-0.125) - exp(-0.325)) and a.best.behind == 0
    assert a.levels[1].behind_low <= a.levels[1].behind <= a.levels[1].behind_high
    assert b.sentence.startswith("b: x keeps most (81.9 %, mean of 2); worse: y (4.0 points less, ")


def test_what_the_other_settings_did_does_not_count() -> None:
    """Value 3 was tried with the worse of the other setting's values alone, so the rest is compared there, too."""
    (a, b) = findings.find(variants(*GRID, ("3", "y", 0.14)), ORIGIN)
    assert {level.variants for level in a.levels} == {1} and a.best.value == "3"
    assert {level.variants for level in b.levels} == {2}


def test_values_that_never_met_the_same_rest_are_not_compared() -> None:
    assert findings.find(variants(("1", "x", 0.1), ("2", "y", 0.2)), ORIGIN) == ()


def test_equal_values_are_not_told_apart() -> None:
    a, _ = findings.find(variants(("1", "x", 0.1), ("2", "x", 0.1), ("1", "y", 0.2), ("2", "y", 0.2)), ORIGIN)
    assert sorted(level.verdict for level in a.levels) == ["best", "not distinguishable"]


def test_values_that_look_alike_stay_two_values() -> None:
    """Two long lists that differ at their ends, two orders of stages of one name, a word that is like a number."""
    lists = [list(range(30)), [*range(29), 40]]
    words = asked_runs.worded([(value, "[0, 1, 2, 3…") for value in lists])
    assert sorted(words.values()) == ["[0, 1, 2, 3… #1", "[0, 1, 2, 3… #2"]
    orders = asked_runs.worded([([0, 1], "prune.width → prune.width"), ([1, 0], "prune.width → prune.width")])
    assert len(set(orders.values())) == 2
    assert len(set(asked_runs.worded([(4, "4"), ("4", "4"), (2, "2")]).values())) == 3
    assert asked_runs.worded([(4, "4"), (4, "4")]) == {"4": "4"}


def test_of_equal_values_none_is_called_worse_than_the_one_that_happens_to_be_best(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In 5 of 100 sweeps at most."""
    monkeypatch.setattr(statistics, "RESAMPLES", 1000)
    rng = np.random.default_rng(0)
    wrong = 0
    for _ in range(100):
        common = rng.normal(3, 1, 14)
        found = [
            Scored({"a": str(value)}, Scores(DOCUMENTS, tuple(10 * (common + rng.normal(0, 0.1, 14))), (10,) * 14))
            for value in range(8)
        ]
        (one,) = findings.find(found, Scores(DOCUMENTS, tuple(10 * common), (10,) * 14))
        wrong += any(level.verdict == "worse" for level in one.levels)
    assert wrong <= 9


def test_what_is_lost_is_told_in_points_of_what_is_kept() -> None:
    """The difference of the two figures that stand there, not a share of the larger one."""
    _, b = findings.find(variants(*GRID), ORIGIN)
    x, y = b.levels
    assert y.behind == pytest.approx(x.retained - y.retained)
    assert f"({100 * y.behind:.1f} points less, {100 * y.behind_low:.1f} to {100 * y.behind_high:.1f})" in b.sentence


def test_a_mean_ends_where_the_variants_end() -> None:
    """What is better than the origin keeps 100 %, alone and in the mean; beside it counts what is missing there."""
    a, _ = findings.find(variants(("1", "x", -0.02), ("2", "x", 0.1), ("1", "y", -0.01), ("2", "y", 0.1)), ORIGIN)
    one, two = a.levels
    assert (one.retained, one.high) == (1.0, 1.0) and a.sentence.startswith("a: 1 keeps most (100.0 %, mean of 2)")
    assert two.behind == pytest.approx(1 - exp(-0.1))
    better, _ = findings.find(variants(*((v, r, -0.02 * float(v)) for v in "12" for r in "xy")), ORIGIN)
    assert {(level.retained, level.behind) for level in better.levels} == {(1.0, 0.0)}
    assert better.sentence == "a: 2 keeps most (100.0 %, mean of 2); keeps all of it, too: 1"
