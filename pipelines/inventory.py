"""Reads what lies in a home: its runs, and everything that could go. Follows no link out of it.

Only folders of our own making count, by the form of their names; whatever else lies there is nobody's business.
"""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote, urlsplit

from attar.errors import BadInput, first_line
from attar.fingerprint import LENGTH
from attar.store import MANIFEST
from pipelines import journal
from pipelines.home import RUN_ID, Home
from pipelines.process import alive
from pipelines.retention import Item, Run, Sort

FINGERPRINT = re.compile(rf"[0-9a-f]{{{LENGTH}}}")
DRAFT = re.compile(rf"[a-z.-]+-({FINGERPRINT.pattern})")
KINDS: tuple[Sort, ...] = ("model", "dataset", "teacher-cache", "evaluation")
TOLD = ("run", "step", "measured", "planned")  # the records that name fingerprints


def read_runs(home: Home) -> list[Run]:
    """Every run of the home.

    Raises:
        BadInput: a journal cannot be read, so that nobody knows what its run needs.
    """
    runs = []
    for folder in _folders(home.runs, RUN_ID):
        try:
            records = journal.read(folder)
            runs.append(_run(home, folder, records))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadInput(
                f"the journal of the run {folder.name} is damaged ({type(error).__name__}: {first_line(error)}), so "
                f"what it needs is not known and nothing is deleted; repair it, or remove {folder}"
            ) from None
    return runs


def read_items(home: Home) -> list[Item]:
    """Artifacts, training states, drafts and runs' folders."""
    store = home.store.root
    if store.is_symlink():
        raise BadInput(f"{store} is a link, and gc follows none; name the home that it points into with --home")
    found = [_artifact(home, sort, folder) for sort in KINDS for folder in _folders(store / sort, FINGERPRINT)]
    found += [_item("state", folder.name, folder) for folder in _folders(store / "state", FINGERPRINT)]
    for folder in _folders(store / "tmp", DRAFT):
        match = cast("re.Match[str]", DRAFT.fullmatch(folder.name))
        found.append(_item("draft", match[1], folder))
    found += [_item("run", folder.name, folder) for folder in _folders(home.runs, RUN_ID)]
    return found


def named(home: Home, value: Any) -> frozenset[str]:
    """Fingerprints that a value's texts name: as such, or as a path or file URI into the store."""
    return frozenset(found for text in _texts(value) if (found := _fingerprint(home, text)))


def _run(home: Home, folder: Path, records: list[journal.Record]) -> Run:
    begun = [index for index, record in enumerate(records) if record["kind"] == "run"]
    sent = journal.unsent(folder) == 0
    if not begun:  # planned and then gone; one that plans now holds the lock that gc takes
        return Run(folder.name, "", folder.stat().st_mtime, alive(folder), False, sent, frozenset())
    first = records[begun[-1]]  # the last: a run that was tried again writes on
    ends = [record["status"] for record in records[begun[-1] :] if record["kind"] == "end-run"]
    return Run(
        id=folder.name,
        name=str(first["name"]),
        begun=float(first["time"]),
        live=not ends and alive(folder),
        finished=bool(ends) and ends[-1] == "finished",
        sent=sent,
        needs=named(home, [record for record in records if record["kind"] in TOLD]),
    )


def _artifact(home: Home, sort: Sort, folder: Path) -> Item:
    try:
        path = folder / MANIFEST
        manifest = json.loads(path.read_text())
        inputs = manifest["inputs"]
        lineage = named(home, [inputs, manifest.get("source"), manifest.get("teacher")])
        return _item(sort, folder.name, folder, path, lineage - {folder.name}, str(inputs.get("model", "")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # nobody can open it; its age still counts
        return _item(sort, folder.name, folder)


def _item(
    sort: Sort,
    name: str,
    path: Path,
    dated: Path | None = None,
    inputs: frozenset[str] = frozenset(),
    measures: str = "",
) -> Item:
    size, newest = 0, 0.0
    for entry in _entries(path):
        try:
            stat = entry.stat(follow_symlinks=False)
        except OSError:  # gone meanwhile
            continue
        size += stat.st_size * entry.is_file(follow_symlinks=False)
        newest = max(newest, stat.st_mtime)
    try:
        changed = dated.stat().st_mtime if dated else max(newest, path.stat().st_mtime)
    except OSError:
        changed = float("inf")
    return Item(sort, name, path, changed, size, inputs, measures)


def _folders(parent: Path, form: re.Pattern[str]) -> Iterator[Path]:
    """Real folders with a name of this form; a parent that is a link leads elsewhere and is left alone."""
    if not parent.is_symlink() and parent.is_dir():
        for path in sorted(parent.iterdir()):
            if form.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
                yield path


def _entries(folder: Path) -> "Iterator[os.DirEntry[str]]":
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                yield entry
                if entry.is_dir(follow_symlinks=False):
                    yield from _entries(Path(entry.path))
    except OSError:  # gone meanwhile
        return


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for entry in value.values():
            yield from _texts(entry)
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _texts(entry)


def _fingerprint(home: Home, text: str) -> str | None:
    if FINGERPRINT.fullmatch(text):
        return text
    path = unquote(urlsplit(text).path) if text.startswith("file:") else text
    if not path.startswith(("/", "~")) or "\n" in path:
        return None
    try:
        inside = Path(path).expanduser().resolve().relative_to(home.store.root.resolve())
    except (OSError, RuntimeError, ValueError):  # no path of ours
        return None
    return next((part for part in inside.parts if FINGERPRINT.fullmatch(part)), None)
