"""Laws of packing: nothing lost, nothing invented, the same every time."""

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from attar.data import Corpus, DataSettings, open_corpus
from attar.data.windows import pack
from attar.errors import BadInput

TEXTS = [f"Text {i}: naïve “quotes”, 数 and 🙂 in {i * i} places." for i in range(300)]


def test_windows_are_the_texts_end_to_end_with_end_of_text_between(tokenizer_file: Path) -> None:
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    windows = pack(TEXTS, tokenizer_file, count=10**6, length=7)
    assert windows.dtype == np.int64
    assert windows.shape[1] == 7
    texts = tokenizer.decode(windows.ravel().tolist(), skip_special_tokens=False).split("<eos>")
    assert texts[:-1] == TEXTS[: len(texts) - 1]
    assert len(texts) > 290


def test_fewer_windows_are_a_prefix_of_more(tokenizer_file: Path) -> None:
    many = pack(TEXTS, tokenizer_file, 100, 16)
    assert many.shape == (100, 16)
    for count in (1, 3, 40):
        assert np.array_equal(pack(TEXTS, tokenizer_file, count, 16), many[:count])


def test_corpus_windows_depend_on_seed_and_content_only(tmp_path: Path, tokenizer_file: Path) -> None:
    for name, texts in (("a", TEXTS), ("b", TEXTS[::-1])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    a, b = (open_corpus(DataSettings(source=str(tmp_path / f"{name}.jsonl")), tmp_path) for name in "ab")
    first = a.windows("train", tokenizer_file, 50, 32, seed=0)
    assert np.array_equal(first, b.windows("train", tokenizer_file, 50, 32, seed=0))
    assert not np.array_equal(first, a.windows("train", tokenizer_file, 50, 32, seed=1))


def test_windows_stay_the_same_for_ever(tmp_path: Path, tokenizer_file: Path) -> None:
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": f"row {i}"}) + "\n" for i in range(100)))
    corpus = open_corpus(DataSettings(source=str(tmp_path / "a.jsonl")), tmp_path)
    ids = corpus.windows("train", tokenizer_file, 1, 40, seed=7)[0].tolist()
    shuffled = Tokenizer.from_file(str(tokenizer_file)).decode(ids, skip_special_tokens=False)
    assert shuffled.split("<eos>")[:4] == ["row 16", "row 34", "row 17", "row 25"]


def test_a_document_cannot_fill_a_set_alone(tmp_path: Path, tokenizer_file: Path) -> None:
    book = "\n\n".join(f"A paragraph of the book, number {i}, and no more." for i in range(2_000))
    rows = [book, *(f"A note on matter {i}: nothing to add to what was said. " * 60 for i in range(40))]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in rows))
    corpus = open_corpus(DataSettings(source=str(tmp_path / "a.jsonl")), tmp_path)
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    text = tokenizer.decode(corpus.windows("train", tokenizer_file, 20, 1024, seed=0).ravel().tolist())
    assert "of the book" in text
    assert "A note on" in text


def test_no_end_of_text_known_no_separator(tmp_path: Path, tokenizer_file: Path) -> None:
    alone = tmp_path / "tokenizer.json"
    alone.write_bytes(tokenizer_file.read_bytes())
    assert 0 in pack(TEXTS, tokenizer_file, 10, 64)
    assert 0 not in pack(TEXTS, alone, 10, 64)
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": {"content": "<eos>", "special": true}}')
    assert np.array_equal(pack(TEXTS, alone, 10, 64), pack(TEXTS, tokenizer_file, 10, 64))
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": null}')
    assert 0 not in pack(TEXTS, alone, 10, 64)


def test_truncation_and_padding_of_the_tokenizer_do_not_reach_the_windows(tmp_path: Path, tokenizer_file: Path) -> None:
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=9)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<eos>"}')
    assert np.array_equal(pack(TEXTS, tmp_path / "tokenizer.json", 10, 64), pack(TEXTS, tokenizer_file, 10, 64))


def test_bytes_of_byte_level_windows_are_exact_even_where_characters_are_cut(tokenizer_file: Path) -> None:
    text = "naïve “quotes”, 数 and 🙂. " * 50
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    ids = tokenizer.encode(text).ids
    assert Corpus.text_bytes(tokenizer_file, np.array([[0, *ids]])) == len(text.encode())
    assert Corpus.text_bytes(tokenizer_file, np.array([[0, *ids, 0]])) == len(text.encode())  # end of text is no text
    halves = [[0, *ids[:101]], [0, *ids[101:202]]]
    both = [[0, *ids[:202]]]
    assert Corpus.text_bytes(tokenizer_file, np.array(halves)) == Corpus.text_bytes(tokenizer_file, np.array(both))


def test_bytes_of_other_tokenizers_are_those_of_the_decoded_text(tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({"▁a": 0, "▁ñandú": 1, "<unk>": 2}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="never")
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    assert Corpus.text_bytes(path, np.array([[1, 0, 1]])) == len(" a ñandú".encode())
    assert Corpus.text_bytes(path, np.zeros((0, 8), dtype=np.int64)) == 0


def test_bad_tokenizers_and_counts_are_sentences(tmp_path: Path, tokenizer_file: Path) -> None:
    with pytest.raises(BadInput, match="does not exist"):
        pack(TEXTS, tmp_path / "tokenizer.json", 1, 8)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(BadInput, match="cannot be read"):
        pack(TEXTS, tmp_path / "tokenizer.json", 1, 8)
    with pytest.raises(BadInput, match="must be at least 1"):
        pack(TEXTS, tokenizer_file, 0, 8)
