"""Which of four functions does a docstring describe: questions about the embedded libraries, in two strata.

A question shows the first paragraph of a docstring and four function names, of which one is described. The other three
are of any library (easy) or of the same module (hard); no function is asked about in both. Chance is 25 %.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Literal

from attar.data import Document
from attar.data.documents import split_of
from attar.questions import Question, draw
from attar.responses.prompts import public_name

CHOICES = 4
SHORTEST, LONGEST = 40, 400  # characters of a description
QUESTION = "Description: {description}\nThe Python function described above is"
DRAWS = 64  # tries to find three others

Stratum = Literal["easy", "hard"]


def questions(documents: Sequence[Document], stratum: Stratum, count: int, seed: int = 0) -> list[Question]:
    """At most ``count`` questions about documents, the same for the same seed; fewer are a prefix of more.

    Functions of modules that nothing is trained on come first. A description that holds the function's own name is not
    asked about; a module with fewer than four names has no hard question.
    """
    described = {name: (d, text) for d in documents if (name := public_name(d)) and (text := _description(d, name))}
    near: dict[str, list[str]] = defaultdict(list)
    for name in sorted(described):
        near[described[name][0].module].append(name)
    everywhere = sorted(described)
    found: list[Question] = []
    mine = [name for name in described if _stratum(seed, name) == stratum]
    for name in sorted(mine, key=lambda name: (not_held_out(described[name][0]), draw(seed, name))):
        document, text = described[name]
        others = _others(seed, name, everywhere if stratum == "easy" else near[document.module])
        if len(found) == count:
            break
        if others is not None:
            choices = sorted([name, *others], key=lambda choice: draw(seed, name, choice, "place"))
            asked = QUESTION.format(description=text)
            found.append(Question(name, asked, tuple(choices), choices.index(name)))
    return found


def not_held_out(document: Document) -> bool:
    """Whether a stage may have been trained or calibrated on the document, where the data is the embedded text."""
    return split_of(document.module) != "held-out"


def leaf(name: str) -> str:
    """The last part of a dotted name."""
    return name.rpartition(".")[2]


def _stratum(seed: int, name: str) -> Stratum:
    return "easy" if draw(seed, name, "stratum")[0] % 2 else "hard"


def _others(seed: int, name: str, pool: Sequence[str]) -> list[str] | None:
    """Three names of the pool that end otherwise; None where there are no three."""
    found: list[str] = []
    for number in range(DRAWS):
        other = pool[int.from_bytes(draw(seed, name, str(number))[:8], "big") % len(pool)]
        if leaf(other) != leaf(name) and other not in found:
            found.append(other)
        if len(found) == CHOICES - 1:
            return found
    return None


def _description(document: Document, name: str) -> str | None:
    """The first paragraph on one line, if it is neither too short nor too long and does not give the name away."""
    text = " ".join(re.split(r"\n[ \t\r]*\n", document.text.strip(), maxsplit=1)[0].split())
    told = re.search(rf"\b{re.escape(leaf(name))}\b", text, re.IGNORECASE)
    return text if SHORTEST <= len(text) <= LONGEST and not told else None
