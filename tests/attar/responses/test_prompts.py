"""Prompts: read as they stand, made the same for the same seed, malformed ones told in a sentence."""

import json
from pathlib import Path

import pytest

from attar.data import Document
from attar.errors import BadInput
from attar.responses.prompts import made_prompts, public_name, read_prompts

DOCUMENTS = [Document(f"lib._core.part{i}", "lib._core", f"Does the thing number {i}. " * 20) for i in range(40)]


def test_every_kind_of_file_is_read(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    (tmp_path / "a.txt").write_text("one?\n\ntwo?\none?\n")
    assert [p.messages[0]["content"] for p in read_prompts(tmp_path / "a.txt", "prompt", "answer")] == ["one?", "two?"]
    rows = [
        {"prompt": "2 + 2?", "answer": 4},
        {"prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]},
        {"prompt": "2 + 2?", "answer": 5},
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_prompts(tmp_path / "a.jsonl", "prompt", "answer")
    assert [(len(p.messages), p.right) for p in found] == [(1, "4"), (2, None)]
    table = pyarrow.table({"question": ["who?", "what?"], "answer": ["she", None]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    assert [p.right for p in read_prompts(tmp_path / "a.parquet", "question", "answer")] == ["she", None]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("absent.jsonl", None, "does not exist"),
        ("absent.txt", None, "cannot be read"),
        ("a.txt", "\n \n", "holds no prompt"),
        ("a.txt", b"\xff\xfe", "not UTF-8"),
        ("a.jsonl", '{"question": "x"}', "no column 'prompt'; it has question; name one in column"),
        ("a.jsonl", '{"prompt": 3}', "row 1 of .* holds no prompt in 'prompt'"),
        ("a.jsonl", '{"prompt": [{"role": "boss", "content": "x"}]}', "system, user, assistant"),
        ("a.jsonl", '{"prompt": [{"role": "assistant", "content": "x"}]}', "nothing to answer"),
        ("a.jsonl", '{"prompt": "x", "answer": [1]}', "holds list in 'answer'"),
        ("a.docx", "x", "possible: .txt, .jsonl, .parquet"),
    ],
)
def test_a_malformed_file_is_a_sentence(name: str, content: str | bytes | None, words: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(BadInput, match=words):
        read_prompts(tmp_path / name, "prompt", "answer")


def test_prompts_of_a_seed_are_the_same_and_a_prefix_of_more() -> None:
    few, more = made_prompts(DOCUMENTS, 5, seed=1), made_prompts(DOCUMENTS, 30, seed=1)
    assert more[:5] == few and len({p.key for p in more}) == 30
    assert made_prompts(list(reversed(DOCUMENTS)), 5, seed=1) == few
    assert made_prompts(DOCUMENTS, 5, seed=2) != few
    assert len(made_prompts(DOCUMENTS, 1000, seed=1)) == 40


def test_a_named_thing_is_asked_about_by_its_public_name() -> None:
    texts = [p.messages[0]["content"] for p in made_prompts(DOCUMENTS, 40, seed=0)]
    assert all("`lib.part" in text for text in texts)
    assert {text[:12] for text in texts} > {text[:12] for text in texts[:1]}  # several templates
    note = Document("notes.txt#1", "0a1b", "A long note about bread. " * 30)
    assert public_name(note) is None and "bread" in made_prompts([note], 1, seed=0)[0].messages[0]["content"]


@pytest.mark.parametrize("name", ["lib", "lib.mod", "lib.mod._private", "lib.mod:12", "other.thing"])
def test_what_has_no_public_name(name: str) -> None:
    assert public_name(Document(name, "lib.mod", "text")) is None
