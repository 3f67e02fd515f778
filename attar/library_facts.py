"""Which library has this function: facts that a model must know by heart, for what it says and how sure it is.

Nothing is shown but a name that only one of the libraries has, so that whoever does not know can only make it up: the
share of answers that are sure and wrong is the measure of hallucination. Every library is right equally often, so that
naming always the same one is no better than chance.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence

from attar.choices import leaf, not_held_out
from attar.data import Document
from attar.data.embedded import LIBRARIES
from attar.questions import Question, draw
from attar.responses.prompts import public_name

QUESTION = "The Python function or class `{name}` is part of the library"
SHORTEST = 4  # characters of a name


def facts(
    documents: Sequence[Document], count: int, names: Mapping[str, Collection[str]], seed: int = 0
) -> list[Question]:
    """At most ``count`` questions about functions and classes, as many of each library as of any other.

    The same for the same seed; fewer are a prefix of more. A name that another library has too (by ``names``, library
    → all that it defines, see :mod:`attar.data.library_names`), or that holds a library's name, is not asked about.
    Functions of modules that nothing is trained on come first.
    """
    spoken = sorted(LIBRARIES.values())  # as people call them: scikit-learn, not sklearn
    owners: dict[str, set[str]] = defaultdict(set)
    for library, defined in names.items():
        for name in defined:
            owners[name.lower()].add(library)
    for document in documents:
        owners[leaf(document.name).lower()].add(_library(document.name))
    asked: dict[str, list[Document]] = defaultdict(list)
    for document in documents:
        if document.name == f"{document.module}.{leaf(document.name)}" and _telling(document, owners):
            asked[_library(document.name)].append(document)
    for entries in asked.values():
        entries.sort(key=lambda d: (not_held_out(d), draw(seed, d.name)))
    rounds = min((len(asked[library]) for library in LIBRARIES), default=0)
    found = []
    for place in range(rounds):
        for library in LIBRARIES:
            name = leaf(asked[library][place].name)
            text = QUESTION.format(name=name)
            found.append(Question(asked[library][place].name, text, tuple(spoken), spoken.index(LIBRARIES[library])))
    return found[: count - count % len(LIBRARIES)]


def _telling(document: Document, owners: dict[str, set[str]]) -> bool:
    """Whether the name is public, one library's alone, and does not say whose."""
    name = leaf(document.name).lower()
    hinted = any(word in name for word in (*LIBRARIES, *LIBRARIES.values()))
    return public_name(document) is not None and len(name) >= SHORTEST and len(owners[name]) == 1 and not hinted


def _library(name: str) -> str:
    return name.partition(".")[0]
