"""The licence of a model, where it can be known: from its card, its GGUF file, its package or its licence file."""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import IO, Any

from attar.errors import BadInput
from pipelines import recipe_yaml

CARD = "README.md"
SLUG = re.compile(r"[a-z0-9][a-z0-9.+-]{0,95}")  # of a licence on the hub
FRONT = re.compile(r"\s*---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|$)", re.DOTALL)
FILE = re.compile(r"(?i)(licen[cs]e|copying|notice|use_policy)([._-][\w.-]*)?", re.ASCII)
LARGEST = 1_000_000  # bytes of a text
# By what stands near their beginning, where a text is all there is.
TEXTS = (
    ("apache-2.0", r"apache license\s+version 2\.0"),
    ("mit", r"permission is hereby granted, free of charge, to any person obtaining a copy"),
    ("agpl-3.0", r"gnu affero general public license\s+version 3"),
    ("lgpl-3.0", r"gnu lesser general public license\s+version 3"),
    ("gpl-3.0", r"gnu general public license\s+version 3"),
    ("mpl-2.0", r"mozilla public license,? version 2\.0"),
)
# What packages say in words of their own.
WORDS = {
    "apache": "apache-2.0",
    "apache-2": "apache-2.0",
    "mit-license": "mit",
    "apache-software-license": "apache-2.0",
}
CLASSIFIERS = {"Apache Software License": "apache-2.0", "MIT License": "mit", "ISC License (ISCL)": "isc"}
_STRING, _ARRAY = 8, 9  # types of a GGUF value
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}


@dataclass(frozen=True)
class Licence:
    """What may be said of a licence, and who says it."""

    name: str | None  # as the hub writes it: apache-2.0; None: not known
    told: str  # a clause: where it was read, or why it is not known
    files: tuple[Path, ...] = ()  # texts that go with the model
    more: tuple[tuple[str, str], ...] = ()  # of the licence "other": its name and link


def find(spec: str, folder: Path) -> Licence:
    """The licence of a model that a recipe names ``spec`` and that opens from ``folder``."""
    if spec.startswith("random:"):
        return Licence(None, "the origin is a random model, which nobody has licensed")
    if spec.startswith("package:"):
        return _of_package(spec.removeprefix("package:"))
    file = Path(spec).expanduser() if spec.endswith(".gguf") else None
    if file is None:
        return _of_folder(folder)
    texts = _texts(file.parent)
    if (named := _slug(_general(file).get("license"))) is not None:
        return Licence(named, f"its file {file.name} says so", texts)
    beside = _of_folder(file.parent)
    return beside if beside.name else Licence(None, f"its file {file.name} names none", texts)


def _of_folder(folder: Path) -> Licence:
    if not folder.is_dir():
        return Licence(None, f"its folder {folder.name} is not there any more")
    texts = _texts(folder)
    said = _front(folder / CARD)
    named = said.get("license")
    name = _slug(named[0] if isinstance(named, list) and named else named)
    if name is not None:
        more = tuple(
            (key, str(said[key])) for key in ("license_name", "license_link") if isinstance(said.get(key), str)
        )
        return Licence(name, "its model card says so", texts, more if name == "other" else ())
    for text in texts:
        if (name := _by_text(text)) is not None:
            return Licence(name, f"its file {text.name} is this licence's text", texts)
    if texts:
        more = (("license_name", "of-the-origin"), ("license_link", texts[0].name))
        return Licence("other", f"its text is the file {texts[0].name}", texts, more)
    return Licence(None, "it has no model card that names one and no licence file")


def _of_package(name: str) -> Licence:
    try:
        found = distribution(name)
    except (PackageNotFoundError, ValueError):
        return Licence(None, f"the package {name} is not installed any more, so nobody can be asked")
    listed = [Path(str(found.locate_file(path))) for path in found.files or []]
    texts = tuple(
        path for path in listed if FILE.fullmatch(path.name) and ".dist-info" in str(path) and _readable(path)
    )
    for file in (path for path in listed if path.suffix == ".gguf"):
        if (slug := _slug(_general(file).get("license"))) is not None:
            return Licence(slug, f"the file {file.name} of the package {name} {found.version} says so", texts)
    said = found.metadata
    fields = (entry for key in ("License-Expression", "License") for entry in said.get_all(key) or [])
    named = next(filter(None, map(_slug, fields)), None)
    classifiers = [entry.rpartition(" :: ")[2] for entry in said.get_all("Classifier") or []]
    named = named or next((CLASSIFIERS[entry] for entry in classifiers if entry in CLASSIFIERS), None)
    if named is None:
        return Licence(None, f"the package {name} {found.version} names none that is known", texts)
    return Licence(named, f"the package {name} {found.version} says so of itself", texts)


def _slug(value: Any) -> str | None:
    """A licence's name as the hub writes it; None of what is no plain name."""
    text = re.sub(r"\s+", "-", value.strip().lower()) if isinstance(value, str) else ""
    text = WORDS.get(text, text)
    return text if SLUG.fullmatch(text) and text != "unknown" else None


def _texts(folder: Path) -> tuple[Path, ...]:
    """Licence files of a folder."""
    try:
        return tuple(path for path in sorted(folder.iterdir()) if FILE.fullmatch(path.name) and _readable(path))
    except OSError:
        return ()


def _readable(path: Path) -> bool:
    try:
        return path.is_file() and path.stat().st_size <= LARGEST
    except OSError:
        return False


def _by_text(path: Path) -> str | None:
    try:
        start = " ".join(path.read_text(encoding="utf-8", errors="replace").split()).lower()[:2000]
    except OSError:
        return None
    return next((name for name, pattern in TEXTS if re.search(pattern, start)), None)


def _front(card: Path) -> dict[str, Any]:
    """The front matter of a model card; nothing where there is none that can be read."""
    try:
        text = card.read_text(encoding="utf-8-sig") if _readable(card) else ""
        matter = FRONT.match(text)
        return recipe_yaml.parse(matter[1], f"the front matter of {card}") if matter else {}
    except (OSError, ValueError, BadInput):
        return {}


def _general(file: Path) -> dict[str, str]:
    """The texts that a GGUF file says of itself at its beginning: name, organization, license."""
    try:
        with open(file, "rb") as opened:
            return dict(_told(opened))
    except (OSError, ValueError, struct.error):
        return {}


def _told(opened: IO[bytes]) -> Iterator[tuple[str, str]]:
    magic, _, _, count = struct.unpack("<4sIQQ", opened.read(24))
    for _ in range(min(count, 1000) if magic == b"GGUF" else 0):
        key = _string(opened)
        (kind,) = struct.unpack("<I", opened.read(4))
        if kind == _STRING:
            value = _string(opened)
            if key.startswith("general."):
                yield key.removeprefix("general."), value
        elif kind in _SIZES:
            opened.seek(_SIZES[kind], 1)
        elif key.startswith("general."):
            _skip_array(opened)
        else:  # the vocabulary; what a file says of itself stands before it
            return


def _string(opened: IO[bytes]) -> str:
    (length,) = struct.unpack("<Q", opened.read(8))
    text = opened.read(min(length, LARGEST))
    if len(text) != length:
        raise ValueError("no text, or one that is cut off")
    return text.decode("utf-8", errors="replace")


def _skip_array(opened: IO[bytes]) -> None:
    kind, count = struct.unpack("<IQ", opened.read(12))
    if count > LARGEST or (kind not in _SIZES and kind != _STRING):
        raise ValueError("no plain array")
    for _ in range(count):
        if kind == _STRING:
            _string(opened)
        else:
            opened.seek(_SIZES[kind], 1)
