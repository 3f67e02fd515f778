"""Every error Attar raises on purpose; each is one sentence and carries the exit code of the command line.

AttarError
├── BadInput      2    the request cannot be served as asked; nothing was computed
├── GateFailed    3    a quality gate was not passed
├── StageFailed   4    a stage or a measurement broke
│   └── ProofFailed    a stage finished, but what it made is not what it claims
└── Cancelled     130  somebody stopped the run
"""

from difflib import get_close_matches
from typing import ClassVar, Iterable

from attar.credentials import without_credentials


class AttarError(Exception):
    """Base of all errors that are meant for the reader of the terminal."""

    exit_code: ClassVar[int] = 1


class BadInput(AttarError):
    """What was asked cannot be done; the message says what was asked, what is possible and what to do."""

    exit_code = 2


class GateFailed(AttarError):
    """A gate of the recipe was not passed."""

    exit_code = 3


class StageFailed(AttarError):
    """A stage or a measurement did not finish."""

    exit_code = 4


class ProofFailed(StageFailed):
    """A stage finished but one of its proofs did not hold; no artifact was stored."""


class Cancelled(AttarError):
    """The run was stopped from outside."""

    exit_code = 130


BY_EXIT_CODE: dict[int, type[AttarError]] = {c.exit_code: c for c in (BadInput, GateFailed, StageFailed, Cancelled)}


def nearest(word: str, choices: Iterable[str]) -> str:
    """A half sentence that suggests the choice nearest to ``word``, or lists all of them."""
    options = sorted(choices)
    close = get_close_matches(word, options, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"possible: {', '.join(options)}"


def first_line(error: Exception) -> str:
    """A library's error, short enough to stand inside a sentence of ours, and without credentials."""
    text = without_credentials(str(error)).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__
