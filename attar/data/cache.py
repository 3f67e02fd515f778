"""Documents kept as JSON, so that what is slow to read is read once: an identity line, then one JSON list."""

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from attar.data.documents import Document
from attar.errors import BadInput
from attar.waiting import ANYBODY, Waiter, hold


def kept(path: Path, what: str, make: Callable[[], list[Document]], waiter: Waiter = ANYBODY) -> list[Document]:
    """What ``path`` holds; if it holds nothing, or not what was saved, what ``make`` returns, saved for next time.

    Two processes that start together make it once: the other one waits, and says for whom and for ``what``. Raises
    :class:`BadInput` when nothing can be written there.
    """
    found = _load(path)
    if found is not None:
        return found
    with ExitStack() as held:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            held.enter_context(hold(path.with_suffix(".lock"), what, waiter))
        except OSError as error:
            raise _unwritable(path, error) from None
        found = _load(path)
        if found is None:
            found = make()
            try:
                _save(path, found)
            except OSError as error:
                raise _unwritable(path, error) from None
    return found


def _unwritable(path: Path, error: OSError) -> BadInput:
    return BadInput(f"the data cache {path.parent} cannot be written ({error.strerror}); choose another folder")


def _identity(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()


def _save(path: Path, documents: list[Document]) -> None:
    body = json.dumps(documents, ensure_ascii=False)
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    draft.write_text(f"{_identity(body)}\n{body}", encoding="utf-8", newline="\n")
    draft.replace(path)


def _load(path: Path) -> list[Document] | None:
    try:
        identity, _, body = path.read_bytes().decode().partition("\n")
    except (OSError, UnicodeDecodeError):
        return None
    return [Document(*entry) for entry in json.loads(body)] if identity == _identity(body) else None
