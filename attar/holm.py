"""Several tests of different questions, held together: which of them may be called beyond doubt.

For models that are compared with each other, whose figures go up and down together, see
:func:`attar.statistics.apart`.
"""

from collections.abc import Sequence


def holm(p_values: Sequence[float], level: float = 0.05) -> list[bool]:
    """Which tests hold at ``level`` for all of them together (Holm 1979, Scand. J. Statist. 6:65-70)."""
    held = [False] * len(p_values)
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if p_values[index] >= level / (len(p_values) - rank):
            break
        held[index] = True
    return held
