"""Opens a job's models and datasets and proves that they are those that were planned with."""

from pathlib import Path
from typing import Protocol

from attar.errors import BadInput
from attar.model import Model
from attar.sources import folder_fingerprint
from attar.store import Store


class Reference(Protocol):
    """A folder and the fingerprint it went by when the run was planned."""

    @property
    def folder(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...


def open_model(reference: Reference, store: Store) -> Model:
    """A model as input, its bytes verified.

    Raises:
        StageFailed: an artifact of the store is missing or damaged.
        BadInput: a folder of the user's has changed since the plan, so the result would go by a wrong name.
    """
    folder = Path(reference.folder)
    if folder == store.folder("model", reference.fingerprint):
        store.open("model", reference.fingerprint)
        return Model(folder, reference.fingerprint)
    fetched = folder.parent.name == "snapshots"  # the hub's cache is named by commit and not written again
    if not fetched and folder_fingerprint(folder, store.root.parent) != reference.fingerprint:
        raise BadInput(f"the model {folder} has changed since this run was planned; run it again to plan anew")
    return Model(folder, reference.fingerprint)


def open_dataset(reference: Reference, store: Store) -> Path:
    """The folder of a dataset, every byte verified. Raises :class:`StageFailed` if it is missing or damaged."""
    return store.open("dataset", reference.fingerprint).folder
