"""Documents: the unit that is split, shuffled and packed; how they are cut, told apart and assigned to a split."""

import hashlib
import re
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

Split = Literal["train", "calibration", "held-out", "other"]
SPLITS: tuple[Split, ...] = ("train", "calibration", "held-out", "other")

SECTION = 8_000  # characters: a longer document is cut, so that no single one fills a calibration set
MEASURED_SECTION = 2_000  # of text that is measured on: few windows should still hold many documents
# Of 100 parts, by a hash that never changes: a text keeps its split when the corpus around it grows.
CALIBRATION, HELD_OUT = range(90, 95), range(95, 100)

_BLANK_LINE = re.compile(r"\n[ \t\r]*\n")


class Document(NamedTuple):
    """A text. ``module`` is what the split goes by: documents of one module are always in the same split."""

    name: str
    module: str
    text: str


def digest(text: str) -> str:
    """Identity of a text: SHA-256 that does not see how its white space is laid out."""
    return hashlib.sha256(" ".join(text.split()).encode()).hexdigest()


def split_of(module: str) -> Split:
    """The split of a module: 90 % train, 5 % calibration, 5 % held-out, the same on every machine."""
    part = int.from_bytes(hashlib.sha256(module.encode()).digest()[:8], "big") % 100
    return "calibration" if part in CALIBRATION else "held-out" if part in HELD_OUT else "train"


def unique(documents: Iterable[Document], known: Iterable[str] = ()) -> Iterator[Document]:
    """Each text once, the first of equals, and none whose :func:`digest` is ``known``."""
    seen = set(known)
    for document in documents:
        key = digest(document.text)
        if key not in seen:
            seen.add(key)
            yield document


def without_copies(documents: Iterable[Document], measured: Iterable[Document]) -> Iterator[Document]:
    """Leaves out near copies: documents of which over half stands, paragraph by paragraph, in the measured ones."""
    known = {paragraph for document in measured for paragraph in _paragraphs(document.text)}
    for document in documents:
        shared = sum(len(paragraph) for paragraph in _paragraphs(document.text) if paragraph in known)
        if 2 * shared <= len(document.text):
            yield document


def _paragraphs(text: str) -> list[str]:
    """The paragraphs long enough to be somebody's words, white space made even."""
    return [even for part in _BLANK_LINE.split(text) if len(part) >= 100 and (even := " ".join(part.split()))]


def sections(text: str, size: int = SECTION) -> list[str]:
    """A text in pieces of at most ``size`` characters: cut between paragraphs, else lines, else words, else anywhere.

    Nothing but white space at the cuts is lost; a text that fits is one piece.
    """
    text = text.strip()
    if not text:
        return []
    if len(text) <= size:
        return [text]
    for between in (r"\n[ \t\r]*\n\s*", r"\n\s*", r"\s+"):
        units = re.split(f"({between})", text)
        if len(units) > 1:
            break
    else:
        return [text[start : start + size] for start in range(0, len(text), size)]
    pieces: list[str] = []
    current = ""
    for unit, gap in zip(units[::2], [*units[1::2], ""], strict=True):
        if current and len(current) + len(unit) > size:
            pieces.extend(sections(current, size))
            current = ""
        current += unit + gap
    return [*pieces, *sections(current, size)]
