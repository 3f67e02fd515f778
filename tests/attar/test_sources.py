"""Where models come from: identity by content, and a sentence for what is not there."""

from pathlib import Path

import pytest

from attar.checkpoint import WEIGHTS
from attar.errors import BadInput
from attar.events import Events
from attar.importing import import_source
from attar.sources import resolve
from attar.store import Store
from attar.tiny import tiny_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_a_folder_is_its_content(tmp_path: Path) -> None:
    first, second = tiny_model(tmp_path / "a"), tiny_model(tmp_path / "b")
    home = tmp_path / "home"
    assert resolve(str(first), home).fingerprint == resolve(str(second), home).fingerprint
    data = bytearray((second / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (second / WEIGHTS).write_bytes(bytes(data))
    assert resolve(str(first), home).fingerprint != resolve(str(second), home).fingerprint


def test_the_random_model_is_imported_once(tmp_path: Path) -> None:
    source = resolve("random:llama", tmp_path)
    assert source.import_needed
    import_source(source, Store(tmp_path / "store"), Events(None))
    again = resolve("random:llama", tmp_path)
    assert not again.import_needed and again.fingerprint == source.fingerprint
    assert again.facts().parameters > 0


def test_a_hub_id_opens_from_the_hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache laid out as the hub client lays it out; the branch becomes the commit it stands for."""
    import huggingface_hub.constants as hub

    repository = tmp_path / "models--org--tiny"
    tiny_model(repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    by_branch, by_commit = resolve("org/tiny", tmp_path / "home"), resolve(f"org/tiny@{COMMIT}", tmp_path / "home")
    assert by_branch.repo == ("org/tiny", COMMIT) and not by_branch.import_needed
    assert by_branch.fingerprint == by_commit.fingerprint
    assert by_branch.facts().layers == 4
    (by_branch.folder / WEIGHTS).unlink()
    assert resolve("org/tiny", tmp_path / "home").import_needed
    with pytest.raises(BadInput, match="cannot be reached"):
        resolve("org/other", tmp_path / "home")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("no/such/folder", "does not exist"),
        ("./nowhere", "does not exist"),
        ("../../etc/nowhere.gguf", "does not exist"),
        ("package:no-such-package", "not installed"),
        ("package:pytest", "0 GGUF files"),
        ("random:gpt5", "random:llama"),
    ],
)
def test_what_is_not_there_is_a_sentence(tmp_path: Path, spec: str, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        resolve(spec, tmp_path)


def test_a_file_that_is_no_gguf_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_text("something else")
    with pytest.raises(BadInput, match="does not begin as a GGUF file"):
        resolve(str(tmp_path / "model.gguf"), tmp_path)
