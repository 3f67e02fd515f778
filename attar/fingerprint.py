"""Fingerprints: one hash that is folder name, cache key, tag and resume rule at once."""

import hashlib
import json
import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

LENGTH = 20  # hex digits: 80 bits, short enough to read, far too long to collide


def hash_json(value: Any) -> str:
    """Hash of a JSON-able value, independent of the order of keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:LENGTH]


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, as 64 hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class FileHashes:
    """SHA-256 of files, remembered by (path, size, modification time) so that big checkpoints are read once."""

    def __init__(self, memory: Path) -> None:
        self.memory = memory
        try:
            known = json.loads(memory.read_text())
        except (OSError, ValueError):
            known = {}
        self.known: dict[str, str] = known if isinstance(known, dict) else {}

    def __call__(self, path: Path) -> str:
        real = path.resolve()
        stat = real.stat()
        key = f"{real}|{stat.st_size}|{stat.st_mtime_ns}|{stat.st_ino}"
        if key not in self.known:
            self.known[key] = sha256_file(real)
            self.memory.parent.mkdir(parents=True, exist_ok=True)
            draft = self.memory.with_name(f"{self.memory.name}.{os.getpid()}")
            draft.write_text(json.dumps(self.known, indent=0))
            draft.replace(self.memory)
        return self.known[key]


def environment_versions() -> dict[str, str]:
    """major.minor of the libraries whose numerics go into every artifact."""
    versions = {}
    for name in ("torch", "transformers", "peft"):
        try:
            versions[name] = ".".join(version(name).split(".")[:2])
        except PackageNotFoundError:
            versions[name] = "absent"
    return versions
