"""Prompts: what a teacher is asked, read from a file or made from documents."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attar.data import Document
from attar.data.documents import sections
from attar.data.files import SUFFIXES, records
from attar.errors import BadInput

Message = dict[str, str]  # {"role": "user", "content": "…"}
ROLES = ("system", "user", "assistant")
EXCERPT = 1000  # characters of a document that a prompt shows

ABOUT_A_NAME = (
    "What does `{name}` of the Python library {library} do? Answer in two or three sentences.",
    "Explain to a programmer what `{name}` does and when to use it.",
    "Here is the documentation of `{name}`:\n\n{excerpt}\n\nSay in two sentences, in your own words, what it does.",
    "Read the documentation of `{name}` and write a short example of its use, with one sentence about it.\n\n{excerpt}",
)
ABOUT_A_TEXT = (
    "Summarise the following text in two or three sentences.\n\n{excerpt}",
    "What is the following text about, and what is its main point?\n\n{excerpt}",
    "Explain the following text to somebody who is new to its subject.\n\n{excerpt}",
)


@dataclass(frozen=True)
class Prompt:
    """A conversation that ends with the user's turn, and the right answer where it is known."""

    messages: tuple[Message, ...]
    right: str | None = None

    @property
    def key(self) -> str:
        """Identity of what is asked."""
        return hashlib.sha256(json.dumps(self.messages, sort_keys=True).encode()).hexdigest()[:20]


def read_prompts(path: Path, column: str, answers: str) -> list[Prompt]:
    """The prompts of a file, each once, in its order.

    A line of a .txt is a prompt; a row of .jsonl or .parquet has one in ``column``, as text or as a list of messages
    with role and content, and may have the right answer (text or number) in the column ``answers``. Raises
    :class:`BadInput` for what is missing, empty or malformed.
    """
    if path.is_file() and path.suffix.lower() not in SUFFIXES:
        raise BadInput(f"the prompts file {path} is of a kind that is not read; possible: {', '.join(SUFFIXES)}")
    found = list(_unique(_text_prompts(path) if path.suffix.lower() == ".txt" else _rows(path, column, answers)))
    if not found:
        raise BadInput(f"the prompts file {path} holds no prompt")
    return found


def made_prompts(documents: Sequence[Document], count: int, seed: int) -> list[Prompt]:
    """``count`` prompts about documents (fewer when there are fewer documents), the same for the same seed.

    Documents are taken in an order drawn by ``seed``, each for one prompt. Of a named thing it is asked what it does;
    of any other text, what it says.
    """
    keyed = sorted((hashlib.sha256(f"{seed}/{d.name}/{d.text}".encode()).digest(), d) for d in documents)
    return list(_unique(_about(document, draw) for draw, document in keyed))[:count]


def public_name(document: Document) -> str | None:
    """Dotted name of the function or class that a document describes, private modules left out; else None."""
    head, _, leaf = document.name.rpartition(".")
    named = document.name.startswith(f"{document.module}.") and ":" not in document.name
    if not named or not head or leaf.startswith("_"):
        return None
    return ".".join(part for part in document.name.split(".") if not part.startswith("_"))


def _about(document: Document, draw: bytes) -> Prompt:
    name = public_name(document)
    templates = ABOUT_A_TEXT if name is None else ABOUT_A_NAME
    excerpt = next(iter(sections(document.text, EXCERPT)), "")
    library = (name or "").partition(".")[0]
    text = templates[draw[-1] % len(templates)].format(name=name, library=library, excerpt=excerpt)
    return Prompt(({"role": "user", "content": text},))


def _unique(prompts: Iterable[Prompt]) -> Iterator[Prompt]:
    seen: set[str] = set()
    for prompt in prompts:
        if prompt.key not in seen:
            seen.add(prompt.key)
            yield prompt


def _text_prompts(path: Path) -> Iterator[Prompt]:
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise BadInput(f"the prompts file {path} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise BadInput(f"the prompts file {path} is not UTF-8 (byte {error.start}); convert it") from None
    for line in lines:
        if line.strip():
            yield Prompt(({"role": "user", "content": line.strip()},))


def _rows(path: Path, column: str, answers: str) -> Iterator[Prompt]:
    for number, row in enumerate(records(path, [column], [answers], "column"), start=1):
        messages = conversation(row[column], f"row {number} of {path}", column)
        right = row.get(answers)
        if right is not None and not isinstance(right, str | int | float):
            raise BadInput(f"row {number} of {path} holds {type(right).__name__} in {answers!r}, not text or a number")
        yield Prompt(messages, None if right is None else str(right))


def conversation(value: Any, where: str, column: str) -> tuple[Message, ...]:
    """Messages from a text or from a list of messages; raises :class:`BadInput` for anything else."""
    if isinstance(value, str) and value.strip():
        return ({"role": "user", "content": _plain(value.strip())},)
    if isinstance(value, list) and value and all(_is_message(entry) for entry in value):
        if value[-1]["role"] != "user":
            raise BadInput(f"{where}: the last message in {column!r} is not the user's, so there is nothing to answer")
        return tuple({"role": entry["role"], "content": _plain(entry["content"])} for entry in value)
    raise BadInput(
        f"{where} holds no prompt in {column!r}; it must be text, or a list of messages with role "
        f"({', '.join(ROLES)}) and content"
    )


def _is_message(entry: Any) -> bool:
    return isinstance(entry, dict) and entry.get("role") in ROLES and isinstance(entry.get("content"), str)


def _plain(text: str) -> str:
    """JSON can spell half a surrogate pair, which no file can hold."""
    return text.encode("utf-8", "replace").decode()
