"""Where the tasks of an lm-eval folder lead: to files that are hashed, or out of it and to code, which is refused.

A task's YAML can name other YAML (``include``), data (``dataset_path``, ``data_files``) and functions. It is read here
as YAML's events, of which nothing is made, let alone called. Templates are Jinja, and no text says beforehand what one
reaches for: they are carried out in Jinja's sandbox (:mod:`attar.lm_eval_tasks`). A folder of tasks is still a matter
of trust.
"""

import glob
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import yaml

from attar.errors import BadInput

CORE = "tag:yaml.org,2002:"
PLAIN = frozenset({"!", *(CORE + name for name in ("str", "int", "float", "bool", "null", "seq", "map", "merge"))})
LOADERS = ("json", "csv", "text", "parquet", "arrow")  # of the library datasets: they read files and run nothing
HUB = re.compile(r"\w[\w.-]*/\w[\w.-]*")
COMMIT = re.compile(r"[0-9a-f]{40}")
# Of any other name lm-eval fetches a script from the hub, and runs it.
METRICS = (
    "acc", "acc_all", "acc_bytes", "acc_mutual_info", "acc_norm", "bits_per_byte", "bleu", "brier_score", "bypass",
    "byte_perplexity", "chrf", "exact_match", "f1", "likelihood", "mae", "mcc", "perplexity", "ter", "word_perplexity",
)  # fmt: skip
CODE = ("class", "custom_dataset", "hf_evaluate", "trust_remote_code", "unsafe_code", "use_prompt")
NAMING = ("include", "dataset_path", "data_files", "data_dir", "dataset_kwargs", "revision", "metric")
NO = ("false", "no", "null", "")


@dataclass(frozen=True)
class Said:
    """A value in a file, and the keys above it."""

    keys: tuple[str, ...]
    value: str | None  # None: an alias, which stands for what was said elsewhere
    line: int


def require_inside(described: Sequence[Path], files: Sequence[Path]) -> None:
    """Raise :class:`BadInput` if a task leads to anything but ``files``, whose content is hashed.

    Args:
        described: the YAML that lm-eval finds by itself.
    """
    hashed = {file.resolve() for file in files}
    waiting, seen = list(described), set[Path]()
    while waiting:
        file = waiting.pop().resolve()
        if file in seen:
            continue
        seen.add(file)
        said = list(_said(file))
        for one in said:
            waiting += _included(file, one, hashed)
            _require_no_code(file, one)
            _require_data(file, one, hashed)
        _require_pinned(file, said)


def _included(file: Path, one: Said, hashed: set[Path]) -> list[Path]:
    if one.keys[-1:] != ("include",) or one.value is None:
        return []
    target = (file.parent / one.value).resolve()
    if target not in hashed:
        _refuse(file, one, f"include: {one.value} leads to no file of the folder; put it there")
    return [target]


def _require_no_code(file: Path, one: Said) -> None:
    key = next((key for key in one.keys if key in NAMING), None)
    if one.value is None:
        if key is not None:
            _refuse(file, one, f"{key} holds an alias; write the value itself")
        return
    if (code := next((key for key in one.keys if key in CODE), None)) and one.value.lower() not in NO:
        _refuse(file, one, f"{code} reaches code or files that nobody hashed; say it in lm-eval's templates")
    if one.keys[-1:] == ("metric",) and one.value not in METRICS:
        _refuse(file, one, f"metric: {one.value} is none of lm-eval's own, which are {', '.join(METRICS)}")
    if "__" in one.value and ("{{" in one.value or "{%" in one.value):
        _refuse(file, one, "a template reaches for a name between double underscores; call it otherwise")


def _require_data(file: Path, one: Said, hashed: set[Path]) -> None:
    if one.value is None:
        return
    if one.keys[-1:] == ("dataset_path",) and one.value not in LOADERS and not HUB.fullmatch(one.value):
        _refuse(file, one, f"dataset_path: {one.value} is not possible; possible: {', '.join(LOADERS)}, or OWNER/NAME")
    if one.keys[-1:] == ("dataset_path",) and one.value not in LOADERS and Path(one.value).exists():
        _refuse(file, one, f"dataset_path: {one.value} is a folder here, and is read before the hub's; start elsewhere")
    if "data_dir" in one.keys:
        _refuse(file, one, "data_dir does not say which files are read; name them in data_files")
    if "data_files" in one.keys:
        found = [Path(name).resolve() for name in glob.glob(one.value, recursive=True)]
        if not found or any(name not in hashed for name in found):
            where = "leads to no file" if not found else "leads to files that are not in the folder"
            _refuse(file, one, f"data_files: {one.value} {where}; write the full path of files in the folder")


def _require_pinned(file: Path, said: Sequence[Said]) -> None:
    """Data of the hub may change from day to day, unless a commit of it is named."""
    kwargs = [one for one in said if "dataset_kwargs" in one.keys]
    hub = [one for one in said if one.keys[-1:] == ("dataset_path",) and one.value not in LOADERS]
    for one in kwargs:
        if one.keys[-1] == "revision" and not COMMIT.fullmatch(one.value or ""):
            _refuse(file, one, f"revision: {one.value} may change; name a commit, which is 40 hex digits")
    names = {key for one in kwargs for key in one.keys}
    if hub and "revision" not in names:
        text = f"dataset_path: {hub[0].value} may change; name its commit: dataset_kwargs: {{revision: …}}"
        _refuse(file, hub[0], text)
    if kwargs and not names & {"revision", "data_files"}:  # it takes the place of one in an included file
        _refuse(file, kwargs[0], "dataset_kwargs names neither data_files nor a revision, so its data may change")


def _said(file: Path) -> Iterator[Said]:
    """All values of a file, in order."""
    try:
        events = yaml.parse(file.read_bytes(), Loader=yaml.SafeLoader)
        for event in events:
            if not isinstance(event, yaml.StreamStartEvent | yaml.DocumentStartEvent | yaml.DocumentEndEvent):
                if isinstance(event, yaml.StreamEndEvent):
                    return
                yield from _node(file, event, events, ())
    except yaml.YAMLError as error:
        raise BadInput(f"measure.lm_eval_folder: {file} is not YAML: {str(error).splitlines()[0]}") from None
    except RecursionError:
        raise BadInput(f"measure.lm_eval_folder: {file} is nested too deeply") from None


def _node(file: Path, event: yaml.Event, events: Iterator[yaml.Event], keys: tuple[str, ...]) -> Iterator[Said]:
    line = _line(event)
    _require_plain(file, event, keys, line)
    if isinstance(event, yaml.AliasEvent):
        yield Said(keys, None, line)
    elif isinstance(event, yaml.ScalarEvent):
        yield Said(keys, event.value, line)
    elif isinstance(event, yaml.SequenceStartEvent):
        while not isinstance(inner := next(events), yaml.SequenceEndEvent):
            yield from _node(file, inner, events, keys)
    else:
        empty = True
        while not isinstance(key := next(events), yaml.MappingEndEvent):
            empty = False
            _require_plain(file, key, keys, _line(key))
            if not isinstance(key, yaml.ScalarEvent):
                _refuse(file, Said(keys, None, _line(key)), "a key is no plain text")
            yield from _node(file, next(events), events, (*keys, str(key.value)))
        if empty:
            yield Said(keys, "", line)


def _require_plain(file: Path, event: yaml.Event, keys: tuple[str, ...], line: int) -> None:
    """No ``!function``, which lm-eval imports and calls, nor any other tag that makes more than text of a value."""
    tag = getattr(event, "tag", None)
    if tag is not None and tag not in PLAIN:
        why = "calls Python code" if tag == "!function" or "python" in tag else "is a tag"
        told = f"{tag.removeprefix(CORE)} {why}"
        _refuse(file, Said(keys, None, line), f"{told}, which is not run from a folder of tasks; say it in templates")


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 0


def _refuse(file: Path, one: Said, text: str) -> NoReturn:
    raise BadInput(f"measure.lm_eval_folder: {file}, line {one.line}: {text}")
