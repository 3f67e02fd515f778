"""Documents from a dataset of the Hugging Face hub, through ``datasets``; no code of the dataset is ever run."""

import re
from pathlib import Path
from typing import Any, NamedTuple

from attar.data.cache import kept
from attar.data.documents import Document
from attar.data.files import row, without
from attar.errors import BadInput, first_line
from attar.fingerprint import hash_json
from attar.waiting import ANYBODY, Waiter

VERSION = 1  # bump when other documents come out of the same rows
PREFIX = "hub:"
_WORD = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_PATTERN = re.compile(rf"hub:({_WORD}(?:/{_WORD})?)(?::([A-Za-z0-9][\w.+-]*))?(?:@([A-Za-z0-9][\w./-]*))?")


class HubName(NamedTuple):
    """What a ``hub:`` source asks for."""

    name: str
    config: str | None
    revision: str | None


def parse(source: str) -> HubName:
    """Take ``hub:NAME[:CONFIG][@REVISION]`` apart, or :class:`BadInput`."""
    match = _PATTERN.fullmatch(source)
    if match is None or ".." in source:
        raise BadInput(
            f"data source {source!r} is not a hub id; write hub:NAME, hub:OWNER/NAME or hub:OWNER/NAME:CONFIG@REVISION"
        )
    return HubName(*match.groups())


def read(source: str, column: str, cache: Path, waiter: Waiter = ANYBODY) -> list[Document]:
    """The rows of the ``train`` split (of the first one when there is none), each a document.

    They are kept in ``cache``: a source is fetched once, so that a plan, its stages and the next run see the same
    rows; a revision in the source pins them for ever. Raises :class:`BadInput` when the dataset cannot be had or has
    no such column.
    """
    wanted = parse(source)
    key = hash_json({"version": VERSION, "source": wanted, "column": column})
    return kept(cache / f"hub-{key}.json", f"the text {source}", lambda: _rows(source, wanted, column), waiter)


def _rows(source: str, wanted: HubName, column: str) -> list[Document]:
    if Path(wanted.name).exists():
        raise BadInput(
            f"the dataset {source} cannot be told apart from ./{wanted.name}, which `datasets` would open instead; "
            f"start from another folder, or name that one without {PREFIX!r}"
        )
    import datasets

    commit = _commit(source, wanted)
    bars, verbosity = datasets.is_progress_bar_enabled(), datasets.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()
    try:
        splits: Any = datasets.load_dataset(wanted.name, wanted.config, revision=commit)
    except Exception as error:  # the hub's clients share no base class for what can go wrong
        raise BadInput(f"the dataset {source} cannot be loaded ({first_line(error)})") from None
    finally:
        datasets.logging.set_verbosity(verbosity)
        if bars:
            datasets.enable_progress_bars()
    chosen = "train" if "train" in splits else next(iter(splits))
    rows = splits[chosen]
    if column not in rows.column_names:
        raise BadInput(f"the dataset {source} {without(column, rows.column_names)}")
    documents = []
    for number, value in enumerate(rows[column], start=1):
        if value is not None and not isinstance(value, str):
            raise BadInput(f"the dataset {source} holds {type(value).__name__}, not text, in column {column!r}")
        if value and value.strip():
            documents.append(row(f"{chosen}:{number}", value))
    return documents


def _commit(source: str, wanted: HubName) -> str | None:
    """The commit that the revision means now; None when the hub cannot be asked and any cached version will do."""
    import huggingface_hub
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        return huggingface_hub.HfApi().dataset_info(wanted.name, revision=wanted.revision).sha
    except RevisionNotFoundError:
        raise BadInput(f"the dataset {source} has no revision {wanted.revision!r}") from None
    except RepositoryNotFoundError:
        raise BadInput(f"the dataset {source} is not on the hub, or it is private and HF_TOKEN is not set") from None
    except Exception as error:  # offline, or the hub does not answer
        if wanted.revision is None:
            return None
        # Offline, `datasets` would take whatever version it has and not say so.
        raise BadInput(
            f"the revision of the dataset {source} cannot be looked up, and it was not fetched before "
            f"({first_line(error)})"
        ) from None
