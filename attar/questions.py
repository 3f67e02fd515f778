"""A question with choices, and how questions are drawn by hash, so that every model and machine gets the same."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from attar.fingerprint import hash_json


@dataclass(frozen=True)
class Question:
    """A text to go on from, its choices, and which one is right. ``key`` is its name within a task."""

    key: str
    text: str
    choices: tuple[str, ...]
    right: int


@dataclass(frozen=True)
class Written:
    """A prompt whose answer is written out, and the answers that are right."""

    key: str
    prompt: str
    right: tuple[str, ...]


@dataclass(frozen=True)
class Choosing:
    """A task of questions. ``per_token``: the mean log-probability of a choice's tokens counts, not their sum."""

    name: str
    questions: tuple[Question, ...]
    per_token: bool = True

    @property
    def chance(self) -> float:
        """Share of right answers that guessing gives."""
        return sum(1 / len(question.choices) for question in self.questions) / len(self.questions)

    def content(self) -> Any:
        """All that the answers depend on, as JSON."""
        return {"per_token": self.per_token, "questions": [asdict(question) for question in self.questions]}


@dataclass(frozen=True)
class Writing:
    """A task of answers that are compared word for word."""

    name: str
    items: tuple[Written, ...]
    tokens: int  # of an answer at most

    def content(self) -> Any:
        """All that the answers depend on, as JSON."""
        return {"tokens": self.tokens, "items": [asdict(item) for item in self.items]}


Task = Choosing | Writing


def fingerprints(tasks: Sequence[Task]) -> dict[str, str]:
    """Hash of what each task asks, by its name up to a slash: the strata of a task are one."""
    grouped: dict[str, list[Any]] = {}
    for task in tasks:
        grouped.setdefault(task.name.partition("/")[0], []).append([task.name, task.content()])
    return {name: hash_json(content) for name, content in grouped.items()}


def draw(seed: int, *words: str) -> bytes:
    """Random bytes for these words. By hash and not by a generator: no version of Python can change them."""
    return hashlib.sha256("/".join((str(seed), *words)).encode()).digest()
