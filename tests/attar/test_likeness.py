"""What is said of answers: like the origin's, going round in circles, empty."""

import pytest

from attar.likeness import empty, overlap, repetition, same


def test_likeness_is_one_of_the_same_and_none_of_others() -> None:
    assert overlap("The cat sat", "the  cat\nsat") == 1 and same("The cat sat", "the  cat\nsat")
    assert overlap("a b c", "d e") == 0 and not same("a b", "b a")
    assert overlap("a b", "b a") == 1
    assert overlap("", "") == 1 and overlap("", "a") == overlap("a", "") == 0


def test_overlap_counts_every_word_as_often_as_both_say_it() -> None:
    assert overlap("a a a b", "a b") == pytest.approx(2 * 2 / 6)  # precision 2/4, recall 2/2
    assert overlap("a b", "a a a b") == overlap("a a a b", "a b")


def test_repetition_is_the_share_of_runs_that_stood_there_before() -> None:
    assert repetition("one two three four five six") == 0
    assert repetition("one two three") == 0
    assert repetition("go " * 103) == pytest.approx(99 / 100)
    assert repetition("a b c d a b c d") == pytest.approx(1 / 5)


def test_marks_alone_say_nothing() -> None:
    assert empty("") and empty(" \n…!?") and not empty("no") and not empty("是")
