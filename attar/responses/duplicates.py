"""Near duplicates among texts: Jaccard similarity of their word trigrams, candidates found by MinHash.

The resemblance of two texts is |A ∩ B| / |A ∪ B| over their sets of shingles, and equal minima of random hashes have
just that probability (Broder, "On the resemblance and containment of documents", 1997). Minima in bands find the
candidates; every candidate is compared exactly, so that nothing unlike is dropped. Near duplicates in training text
make models repeat it (Lee et al., arXiv 2107.06499).
"""

import hashlib
import re

import numpy as np
import numpy.typing as npt

WORDS = 3  # in a shingle
HASHES = 64  # minima of a text, in bands; two texts are compared when one band agrees in all its rows
MISSED = 0.001  # probability with which a pair that is just similar enough may be missed
_WORD = re.compile(r"\w+")
_DRAWS = np.random.default_rng(1997).integers(1, 2**63, (2, HASHES), dtype=np.uint64)


class Seen:
    """Texts seen so far; :meth:`like_another` tells whether a new one is nearly one of them."""

    def __init__(self, similar: float) -> None:
        self.similar = similar  # Jaccard similarity from which on two texts count as the same
        self._rows = rows_of(similar)
        self._shingles: list[frozenset[int]] = []
        self._bands: dict[bytes, list[int]] = {}

    def like_another(self, text: str) -> bool:
        """Whether a text that came before is at least ``similar``; if not, this one counts from now on."""
        new = shingles(text)
        bands = _bands(new, self._rows)
        candidates = {place for band in bands for place in self._bands.get(band, ())}
        if any(jaccard(new, self._shingles[place]) >= self.similar for place in candidates):
            return True
        for band in bands:
            self._bands.setdefault(band, []).append(len(self._shingles))
        self._shingles.append(new)
        return False


def shingles(text: str) -> frozenset[int]:
    """Hashes of all runs of three words, case and punctuation left aside; of the whole text when it is shorter."""
    words = _WORD.findall(text.lower())
    runs = [words[i : i + WORDS] for i in range(max(1, len(words) - WORDS + 1))]
    digests = (hashlib.blake2b(" ".join(run).encode(), digest_size=8).digest() for run in runs)
    return frozenset(int.from_bytes(digest, "big") for digest in digests)


def jaccard(one: frozenset[int], other: frozenset[int]) -> float:
    """Shared shingles over all shingles of both."""
    return len(one & other) / len(one | other)


def rows_of(similar: float) -> int:
    """Rows of a band: as many, and so as few comparisons, as miss hardly any pair of this similarity.

    A band of r rows agrees with probability sʳ: at 0.8 and 4 rows, 16 bands miss (1 − 0.8⁴)¹⁶ = 0.02 % of the pairs.
    """
    return next((rows for rows in (4, 2) if (1 - similar**rows) ** (HASHES // rows) <= MISSED), 1)


def _bands(found: frozenset[int], rows: int) -> list[bytes]:
    values: npt.NDArray[np.uint64] = np.fromiter(found, dtype=np.uint64, count=len(found))
    hashed = (values[:, None] * (_DRAWS[0] | np.uint64(1)) + _DRAWS[1]) >> np.uint64(11)
    minima = hashed.min(axis=0).reshape(-1, rows)
    return [bytes([number]) + band.tobytes() for number, band in enumerate(minima)]
