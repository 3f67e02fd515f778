"""The Pareto front: those models to which no other is both smaller and better."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from pipelines.report import Row


class Point(Protocol):
    """What a choice is about: a model's bytes and how much quality it kept."""

    @property
    def bytes(self) -> int: ...

    @property
    def retained(self) -> float: ...


P = TypeVar("P", bound=Point)


def front(points: Sequence[P]) -> list[P]:
    """The points that no other beats in one of size and quality without losing in the other; the smallest first."""
    found: list[P] = []
    for point in sorted(points, key=lambda point: (point.bytes, -point.retained)):
        if not found or point.retained > found[-1].retained:
            found.append(point)
    return found


def rank(row: "Row") -> tuple[float, int, float]:
    """Sorts models of one origin, the best first: by what they retain, which ends at 100 %; then by size.

    Of those that are equal in both, the one of the lower perplexity is the better.
    """
    return -row.retained, row.bytes, row.perplexity_other
