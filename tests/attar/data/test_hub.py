"""Datasets of the hub: the real clients against a hub on loopback, then against no hub at all."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from attar.data import DataSettings, open_corpus
from attar.data.hub import HubName, parse
from attar.errors import BadInput

# The clients read their settings when they are imported: a fresh process for each hub.
READ = """
import json, sys
from pathlib import Path
from attar.data import DataSettings, open_corpus
from attar.errors import BadInput
try:
    corpus = open_corpus(DataSettings(source=sys.argv[1], column=sys.argv[2]), Path(sys.argv[3]))
    print(json.dumps(sorted(d.text[:24] for s in ("train", "calibration", "held-out") for d in corpus.documents(s))))
except BadInput as error:
    print(json.dumps(str(error)))
"""


def read(source: str, folder: Path, endpoint: str, column: str = "text", cache: str = "cache") -> object:
    environment = {**os.environ, "HF_HOME": str(folder / "hf")}
    environment |= {"HF_ENDPOINT": endpoint} if endpoint else {"HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", READ, source, column, str(folder / cache)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=300)
    assert done.stderr == ""
    return json.loads(done.stdout)


def test_a_dataset_is_fetched_once_at_the_commit_its_revision_means(hub: str, tmp_path: Path) -> None:
    main = read("hub:acme/notes", tmp_path, hub)
    tagged = read("hub:acme/notes@v1", tmp_path, hub)
    assert isinstance(main, list)
    assert isinstance(tagged, list)
    assert all(" of main" in text for text in main)
    assert all(" of v1" in text for text in tagged)
    assert read("hub:acme/notes@v1", tmp_path, endpoint="") == tagged  # from our cache
    sentence = (
        "the revision of the dataset hub:acme/notes@v3 cannot be looked up, and it was not fetched before (Cannot"
    )
    assert str(read("hub:acme/notes@v3", tmp_path, endpoint="")).startswith(sentence)


def test_without_a_revision_what_the_client_has_will_do_offline(hub: str, tmp_path: Path) -> None:
    main = read("hub:acme/notes", tmp_path, hub)
    assert read("hub:acme/notes", tmp_path, endpoint="", cache="another") == main


def test_what_the_hub_does_not_have_is_a_sentence(hub: str, tmp_path: Path) -> None:
    assert read("hub:acme/notes@v2", tmp_path, hub) == "the dataset hub:acme/notes@v2 has no revision 'v2'"
    assert "is not on the hub, or it is private" in str(read("hub:acme/none", tmp_path, hub))
    assert "has no column 'body'; it has text;" in str(read("hub:acme/notes", tmp_path, hub, column="body"))
    assert "cannot be loaded" in str(read("hub:acme/notes", tmp_path / "new", endpoint=""))


def test_hub_ids_are_taken_apart() -> None:
    assert parse("hub:imdb") == HubName("imdb", None, None)
    assert parse("hub:a-b/c_d.e:wiki-2-raw-v1@refs/pr/1") == HubName("a-b/c_d.e", "wiki-2-raw-v1", "refs/pr/1")


@pytest.mark.parametrize(
    "source",
    ["hub:", "hub:a/b/c", "hub:../a", "hub:a/..", "hub:/a", "hub:a b", "hub:a@", "hub:a@../b", "hub:a:", "hub:-a"],
)
def test_malformed_hub_ids_are_a_sentence(source: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is not a hub id; write hub:NAME"):
        open_corpus(DataSettings(source=source), tmp_path)


def test_a_local_folder_of_that_name_is_not_taken_for_the_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "notes").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match=r"cannot be told apart from \./notes"):
        open_corpus(DataSettings(source="hub:notes"), tmp_path)
