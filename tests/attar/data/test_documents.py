"""Laws of cutting, telling apart and assigning texts."""

import random

import pytest

from attar.data.documents import Document, digest, sections, split_of, unique, without_copies


@pytest.mark.parametrize("seed", range(20))
def test_sections_fit_and_lose_only_white_space(seed: int) -> None:
    choose = random.Random(seed)
    gaps = [" ", "  ", "\n", "\r\n", "\n\n", "\n \n\n", "", "\t"]
    text = "".join("ab€𝄞."[choose.randrange(5)] * choose.randrange(1, 40) + choose.choice(gaps) for _ in range(400))
    pieces = sections(text, size=100)
    assert all(0 < len(piece) <= 100 for piece in pieces)
    assert "".join("".join(pieces).split()) == "".join(text.split())


def test_sections_prefer_paragraphs_to_lines_and_lines_to_words() -> None:
    assert sections("aa\nbb\n\ncc\ndd", size=9) == ["aa\nbb", "cc\ndd"]
    assert sections("aa bb\ncc dd", size=8) == ["aa bb", "cc dd"]
    assert sections("aa bb cc", size=5) == ["aa bb", "cc"]
    assert sections("aabbc", size=2) == ["aa", "bb", "c"]
    assert sections(" \n ") == []


def test_digest_ignores_the_layout_of_white_space_only() -> None:
    assert digest("a  b\n c") == digest("a b c\n")
    assert digest("a b c") != digest("a b d")


def test_split_is_the_same_everywhere() -> None:
    # Written down: a change would move texts that were trained on into the held-out split.
    known = {"numpy.linalg": "train", "torch.nn": "train", "module2": "held-out", "module7": "calibration"}
    assert {module: split_of(module) for module in known} == known
    parts = [split_of(f"module{i}") for i in range(20_000)]
    assert abs(parts.count("calibration") / len(parts) - 0.05) < 0.01
    assert abs(parts.count("held-out") / len(parts) - 0.05) < 0.01


def test_unique_keeps_the_first_of_equals() -> None:
    documents = [Document("1", "m", "a b"), Document("2", "n", "a  b"), Document("3", "m", "c")]
    assert [d.name for d in unique(documents)] == ["1", "3"]
    assert [d.name for d in unique(documents, known=[digest("c")])] == ["1"]


def test_without_copies_spares_what_shares_less_than_half() -> None:
    shared, own = "shared words " * 20, "words of its own " * 40
    copy, neighbour = Document("copy", "a", f"{shared}\n\nshort"), Document("neighbour", "b", f"{shared}\n\n{own}")
    measured = [Document("measured", "c", f"before\n\n  {shared}\n")]
    assert list(without_copies([copy, neighbour], measured)) == [neighbour]
