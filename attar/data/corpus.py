"""The corpus of a run: documents by split, their fingerprint, and windows of tokens."""

import hashlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from attar.data import embedded, files, hub
from attar.data.cache import kept
from attar.data.documents import (
    MEASURED_SECTION,
    SECTION,
    SPLITS,
    Document,
    Split,
    digest,
    sections,
    split_of,
    unique,
    without_copies,
)
from attar.data.settings import EMBEDDED, TOPICS, DataSettings
from attar.data.windows import bytes_by_owner, pack, pack_owned, text_bytes
from attar.errors import BadInput, nearest
from attar.fingerprint import hash_json
from attar.waiting import ANYBODY, Waiter

if TYPE_CHECKING:
    from attar.data.windows import Windows

VERSION = 2  # bump when the same documents are split, cut, shuffled or packed differently
SHORTEST = 200  # characters a source must hold to be called text

Progress = Callable[[int, int], None]


class Measured(NamedTuple):
    """Windows to measure on. Documents of one module count as one, since they say much the same."""

    windows: "Windows"  # token ids [n, length]
    owners: "Windows"  # of every token, which of ``names`` it belongs to [n, length]
    names: list[str]  # of the modules
    text_bytes: "Windows"  # UTF-8 bytes of each one's scored text [names]


class Corpus:
    """Text in four splits that share no module and no text with each other.

    ``train`` and ``calibration`` hold no near copy of what is measured on, either.
    """

    def __init__(self, documents: Sequence[Document], other: Sequence[Document], name: str, other_name: str) -> None:
        self._other_documents = list(unique(other))
        self._source_documents = documents
        self._names = {split: other_name if split == "other" else name for split in SPLITS}
        self._counted: dict[tuple[Split, Path, int, int], int] = {}

    @cached_property
    def _splits(self) -> dict[Split, list[Document]]:
        splits: dict[Split, list[Document]] = {split: [] for split in SPLITS}
        splits["other"] = self._other_documents
        for document in unique(self._source_documents, known=[digest(d.text) for d in self._other_documents]):
            splits[split_of(document.module)].append(document)
        return splits

    @cached_property
    def _free_of_copies(self) -> dict[Split, list[Document]]:
        """The splits that models learn from. Apart, because measuring does not need it."""
        measured = [*self._splits["held-out"], *self._splits["other"]]
        return {s: list(without_copies(self._splits[s], measured)) for s in ("train", "calibration")}

    def documents(self, split: Split) -> Sequence[Document]:
        """The documents of a split, each text once, in the order of the source."""
        if split not in SPLITS:
            raise BadInput(f"{split!r} is no split of the data; possible: {', '.join(SPLITS)}")
        return (self._free_of_copies if split in ("train", "calibration") else self._splits)[split]

    def fingerprint(self, split: Split) -> str:
        """Hash of what the split says: of its texts, not of their names, places or order."""
        return hash_json({"packing": VERSION, "texts": sorted(_identity(d.text) for d in self.documents(split))})

    def names(self) -> str:
        """Hash of what the documents of ``train`` are called beside what they say: prompts about them name them."""
        called = sorted([d.name, d.module, _identity(d.text)] for d in self.documents("train"))
        return hash_json({"packing": VERSION, "names": called})

    def require_unchanged(self, inputs: Mapping[str, str]) -> None:
        """Raise :class:`BadInput` if a split is no longer what a plan called it (``inputs["data.<split>"]``).

        The same for the names of the documents (``inputs["data.names"]``).
        """
        for split in SPLITS:
            planned = inputs.get(f"data.{split}")
            if planned is not None and planned != self.fingerprint(split):
                raise BadInput(f"the {split} text has changed since this run was planned; run it again to plan anew")
        names = inputs.get("data.names")
        if names is not None and names != self.names():
            raise BadInput("the names of the documents have changed since this run was planned; run it to plan anew")

    def windows(self, split: Split, tokenizer_file: Path, count: int, length: int, seed: int) -> "Windows":
        """int64 ``[<= count, length]``: documents shuffled by ``seed``, packed end to end, separated by end-of-text.

        Fewer than ``count`` when the split holds no more. The same on every machine; fewer windows are a prefix of
        more. Documents are cut into sections before they are shuffled: of at most 8,000 characters to learn from, of
        2,000 to be measured on.
        """
        return pack((text for text, _ in self._shuffled(split, seed)), tokenizer_file, count, length)

    def measured(self, split: Split, tokenizer_file: Path, count: int, length: int, seed: int) -> "Measured":
        """The same windows, and which document each of their tokens is of."""
        shuffled = self._shuffled(split, seed)
        windows, places = pack_owned((text for text, _ in shuffled), tokenizer_file, count, length)
        modules = [module for _, module in shuffled]
        names = list(dict.fromkeys(modules[: int(places.max(initial=-1)) + 1]))
        numbers = {module: number for number, module in enumerate(names)}
        owners = _looked_up([numbers.get(module, -1) for module in modules], places)
        return Measured(windows, owners, names, bytes_by_owner(tokenizer_file, windows, owners, len(names)))

    @staticmethod
    def text_bytes(tokenizer_file: Path, windows: "Windows") -> int:
        """UTF-8 bytes of the text that the scored tokens stand for, see :func:`attar.data.windows.text_bytes`."""
        return text_bytes(tokenizer_file, windows)

    def _shuffled(self, split: Split, seed: int) -> list[tuple[str, str]]:
        """(section, module it is of)."""
        # By hash and not by a generator: no version of Python or numpy can change it.
        size = MEASURED_SECTION if split in ("held-out", "other") else SECTION
        pieces = [(piece, d.module) for d in self.documents(split) for piece in sections(d.text, size)]
        keyed = ((hashlib.sha256(f"{seed}/".encode() + text.encode()).digest(), text, of) for text, of in pieces)
        return [(text, of) for _, text, of in sorted(keyed)]

    def require(self, split: Split, tokenizer_file: Path, count: int, length: int) -> None:
        """Raise :class:`BadInput` if the split holds fewer than ``count`` windows of ``length`` tokens.

        Training goes round and round over what there is, so that for ``train`` one window is enough.
        """
        least = 1 if split == "train" else count
        key = (split, tokenizer_file, least, length)
        if key not in self._counted:
            self._counted[key] = len(self.windows(split, tokenizer_file, least, length, seed=0))
        found = self._counted[key]
        if found < least:
            name = self._names[split]
            what = f"data.{'other' if split == 'other' else 'source'} {name!r}"
            role = "" if split == "other" else f" its {split} part"
            raise BadInput(
                f"{what} is too short: {least} windows of {length} tokens are needed of{role or ' it'}, {found} can be "
                f"cut; add text, or ask for fewer or shorter windows"
            )


def _looked_up(table: list[int], places: "Windows") -> "Windows":
    import numpy as np

    found: Windows = np.asarray(table, dtype=np.int64)[places]
    return found


def _identity(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def open_corpus(
    settings: DataSettings,
    cache: Path,
    relative_to: Path | None = None,
    progress: Progress | None = None,
    waiter: Waiter = ANYBODY,
) -> Corpus:
    """The corpus that the settings name.

    ``cache`` is a folder where what is slow to read (the docstrings of the libraries, datasets of the hub) is kept as
    JSON under a key of its versions. A relative path of the settings is looked for under ``relative_to`` (default: the
    working folder). ``progress`` hears (done, total) while the libraries are read. Another process may be reading the
    same text, and ``waiter`` waits for it. Raises :class:`BadInput` for data that is missing, empty, malformed, or the
    same for both texts.
    """
    if settings.source == settings.other:
        raise BadInput(
            f"data.source and data.other are both {settings.source!r}; the other text may never be trained on, so name "
            f"another one, or leave it out for {TOPICS!r}"
        )
    source = _documents(settings.source, "source", settings, cache, relative_to, progress, waiter)
    other = _documents(settings.other, "other", settings, cache, relative_to, progress, waiter)
    return Corpus(source, other, settings.source, settings.other)


def library_key(builder: int) -> str:
    """Hash of what is read out of the installed libraries depends on, beside the version of what reads it."""
    return hash_json({"builder": builder, "python": sys.version_info[:2], **embedded.library_versions()})


def library_file(cache: Path) -> Path:
    """Where the docstrings of the installed libraries are kept."""
    return cache / f"embedded-{library_key(embedded.VERSION)}.json"


def library_documents(cache: Path, progress: Progress | None = None, waiter: Waiter = ANYBODY) -> list[Document]:
    """The docstrings of the installed libraries, kept in the folder ``cache``; :class:`BadInput` if one is missing."""

    def made() -> list[Document]:
        return list(unique(embedded.docstrings(progress)))

    return kept(library_file(cache), f"the text {EMBEDDED}", made, waiter)


def _documents(
    name: str,
    role: str,
    settings: DataSettings,
    cache: Path,
    relative_to: Path | None,
    progress: Progress | None,
    waiter: Waiter,
) -> list[Document]:
    if name == EMBEDDED:
        return library_documents(cache, progress, waiter)
    if name == TOPICS:
        return _topics()
    if name.startswith(hub.PREFIX):
        documents = hub.read(name, settings.column, cache, waiter)
    else:
        path = Path(relative_to or "", os.path.expanduser(name))
        if Path(name).name == name and not Path(name).suffix and not path.exists():
            raise BadInput(f"data.{role} {name!r} is no file and no known text; {nearest(name, (EMBEDDED, TOPICS))}")
        documents = files.read(path, settings.column)
    characters = sum(len(document.text) for document in documents)
    if characters < SHORTEST:
        raise BadInput(
            f"data.{role} {name!r} holds only {characters} characters of text, too short to use; "
            f"at least {SHORTEST} are needed, and some 100,000 for calibration and held-out parts worth the name"
        )
    return documents


def _topics() -> list[Document]:
    """Python's own language reference, as ``help()`` shows it: a topic a document."""
    from pydoc_data.topics import topics

    return [Document(name, f"pydoc_data.topics:{name}", text) for name, text in sorted(topics.items()) if text.strip()]
