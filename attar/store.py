"""The store: ``<root>/<kind>/<fingerprint>/``, written once, verified on opening, never changed."""

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil

from attar import machine
from attar.errors import BadInput, StageFailed
from attar.fingerprint import sha256_file
from attar.waiting import ANYBODY, Waiter, hold

Kind = Literal["model", "dataset", "teacher-cache", "evaluation"]
MANIFEST = "manifest.json"
LEFT_OVER_SECONDS = 60  # no small file takes longer to write
COLLECTING = "collecting"  # the lock that is shared while a run plans and writes down what it needs


@dataclass(frozen=True)
class Artifact:
    """A finished folder of the store: its manifest lists every file with size and SHA-256."""

    kind: Kind
    fingerprint: str
    folder: Path
    manifest: dict[str, Any]
    new: bool = False  # made by this very process, not found

    @property
    def inputs(self) -> dict[str, str]:
        """Fingerprints of everything this was made from, by role."""
        return dict(self.manifest["inputs"])

    def verify(self) -> None:
        """Raise :class:`StageFailed` if a file is missing or differs from the manifest."""
        for name, entry in self.manifest["files"].items():
            path = self.folder / name
            if not path.is_file() or path.stat().st_size != entry["bytes"] or sha256_file(path) != entry["sha256"]:
                raise StageFailed(
                    f"{path} is not what was stored (missing or altered); delete {self.folder} to compute it again"
                )


class Store:
    """Artifacts on disk. Safe against crashes: a folder appears under its name only when it is complete."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, kind: Kind, fingerprint: str) -> Path:
        return self.root / kind / fingerprint

    def find(self, kind: Kind, fingerprint: str) -> Artifact | None:
        """The artifact if it is complete (sizes checked; :meth:`Artifact.verify` checks the bytes)."""
        folder = self.folder(kind, fingerprint)
        try:
            manifest = json.loads((folder / MANIFEST).read_text())
            manifest["files"].items()
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        sizes_hold = all(
            (folder / name).is_file() and (folder / name).stat().st_size == entry["bytes"]
            for name, entry in manifest["files"].items()
        )
        return Artifact(kind, fingerprint, folder, manifest) if sizes_hold else None

    def open(self, kind: Kind, fingerprint: str) -> Artifact:
        """The artifact, every byte verified, or a sentence."""
        artifact = self.find(kind, fingerprint)
        if artifact is None:
            raise StageFailed(f"{kind} {fingerprint} is not in the store {self.root}")
        artifact.verify()
        return artifact

    def draft(self, kind: Kind, fingerprint: str) -> Path:
        """An empty temporary folder on the store's file system; :meth:`commit` gives it its name."""
        folder = self.root / "tmp" / f"{kind}-{fingerprint}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def sweep(self) -> None:
        """Remove the drafts of processes that were killed: those whose fingerprint nobody holds the lock of.

        Small files that are written under the name of a process go by that process.
        """
        for draft in self.root.glob("tmp/*"):
            fingerprint = draft.name.rpartition("-")[2].partition(".")[0]
            with self.lock(fingerprint, wait=False) as held:
                if held and draft.is_dir():
                    shutil.rmtree(draft, ignore_errors=True)
                elif held:
                    draft.unlink(missing_ok=True)
        for draft in (*self.root.glob("dataset/*.json.*"), *self.root.parent.glob("hashes.json.*")):
            if _left_over(draft):
                draft.unlink(missing_ok=True)

    def commit(self, kind: Kind, fingerprint: str, draft: Path, manifest: dict[str, Any]) -> Artifact:
        """Hash every file, write the manifest and rename the draft into place, atomically."""
        files = {
            str(path.relative_to(draft)): {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
            for path in sorted(draft.rglob("*"))
            if path.is_file()
        }
        manifest = {"kind": kind, "fingerprint": fingerprint, **manifest, "files": files}
        for name in files:
            _sync(draft / name)
        (draft / MANIFEST).write_text(json.dumps(manifest, indent=1))
        _sync(draft / MANIFEST)
        folder = self.folder(kind, fingerprint)
        folder.parent.mkdir(parents=True, exist_ok=True)
        if folder.exists():  # an incomplete or damaged one: a complete one is never computed again
            shutil.rmtree(folder)
        os.rename(draft, folder)
        _sync(folder.parent)
        return Artifact(kind, fingerprint, folder, manifest, new=True)

    def state(self, fingerprint: str) -> Path:
        """Where a stage keeps what it needs to go on after a crash; removed when the stage is done."""
        return self.root / "state" / fingerprint

    @contextmanager
    def lock(
        self, fingerprint: str, wait: bool = True, shared: bool = False, waiter: Waiter = ANYBODY
    ) -> Iterator[bool]:
        """Hold the fingerprint's lock: two runs that need one artifact compute it once. Freed by the kernel.

        Yields whether it is held, which without ``wait`` it may not be. ``shared``: with others who share it.
        """
        path = self.root / "locks" / fingerprint
        path.parent.mkdir(parents=True, exist_ok=True)
        with hold(path, f"artifact {fingerprint}", waiter, wait, shared) as held:
            yield held

    def require_writable(self) -> None:
        """Raise :class:`BadInput` if nothing can be stored here."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            probe = self.root / f".writable.{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise BadInput(
                f"the store {self.root} cannot be written ({error.strerror}); choose another folder with --home"
            ) from None

    def require_room(self, needed: int) -> None:
        """Raise :class:`StageFailed` if so many bytes have no place here.

        The plan has looked at all steps together, but that was perhaps hours ago, and other runs write to the same
        disk: a job asks again when its turn has come.
        """
        free = machine.free_disk(self.root)
        if needed > free:
            raise StageFailed(
                f"up to {needed / 1e9:,.1f} GB are to be written, and {self.root} has {free / 1e9:,.1f} GB free; "
                "make room and run the same command again: what is finished is kept"
            )


def _left_over(draft: Path) -> bool:
    """Whether the process that a draft names is gone. Not to be told from one in another container at once."""
    try:
        pid, age = int(draft.suffix[1:]), time.time() - draft.stat().st_mtime
    except (ValueError, OSError):
        return False
    return age > LEFT_OVER_SECONDS and not psutil.pid_exists(pid)


def _sync(path: Path) -> None:
    """Flush a file or folder to disk, so that a name never points to bytes that a power cut took."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
