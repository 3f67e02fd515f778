"""Own files: what can be read gives its documents, what cannot gives one sentence."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from attar.data import SPLITS, DataSettings, open_corpus
from attar.data.cache import kept
from attar.data.documents import Document
from attar.errors import BadInput

LONG = [f"Document {i} says something about the number {i * i}. " * 8 for i in range(30)]


def texts_of(source: Path | str, column: str = "text", relative_to: Path | None = None) -> set[str]:
    corpus = open_corpus(DataSettings(source=str(source), column=column), Path("unused"), relative_to=relative_to)
    return {d.text for split in SPLITS if split != "other" for d in corpus.documents(split)}


def test_rows_and_paragraphs_become_documents(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"body": t, "id": 1}) + "\n" for t in LONG), encoding="utf-8")
    pq.write_table(pa.table({"id": range(31), "body": [*LONG, None]}), tmp_path / "a.parquet")
    assert texts_of(tmp_path / "a.jsonl", "body") == set(LONG)
    assert texts_of("a.parquet", "body", relative_to=tmp_path) == set(LONG)
    (tmp_path / "a.txt").write_text("\n\n".join(LONG * 10), encoding="utf-8-sig")
    pieces = texts_of(tmp_path / "a.txt")
    assert len(pieces) > 1
    assert all(len(piece) <= 8_000 for piece in pieces)


def test_a_folder_is_all_usable_files_in_it(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "one.TXT").write_text(LONG[0].strip())
    (tmp_path / "two.jsonl").write_text(json.dumps({"text": LONG[1]}) + "\r\n\r\n" + json.dumps({"text": " "}))
    (tmp_path / "notes.md").write_text("not read")
    assert texts_of(tmp_path) == {LONG[0].strip(), LONG[1]}


def test_a_row_may_hold_line_separators_and_half_surrogates(tmp_path: Path) -> None:
    odd = "before\u2028after\x85" + LONG[0]
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": odd}, ensure_ascii=False) + "\n" + '{"text": "' + LONG[1] + '\\ud83d"}')
    assert texts_of(path) == {odd, LONG[1] + "?"}


def parquet_bytes(tmp_path: Path, **columns: list[object]) -> bytes:
    pq.write_table(pa.table(columns), tmp_path / "made")
    return (tmp_path / "made").read_bytes()


BAD = {
    "missing": ("none.txt", None, "none.txt does not exist"),
    "empty": ("a.txt", b"", "is empty"),
    "white space": ("a.txt", b" \n\n ", "holds only 0 characters"),
    "not UTF-8": ("a.txt", "café ".encode("latin-1") * 99, r"is not UTF-8 \(byte 3 is 0xe9\)"),
    "not UTF-8, rows": ("a.jsonl", b'{"text": "\xff"}', "is not UTF-8"),
    "one short line": ("a.jsonl", b'{"text": "short"}\n', "holds only 5 characters of text, too short to use"),
    "unknown kind": ("a.csv", b"text\nhello", r"kind that is not read; possible: \.txt, \.jsonl, \.parquet"),
    "not JSON": ("a.jsonl", b'{"text": "a"}\n{"text": \n', "line 2 .* is not JSON"),
    "deep JSON": ("a.jsonl", b"[" * 100_000, "line 1 .* is not JSON"),
    "no object": ("a.jsonl", b'["a"]', "line 1 .* is not a JSON object"),
    "no column": ("a.jsonl", b'{"body": "a", "id": 1}', "no column 'text'; it has body, id; name one in data.column"),
    "no text": ("a.jsonl", b'{"text": 7}', "a.jsonl:1 .* holds int, not text, in column 'text'"),
    "no Parquet": ("a.parquet", b"PAR1 and no more of it", "not readable Parquet"),
    "empty folder": ("", None, "holds no usable file"),
    "misspelt": ("embeded", None, "no file and no known text; did you mean 'embedded'?"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_data_is_one_sentence(case: str, tmp_path: Path) -> None:
    name, content, sentence = BAD[case]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    for settings in (DataSettings(source=name or "."), DataSettings(source="topics", other=name or ".")):
        with pytest.raises(BadInput, match=sentence) as error:
            open_corpus(settings, tmp_path / "cache", relative_to=tmp_path)
        assert "\n" not in str(error.value)


def test_bad_parquet_columns_are_sentences(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(parquet_bytes(tmp_path, body=["a"]))
    with pytest.raises(BadInput, match="has no column 'text'; it has body"):
        texts_of(path)
    path.write_bytes(parquet_bytes(tmp_path, text=[1, 2]))
    with pytest.raises(BadInput, match=r"a\.parquet:1 .* holds int, not text"):
        texts_of(path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(BadInput, match="not readable Parquet"):
        texts_of(path)


def test_both_texts_the_same_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"data\.source and data\.other are both 'topics'"):
        open_corpus(DataSettings(source="topics"), tmp_path)


def test_what_is_kept_is_made_once_and_again_when_damaged(tmp_path: Path) -> None:
    made: list[int] = []

    def make() -> list[Document]:
        made.append(1)
        return [Document("name", "module", "tëxt\r\n\u2028")]

    path = tmp_path / "new" / "kept.json"
    assert kept(path, "a text", make) == kept(path, "a text", make) == [Document("name", "module", "tëxt\r\n\u2028")]
    assert len(made) == 1
    for damage in (path.read_bytes()[:-3], b"\xff", b""):
        path.write_bytes(damage)
        assert kept(path, "a text", make)[0].name == "name"
    assert len(made) == 4


def test_a_cache_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(BadInput, match="cannot be written"):
        kept(tmp_path / "file" / "kept.json", "a text", list)
