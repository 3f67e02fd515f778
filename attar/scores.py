"""Scores per item: what a measure found on every document or question, so that two models can be compared.

An item is a document of a text (one module's documentation, one topic, one row), or a question. The items of a
measurement are saved beside its result as JSON, in which a float survives to the last bit.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attar.errors import StageFailed

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

FILE = "scores.json"


@dataclass(frozen=True)
class Scores:
    """One measure on n items: the mean over everything is sum(sums) ÷ sum(counts).

    For a text an item's sum is over its scored tokens and the count is how many they are. For a question the count is
    1, the sum says how right the answer was, and ``confidence`` is the probability of what the model thought likeliest.
    """

    ids: tuple[str, ...]
    sums: tuple[float, ...]
    counts: tuple[int, ...]
    confidence: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        sizes = {len(self.ids), len(self.sums), len(self.counts), len(self.confidence or self.ids)}
        if len(sizes) > 1 or len(set(self.ids)) < len(self.ids) or not all(count > 0 for count in self.counts):
            raise ValueError("scores need one id, sum and positive count an item, and every id once")

    @property
    def mean(self) -> float:
        """Over all tokens or questions, not over items."""
        return sum(self.sums) / sum(self.counts)

    def pairs_with(self, other: "Scores") -> bool:
        """Whether both are of the same items, token for token, so that the two can be compared in pairs."""
        return dict(zip(self.ids, self.counts, strict=True)) == dict(zip(other.ids, other.counts, strict=True))


def of_answers(ids: Sequence[str], right: Sequence[float], confidence: Sequence[float] | None = None) -> Scores:
    """Scores of questions: 1 where the answer was right, 0 where not, or a share."""
    sure = None if confidence is None else tuple(map(float, confidence))
    return Scores(tuple(ids), tuple(map(float, right)), (1,) * len(ids), sure)


def by_owner(
    names: Sequence[str],
    owners: "npt.NDArray[np.int64]",
    values: "npt.NDArray[np.float64]",
) -> Scores:
    """Scores of the items of which something was scored, from one value a token.

    Args:
        names: of all items.
        owners: index into ``names`` of the item that each scored token belongs to [tokens].
        values: what was measured there [tokens].
    """
    import numpy as np

    counts = np.bincount(owners, minlength=len(names))
    there = counts > 0
    sums = np.bincount(owners, values, minlength=len(names))[there]
    ids = tuple(name for name, found in zip(names, there, strict=True) if found)
    return Scores(ids, tuple(sums.tolist()), tuple(counts[there].tolist()))


def save(scores: Mapping[str, Scores], folder: Path) -> Path:
    """Write the scores of a measurement, by name such as ``loss/other``, into its folder."""
    path = folder / FILE
    path.write_text(json.dumps({name: vars(found) for name, found in scores.items()}) + "\n")
    return path


def load(folder: Path) -> dict[str, Scores]:
    """The scores of a measurement; none of one that was made before scores were kept."""
    path = folder / FILE
    if not path.is_file():
        return {}
    try:
        return {name: _parsed(value) for name, value in json.loads(path.read_text()).items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise StageFailed(f"{path} does not hold scores; delete {folder} to measure again") from None


def _parsed(value: dict[str, Any]) -> Scores:
    sure = value["confidence"]
    return Scores(
        tuple(value["ids"]), tuple(value["sums"]), tuple(value["counts"]), None if sure is None else tuple(sure)
    )
