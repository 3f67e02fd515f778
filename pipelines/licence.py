"""The licence of a model, where it can be known: from its card, its GGUF file, its package or its licence file."""

import hashlib
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
SHORT = 200  # characters of a field that names licences, and is not the text of one
NAMED = "of-the-origin"  # a licence that has no name on the hub
TEXT = re.compile(r"(?i)(licen[cs]e|copying)([._-][\w.-]*)?", re.ASCII)  # of those, what may be a licence's text
COPYRIGHT = re.compile(
    r"(?im)^[^\w\n]*(?:copyright\s*(?:\(c\)|©|[\[{]yyyy|\d{4})|\(c\)\s*\d{4}|all rights reserved)[^\n]{0,200}$"
)
TITLE = re.compile(r"(?:the )?mit license (?:mit )?")  # which some leave out
# SHA-256 of the words of a text, the lines about the copyright aside: one more word, and it is another licence.
TEXTS = {
    "e87dea5078ce2faaea46d3475af18d30a5c0ac0f09425b60b3e0c6569f72f8d2": "apache-2.0",
    "f45538b138cf9aea39fa205de037a0bede8305e68281650e7ab809a8b3ebb2f0": "apache-2.0",  # without its appendix
    "37599287c15c2f2ec060c3c3b55bdf69e3bc7a8aeeb9cd57e18800088789538a": "apache-2.0",  # without its last line, too
    "0cf21bdfd1964a97a8615e128534845826afbc887edc95aa5c925cbf64386b5c": "mit",
    "4852776855bb71387e360d4f37fd80ec81760e340bd51e973e21c218545fdbed": "agpl-3.0",
    "aae2b222477171fb64e298e7965e768a9a6f85320646b266c94399ac029d42be": "lgpl-3.0",
    "eaab5d82fdcca441d83a1913bbf07e4de3a739e190578c0bffde24f84e93bb2a": "gpl-3.0",
    "f82071285728ca3ec7685ee9bc4acdae0b8267142a4d20b8f1805eabedb4a98a": "mpl-2.0",
}
NONE = ("unknown", "none", "null", "no", "false", "na", "n-a", "tbd", "todo", "-")  # what says nothing
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
    said = _general(file).get("license")
    if several := _several(said):
        return _other(several, f"its file {file.name}", texts)
    if (named := _slug(said)) is not None:
        return Licence(named, f"its file {file.name} says so", texts)
    beside = _of_folder(file.parent)
    return beside if beside.name else Licence(None, f"its file {file.name} names none", texts)


def _of_folder(folder: Path) -> Licence:
    if not folder.is_dir():
        return Licence(None, f"its folder {folder.name} is not there any more")
    texts = _texts(folder)
    said = _front(folder / CARD)
    named = said.get("license")
    if several := _several(named):
        return _other(several, "its model card", texts)
    name = _slug(named[0] if isinstance(named, list) and named else named)
    if name is not None:
        more = tuple(
            (key, str(said[key])) for key in ("license_name", "license_link") if isinstance(said.get(key), str)
        )
        return Licence(name, "its model card says so", texts, more if name == "other" else ())
    own = [text for text in texts if TEXT.fullmatch(text.name)]
    found = [_by_text(text) for text in own]
    if found and found[0] is not None and len(set(found)) == 1:
        return Licence(found[0], f"its file {own[0].name} is this licence's text", texts)
    if own:
        more = (("license_name", NAMED), ("license_link", own[0].name))
        return Licence("other", f"its text is the file {' and '.join(text.name for text in own)}", texts, more)
    return Licence(None, "it has no model card that names one and no licence file", texts)


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
    fields = [entry for key in ("License-Expression", "License") for entry in said.get_all(key) or []]
    if several := next(filter(None, map(_several, (entry for entry in fields if len(entry) < SHORT))), None):
        return _other(several, f"the package {name} {found.version}", texts)
    named = next(filter(None, map(_slug, fields)), None)
    classifiers = [entry.rpartition(" :: ")[2] for entry in said.get_all("Classifier") or []]
    known = list(dict.fromkeys(CLASSIFIERS[entry] for entry in classifiers if entry in CLASSIFIERS))
    if named is None and len(known) > 1:
        return _other(known, f"the package {name} {found.version}", texts)
    named = named or next(iter(known), None)
    if named is None:
        return Licence(None, f"the package {name} {found.version} names none that is known", texts)
    return Licence(named, f"the package {name} {found.version} says so of itself", texts)


def _slug(value: Any) -> str | None:
    """A licence's name as the hub writes it; None of what is no plain name."""
    text = re.sub(r"\s+", "-", value.strip().lower()) if isinstance(value, str) else ""
    text = WORDS.get(text, text)
    return text if SLUG.fullmatch(text) and text not in NONE else None


def _several(said: Any) -> list[str]:
    """The names that are said, where more than one is: of a list, or of an expression such as ``MIT OR Apache-2.0``."""
    listed = said if isinstance(said, list) else re.split(r"(?i)\s+(?:and|or|with)\s+|[,;|&]", str(said or ""))
    names = list(dict.fromkeys(filter(None, (_slug(str(one).strip(" ()")) for one in listed))))
    return names if len(names) > 1 else []


def _other(names: list[str], who: str, texts: tuple[Path, ...]) -> Licence:
    """Of several licences none is left out: the hub's own word for that is ``other``."""
    link = (("license_link", texts[0].name),) if texts else ()
    return Licence("other", f"{who} names several: {', '.join(names)}", texts, (("license_name", NAMED), *link))


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
    """Which licence a file is the whole text of, and nothing else."""
    try:
        text = COPYRIGHT.sub(" ", path.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return None
    words = " ".join(re.findall(r"[a-z0-9]+", text.lower().replace("https", "http")))
    title = TITLE.match(words)
    return TEXTS.get(hashlib.sha256(words[title.end() if title else 0 :].encode()).hexdigest())


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
