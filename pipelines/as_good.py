"""Is a model as good as a better one: not worse in headline by more than a margin, beyond doubt (non-inferiority)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from attar.scores import Scores  # needs numpy

MARGIN = 0.01  # of headline: a point
SCORED = "loss/other"  # what the headline is made of


@dataclass(frozen=True)
class Judged:
    """How much worse a model may be than another."""

    kept: bool  # it is as good
    lost: float  # of headline, at the worse end of the paired interval; 0.01 is a point
    text: str  # what may be said of it


def judge(one: "Scores", other: "Scores", headline: float, margin: float, tests: int = 1) -> Judged:
    """Whether ``one`` is as good as ``other``, from their losses per document.

    That no difference was seen is no proof that there is none: few or noisy documents show none either. So the end of
    the paired interval counts, as far as the headline may be lower. ``headline`` is that of ``other``; its own
    uncertainty moves the end by a few hundredths of itself and is left out.

    Args:
        margin: in headline, 0.01 is a point.
        tests: how many are judged together, see :func:`attar.statistics.difference`.

    Raises:
        BadInput: the two were not scored on the same items.
    """
    from attar import statistics  # numpy, which the command line does without until there is something to compare

    found = statistics.perplexity_retained(one, other, tests)
    lost = headline * (1 - found.low)
    if found.note:
        return Judged(False, lost, f"nobody can tell whether it is worse in headline ({found.note})")
    if found.low == 0:
        return Judged(False, lost, f"nobody can tell whether it is worse in headline ({tests} are judged at once)")
    text = f"may be worse in headline by {100 * max(0.0, lost):.1f} points, where {100 * margin:g} is the margin"
    return Judged(lost <= margin, lost, text)
