"""Scores of items: every token belongs to one document, nothing is lost, and the disk gives back what it was given."""

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from attar import scores
from attar.data import DataSettings, open_corpus
from attar.data.windows import bytes_by_owner, pack, pack_owned, text_bytes
from attar.errors import StageFailed
from attar.scores import Scores, by_owner
from attar.tiny import tiny_model

TEXTS = [f"Text {i}: naïve “quotes”, 数 and 🙂 in {i * i} places." for i in range(60)]


@pytest.fixture(scope="module")
def tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model")) / "tokenizer.json"


def test_every_token_knows_its_text(tokenizer_file: Path) -> None:
    windows, owners = pack_owned(TEXTS, tokenizer_file, 1000, 16)
    assert np.array_equal(windows, pack(TEXTS, tokenizer_file, 1000, 16)) and owners.shape == windows.shape
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    flat, of = windows.ravel(), owners.ravel()
    for number in range(of.max()):  # the last text is cut off
        assert tokenizer.decode(flat[of == number].tolist()) == TEXTS[number]


def test_bytes_by_text_add_up(tokenizer_file: Path) -> None:
    windows, owners = pack_owned(TEXTS, tokenizer_file, 1000, 16)
    found = bytes_by_owner(tokenizer_file, windows, owners, len(TEXTS))
    assert found.sum() == text_bytes(tokenizer_file, windows) and (found > 0).sum() > 50


def test_the_sections_of_a_long_document_are_one_item(tmp_path: Path, tokenizer_file: Path) -> None:
    book = "\n\n".join(f"A paragraph of the book, number {i}, and no more." for i in range(1000))
    rows = [book, *(f"A note on matter {i}: nothing to add to what was said. " * 30 for i in range(20))]
    (tmp_path / "other.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in rows))
    (tmp_path / "source.jsonl").write_text(json.dumps({"text": "Something else altogether. " * 30}))
    settings = DataSettings(source=str(tmp_path / "source.jsonl"), other=str(tmp_path / "other.jsonl"))
    corpus = open_corpus(settings, tmp_path / "cache")
    measured = corpus.measured("other", tokenizer_file, 200, 64, seed=0)
    assert np.array_equal(measured.windows, corpus.windows("other", tokenizer_file, 200, 64, seed=0))
    sizes = np.bincount(measured.owners.ravel(), minlength=len(measured.names))
    assert 2 < len(measured.names) <= 21 and len(set(measured.names)) == len(measured.names)
    largest = measured.names[int(sizes.argmax())]
    assert largest == next(d.module for d in corpus.documents("other") if d.text.startswith("A paragraph"))
    pieces = np.flatnonzero(np.diff((measured.owners.ravel() == sizes.argmax()).astype(int)) == 1)
    assert len(pieces) > 1  # sections of it lie among those of others


def test_scores_by_owner_add_up_and_leave_out_what_was_not_scored() -> None:
    values, owners = np.array([1.0, 2.0, 4.0, 8.0]), np.array([2, 0, 2, 0])
    found = by_owner(["a", "b", "c"], owners, values)
    assert found == Scores(("a", "c"), (10.0, 5.0), (2, 2))
    assert found.mean == values.mean()


def test_the_disk_gives_back_the_same_scores(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    written = {
        "loss/other": by_owner(["a", "b"], np.array([0, 1, 1]), rng.normal(size=3)),
        "task": scores.of_answers(["q1", "q2"], [1, 0], [0.3, 0.99]),
    }
    scores.save(written, tmp_path)
    assert scores.load(tmp_path) == written
    assert scores.load(tmp_path / "older") == {}
    (tmp_path / scores.FILE).write_text('{"loss/other": {"ids": ["a"]}}')
    with pytest.raises(StageFailed, match="does not hold scores; delete"):
        scores.load(tmp_path)


def test_scores_are_of_items_that_were_scored_once() -> None:
    for ids, sums, counts in ((("a", "a"), (1.0, 2.0), (1, 1)), (("a",), (1.0, 2.0), (1,)), (("a",), (1.0,), (0,))):
        with pytest.raises(ValueError, match="one id, sum and positive count"):
            Scores(ids, sums, counts)
