"""Hands a model of the store out: a folder of its own with model, tokenizer, licence and card, checked and opened.

It is a copy, byte by byte against the manifest's hashes: through a link, whoever changes the folder would change the
store. It gets its name when it is complete and has been opened by a process of its own, and not before.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryFile, mkdtemp
from typing import Any

from attar import fresh, machine
from attar.errors import BadInput, StageFailed, first_line
from attar.store import COLLECTING, Artifact
from pipelines import card, lineage
from pipelines.child import QUIET
from pipelines.home import Home
from pipelines.licence import CARD, Licence
from pipelines.lineage import Lineage

CHUNK = 1 << 22
SPARE = 1 << 24  # bytes that stay free beside a copy


@dataclass(frozen=True)
class Export:
    """What was handed out, and what its opening showed."""

    folder: str
    fingerprint: str
    run: str | None
    step: int | None
    bytes: int
    files: tuple[str, ...]
    licence: str | None
    proof: dict[str, Any]  # see attar.same_function
    gated: str = ""  # whether it kept the gates of its run, in a sentence

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def told(self) -> str:
        """In a sentence."""
        what = f"step {self.step} of run {self.run}" if self.run else self.fingerprint
        proof = self.proof
        return (
            f"{what} is now {self.folder} ({self.bytes / 1e6:,.1f} MB in {len(self.files)} files); a fresh process "
            f"opened it beside the store's: {proof['greedy']} of {proof['tokens']} greedy tokens are the same, logits "
            f"are {proof['difference']:.2g} apart{f'. {self.gated}' if self.gated else ''}"
        )


def export(home: Home, name: str, to: Path, step: int | None = None) -> Export:
    """Copy the model that a run's id or a fingerprint names into the new folder ``to``.

    Raises:
        BadInput: there is no such model, ``to`` is not a free name, or the disk is too full.
        StageFailed: the store's bytes are not what was stored, or the copy does not open as the store's model does.
    """
    target = _free(to, home)
    if not home.root.is_dir():
        raise BadInput(f"there is no home {home.root}; name one with --home")
    with _kept(home):
        made = lineage.find(home, name, step)
        licence = card.licence_of(made)
        _require_disk(target.parent, made.artifact, licence)
        with _draft(target) as draft:
            _copy(made.artifact, draft)
            for text in licence.files:
                _copy_text(text, draft)
            (draft / CARD).write_text(card.render(made, licence), encoding="utf-8")
            proof = _prove(made, draft)
            files = tuple(sorted(str(path.relative_to(draft)) for path in draft.rglob("*") if path.is_file()))
            size = sum((draft / file).stat().st_size for file in files)
            _name(draft, target)
    step = made.rows[-1].step if made.rows else None
    return Export(str(target), made.artifact.fingerprint, made.run, step, size, files, licence.name, proof, made.gated)


def _free(to: Path, home: Home) -> Path:
    """Where the folder will lie, if nothing of anybody's is there."""
    try:
        target = Path(os.path.abspath(to.expanduser()))
        if target.is_symlink() or (target.exists() and not target.is_dir()):
            raise BadInput(f"{target} exists and is no folder; name a new one")
        if target.is_dir() and any(target.iterdir()):
            raise BadInput(f"{target} exists and is not empty; name a new folder, nothing is ever written over")
        real = target.resolve()
    except (OSError, RuntimeError, ValueError) as error:  # no permission, a name too long, an unknown ~user
        raise BadInput(f"{to} cannot be written ({first_line(error)}); name another folder") from None
    if real.is_relative_to(home.store.root.resolve()) or real.is_relative_to(home.runs.resolve()):
        raise BadInput(f"{target} lies inside the home's own folders, which only Attar writes; name another folder")
    return target


@contextmanager
def _kept(home: Home) -> Iterator[None]:
    """For as long as this goes on nothing is collected in the home."""
    home.store.require_writable()
    with home.store.lock(COLLECTING, shared=True):
        yield


def _require_disk(parent: Path, artifact: Artifact, licence: Licence) -> None:
    needed = sum(int(entry["bytes"]) for entry in artifact.manifest["files"].values())
    needed += sum(text.stat().st_size for text in licence.files) + SPARE
    free = machine.free_disk(parent)
    if needed > free:
        raise BadInput(f"the copy takes {needed / 1e9:,.2f} GB and {parent} has {free / 1e9:,.2f} GB free; make room")


@contextmanager
def _draft(target: Path) -> Iterator[Path]:
    """A new folder beside the target, gone at the end unless it has got the target's name."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)  # not before it is known that something will lie there
        draft = Path(mkdtemp(prefix=f".{target.name[:40]}.", dir=target.parent))
        draft.chmod(0o755)
    except OSError as error:
        raise BadInput(f"{target.parent} cannot be written ({error.strerror}); name another folder") from None
    try:
        yield draft
    except OSError as error:
        raise StageFailed(f"{target} could not be written ({first_line(error)}); nothing of it is left") from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)  # renamed away when all went well


def _copy(artifact: Artifact, draft: Path) -> None:
    """Every file of the manifest, its hash taken of the bytes that are written."""
    for name, entry in artifact.manifest["files"].items():
        path = draft / name
        if not path.resolve().is_relative_to(draft.resolve()):
            raise StageFailed(f"the manifest of {artifact.folder} names the file {name!r}, which lies outside of it")
        path.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        with open(artifact.folder / name, "rb") as source, open(path, "xb") as copy:
            while chunk := source.read(CHUNK):
                digest.update(chunk)
                copy.write(chunk)
            copy.flush()
            os.fsync(copy.fileno())
        if digest.hexdigest() != entry["sha256"]:
            raise StageFailed(
                f"{artifact.folder / name} is not what was stored (altered); delete {artifact.folder} and run the "
                "recipe again"
            )


def _copy_text(text: Path, draft: Path) -> None:
    path = draft / text.name
    if not path.exists():
        shutil.copyfile(text, path)
        path.chmod(0o644)


def _prove(made: Lineage, draft: Path) -> dict[str, Any]:
    """Open the store's folder and the copy in a process of its own; what they compute must be the same."""
    out = draft.with_name(f"{draft.name}.json")
    environment = {**os.environ, **QUIET, "HF_HUB_OFFLINE": "1"}
    try:
        with TemporaryFile() as said:
            folders = [str(made.artifact.folder), str(draft), str(out)]
            process = fresh.start("attar.same_function", folders, environment, said)
            if process.wait() != 0:
                said.seek(0)
                lines = said.read().decode(errors="replace").strip().splitlines()
                reason = lines[-1] if lines else f"exit code {process.returncode}"
                raise StageFailed(f"the copy of {made.label} does not open in a fresh process: {reason[:300]}")
        found: dict[str, Any] = json.loads(out.read_text())
    finally:
        out.unlink(missing_ok=True)
        out.with_suffix(".safetensors").unlink(missing_ok=True)
    if not found["same"]:
        what = f"logits {found['difference']:.2g} apart" if found["tokenizer"] else "its tokenizer cuts text otherwise"
        raise StageFailed(f"the copy of {made.label} opens as another model than the store's: {what}")
    return found


def _name(draft: Path, target: Path) -> None:
    try:
        os.rename(draft, target)  # an empty folder gives way
    except OSError as error:
        raise BadInput(f"{target} was taken meanwhile ({error.strerror}); name another folder") from None
