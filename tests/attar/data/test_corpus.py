"""Laws of the corpus: what is learnt from, what is measured on, and that the two never meet."""

import json
import re
from itertools import combinations
from pathlib import Path
from pydoc_data.topics import topics

import pytest

from attar.data import SPLITS, Corpus, DataSettings, Document, open_corpus
from attar.errors import BadInput

LIBRARIES = {"numpy", "scipy", "pandas", "sklearn", "torch"}


def even(text: str) -> str:
    return " ".join(text.split())


def paragraphs(text: str) -> list[str]:
    return [even(part) for part in re.split(r"\n\s*\n", text) if len(part) >= 100]


def write_rows(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def prose(number: int, words: int = 60) -> str:
    return " ".join(f"word{(number * 7919 + i * i) % 9973}" for i in range(words))


def test_embedded_splits_share_no_module_and_no_text(embedded: Corpus) -> None:
    for one, two in combinations(SPLITS, 2):
        first, second = embedded.documents(one), embedded.documents(two)
        assert first and second
        assert not {d.module for d in first} & {d.module for d in second}
        assert not {even(d.text) for d in first} & {even(d.text) for d in second}


def test_each_text_stands_once(embedded: Corpus) -> None:
    texts = [even(d.text) for split in SPLITS for d in embedded.documents(split)]
    assert len(texts) == len(set(texts))


@pytest.mark.parametrize("split", ["train", "calibration"])
def test_nothing_learnt_from_is_a_near_copy_of_what_is_measured(embedded: Corpus, split: str) -> None:
    measured = {p for s in ("held-out", "other") for d in embedded.documents(s) for p in paragraphs(d.text)}
    for document in embedded.documents(split):  # type: ignore[arg-type]
        shared = sum(len(p) for p in paragraphs(document.text) if p in measured)
        assert 2 * shared <= len(document.text), document.name


def test_embedded_is_long_documentation_of_five_libraries_nine_tenths_of_it_to_train(embedded: Corpus) -> None:
    characters = {split: sum(len(d.text) for d in embedded.documents(split)) for split in SPLITS}
    source = characters["train"] + characters["calibration"] + characters["held-out"]
    assert source > 5_000_000
    assert 0.8 < characters["train"] / source < 0.97
    assert min(characters["calibration"], characters["held-out"]) > 0.01 * source
    for split in ("train", "calibration", "held-out"):
        documents = embedded.documents(split)
        assert {d.module.split(".")[0] for d in documents} == LIBRARIES
        assert all(len(d.text) > 200 for d in documents)
        assert not any("tests" in d.module.split(".") for d in documents)


def test_libraries_are_read_and_not_imported(extraction: tuple[Path, set[str]]) -> None:
    assert not extraction[1] & {*LIBRARIES, "transformers", "datasets", "pyarrow"}


def test_documentation_attached_by_a_call_is_found(embedded: Corpus) -> None:
    modules = {d.module for split in SPLITS for d in embedded.documents(split)}
    assert {"torch._torch_docs", "numpy._core._add_newdocs"} <= modules


def test_the_cache_gives_what_the_libraries_gave(extraction: tuple[Path, set[str]], embedded: Corpus) -> None:
    again = open_corpus(DataSettings(), extraction[0])
    for split in SPLITS:
        assert list(again.documents(split)) == list(embedded.documents(split))
        assert again.fingerprint(split) == embedded.fingerprint(split)
    assert {path.suffix for path in extraction[0].iterdir()} <= {".json", ".lock"}


def test_the_other_text_is_pythons_language_reference(embedded: Corpus) -> None:
    assert {d.text for d in embedded.documents("other")} == set(topics.values())


def test_a_text_of_the_other_kind_is_learnt_from_nowhere(tmp_path: Path) -> None:
    texts = [prose(i) for i in range(80)]
    write_rows(tmp_path / "source.jsonl", texts)
    write_rows(tmp_path / "other.jsonl", texts[:40])
    corpus = open_corpus(DataSettings(source="source.jsonl", other="other.jsonl"), tmp_path, relative_to=tmp_path)
    assert [d.text for d in corpus.documents("other")] == texts[:40]
    learnt = [d.text for s in ("train", "calibration", "held-out") for d in corpus.documents(s)]
    assert sorted(learnt) == sorted(texts[40:])


def test_a_text_keeps_its_split_when_the_corpus_grows(tmp_path: Path) -> None:
    texts = [prose(i) for i in range(200)]
    few = open_corpus(DataSettings(source=str(write_rows(tmp_path / "few.jsonl", texts[100:]))), tmp_path)
    many = open_corpus(DataSettings(source=str(write_rows(tmp_path / "many.jsonl", texts))), tmp_path)
    for split in ("train", "calibration", "held-out"):
        before = {d.text for d in few.documents(split)}
        assert before == {d.text for d in many.documents(split)} & set(texts[100:])


def test_fingerprint_is_of_content(tmp_path: Path) -> None:
    texts = [prose(i) for i in range(60)]

    def fingerprints(name: str, rows: list[str]) -> list[str]:
        corpus = open_corpus(DataSettings(source=str(write_rows(tmp_path / name, rows))), tmp_path)
        return [corpus.fingerprint(split) for split in SPLITS]

    first = fingerprints("a.jsonl", texts)
    assert first == fingerprints("renamed.jsonl", texts[::-1])
    assert len(set(first)) == len(SPLITS)
    held_out = open_corpus(DataSettings(source=str(tmp_path / "a.jsonl")), tmp_path).documents("held-out")[0].text
    changed = fingerprints("changed.jsonl", [t for t in texts if t != held_out])
    assert [one == two for one, two in zip(first, changed, strict=True)] == [True, True, False, True]


def test_require_names_the_text_the_split_and_what_is_there(tmp_path: Path, tokenizer_file: Path) -> None:
    path = write_rows(tmp_path / "notes.jsonl", [prose(i) for i in range(40)])
    corpus = open_corpus(DataSettings(source=str(path)), tmp_path)
    corpus.require("train", tokenizer_file, count=10**6, length=256)  # goes round and round
    found = len(corpus.windows("held-out", tokenizer_file, 10**6, 16, seed=3))
    corpus.require("held-out", tokenizer_file, found, 16)
    with pytest.raises(BadInput, match=rf"notes\.jsonl' is too short: {found + 1} windows.*held-out part, {found} can"):
        corpus.require("held-out", tokenizer_file, found + 1, 16)
    with pytest.raises(BadInput, match=r"data\.other 'topics' is too short"):
        corpus.require("other", tokenizer_file, 10**6, 256)
    with pytest.raises(BadInput, match="1 windows of 10000000 tokens are needed of its train part, 0 can be cut"):
        corpus.require("train", tokenizer_file, 1, 10**7)


def test_unknown_split_is_a_sentence() -> None:
    with pytest.raises(BadInput, match="possible: train, calibration, held-out, other"):
        Corpus([Document("a", "a", "text")], [], "a", "b").documents("test")  # type: ignore[arg-type]


def test_text_that_changed_after_the_plan_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text(
        "\n\n".join(f"Paragraph {i}: " + "the quick brown fox jumps over the lazy dog. " * 6 for i in range(60))
    )
    planned = open_corpus(DataSettings(source=str(file)), tmp_path / "cache")
    inputs = {"source": "abc", "data.train": planned.fingerprint("train")}
    planned.require_unchanged(inputs)
    renamed = file.rename(tmp_path / "renamed.txt")
    called_otherwise = open_corpus(DataSettings(source=str(renamed)), tmp_path / "cache")
    called_otherwise.require_unchanged(inputs)
    with pytest.raises(BadInput, match="names of the documents have changed"):
        called_otherwise.require_unchanged(inputs | {"data.names": planned.names()})
    file.write_text(
        renamed.read_text() + "\n\nOne more paragraph. " + "It says something else than all the others. " * 6
    )
    changed = open_corpus(DataSettings(source=str(file)), tmp_path / "cache")
    assert changed.fingerprint("train") != planned.fingerprint("train")
    with pytest.raises(BadInput, match="train text has changed"):
        changed.require_unchanged(inputs)
