"""What can be said of an answer without knowing the right one: likeness to the origin's, repetition, emptiness."""

from collections import Counter

RUN = 4  # words that repeat when a model goes round in circles


def overlap(answer: str, origin: str) -> float:
    """F1 of the words that both answers have, each as often as both say it; 1 where both are empty.

    The measure of SQuAD (Rajpurkar et al. 2016, arXiv 1606.05250), without its dropping of articles.
    """
    ours, theirs = Counter(_words(answer)), Counter(_words(origin))
    shared = (ours & theirs).total()
    if not ours or not theirs:
        return float(ours == theirs)
    return 2 * shared / (ours.total() + theirs.total())


def same(answer: str, origin: str) -> bool:
    """Whether both say the same words in the same order."""
    return _words(answer) == _words(origin)


def repetition(answer: str) -> float:
    """Share of runs of four words that stood there before (Welleck et al. 2019, arXiv 1908.04319); 0 of fewer words."""
    words = _words(answer)
    runs = [tuple(words[i : i + RUN]) for i in range(len(words) - RUN + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def empty(answer: str) -> bool:
    """Whether nothing is said."""
    return not any(character.isalnum() for character in answer)


def _words(text: str) -> list[str]:
    return text.casefold().split()
