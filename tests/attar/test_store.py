"""The store: complete or absent, verified, never changed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from attar.errors import BadInput, StageFailed
from attar.fingerprint import FileHashes, hash_json, sha256_file
from attar.store import Store

MANIFEST = {"inputs": {"source": "abc"}, "stage": "test"}


def stored(store: Store) -> Path:
    draft = store.draft("model", "f00")
    (draft / "weights").write_bytes(b"12345")
    return store.commit("model", "f00", draft, MANIFEST).folder


def test_a_committed_artifact_is_found_with_its_manifest(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.find("model", "f00") is None
    folder = stored(store)
    artifact = store.open("model", "f00")
    assert artifact.inputs == {"source": "abc"}
    assert artifact.manifest["files"] == {"weights": {"bytes": 5, "sha256": sha256_file(folder / "weights")}}
    assert not list((tmp_path / "tmp").iterdir())


def test_a_cut_file_makes_the_artifact_absent(tmp_path: Path) -> None:
    store = Store(tmp_path)
    (stored(store) / "weights").write_bytes(b"123")
    assert store.find("model", "f00") is None


def test_an_altered_byte_is_found_on_opening(tmp_path: Path) -> None:
    store = Store(tmp_path)
    (stored(store) / "weights").write_bytes(b"12346")
    with pytest.raises(StageFailed, match="missing or altered"):
        store.open("model", "f00")


def test_a_draft_is_invisible_and_starts_empty(tmp_path: Path) -> None:
    store = Store(tmp_path)
    (store.draft("model", "f00") / "half").write_text("of a crashed run")
    assert store.find("model", "f00") is None
    assert not list(store.draft("model", "f00").iterdir())


def test_sweeping_takes_the_drafts_that_nobody_works_on(tmp_path: Path) -> None:
    store = Store(tmp_path)
    dead, alive = store.draft("evaluation", "dead"), store.draft("model", "alive")
    probe = tmp_path / "tmp" / "model-dead.probe.safetensors"
    probe.touch()
    with store.lock("alive"):
        store.sweep()
        assert alive.is_dir() and not dead.exists() and not probe.exists()
    store.sweep()
    assert not alive.exists()


def test_sweeping_takes_the_small_drafts_of_dead_processes(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    (store.root / "dataset").mkdir(parents=True)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    gone = [store.root / "dataset" / f"embedded-1.json.{dead.pid}", tmp_path / f"hashes.json.{dead.pid}"]
    kept = [tmp_path / "hashes.json", tmp_path / f"hashes.json.{os.getpid()}", store.root / "dataset" / "a.json"]
    for path in gone + kept:
        path.touch()
        os.utime(path, (0, 0))
    store.sweep()
    assert not any(path.exists() for path in gone) and all(path.exists() for path in kept)


def test_the_lock_is_free_again_when_its_holder_is_killed(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from attar.store import Store\n"
        f"with Store(Path({str(tmp_path)!r})).lock('f00'): os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    probe = (
        "from pathlib import Path; from attar.store import Store\n"
        f"with Store(Path({str(tmp_path)!r})).lock('f00'): pass"
    )
    assert subprocess.run([sys.executable, "-c", probe], timeout=120).returncode == 0


def test_a_store_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="cannot be written"):
        Store(tmp_path / "file").require_writable()


def test_hashes_follow_content_and_not_order(tmp_path: Path) -> None:
    assert hash_json({"a": 1, "b": [2]}) == hash_json({"b": [2], "a": 1}) != hash_json({"a": 1, "b": [3]})
    file = tmp_path / "file"
    file.write_text("one")
    hashes = FileHashes(tmp_path / "hashes.json")
    first = hashes(file)
    assert first == sha256_file(file) == FileHashes(tmp_path / "hashes.json")(file)
    file.write_text("other")
    assert hashes(file) == sha256_file(file) != first
