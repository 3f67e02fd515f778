"""Tasks of one's own: what a file may say, what is wrong with it told in a sentence, and when an answer is right."""

import json
from pathlib import Path
from typing import Any

import pytest

from attar.errors import BadInput
from attar.questions import Choosing, Writing, Written, fingerprints
from attar.user_tasks import is_right, normalised, read_tasks


def write(folder: Path, *rows: Any, name: str = "mine.jsonl") -> str:
    path = folder / name
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return str(path)


def test_choices_are_answered_by_text_or_place(tmp_path: Path) -> None:
    rows = [
        {"prompt": "The capital of France is", "choices": ["Rome", "Paris"], "answer": "Paris"},
        {"prompt": "The capital of Italy is", "choices": ["Rome", "Paris", "Oslo", "Bern"], "answer": 0},
        {"prompt": "Two and two is", "choices": [3, 4], "answer": 4},
    ]
    (task,) = read_tasks([write(tmp_path, *rows)], tokens=8)
    assert isinstance(task, Choosing) and task.name == "mine"
    assert [question.right for question in task.questions] == [1, 0, 1]
    assert task.chance == pytest.approx((0.5 + 0.25 + 0.5) / 3)


def test_an_answer_alone_is_to_be_written(tmp_path: Path) -> None:
    rows = [{"prompt": "2 + 2 =", "answer": 4}, {"prompt": "Who wrote it?", "answer": ["Ada Lovelace", "Lovelace"]}]
    (task,) = read_tasks([write(tmp_path, *rows)], tokens=8)
    assert isinstance(task, Writing) and task.items[0].right == ("4",) and len(task.items[1].right) == 2


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("{", "not JSON"),
        ({"prompt": "x"}, "no column 'answer'"),
        ({"prompt": " ", "answer": "x"}, "no text in 'prompt'"),
        ({"prompt": "x", "answer": None}, "'answer' must be"),
        ({"prompt": "x", "answer": "..."}, "'answer' must be"),
        ({"prompt": "x", "choices": ["a"], "answer": "a"}, "at least two different"),
        ({"prompt": "x", "choices": ["a", "a"], "answer": "a"}, "at least two different"),
        ({"prompt": "x", "choices": ["a", None], "answer": "a"}, "at least two different"),
        ({"prompt": "x", "choices": "ab", "answer": "a"}, "at least two different"),
        ({"prompt": "x", "choices": ["a", "b"], "answer": "c"}, "none of its choices: 'a', 'b'"),
        ({"prompt": "x", "choices": ["a", "b"], "answer": 2}, "no place among 2 choices"),
        (
            {"prompt": "x", "choices": ["a", "b"], "answer": True},
            "answer=true is neither a choice nor the place",
        ),
        ({"prompt": "x", "choices": ["a", "b"], "answer": ["a"]}, 'answer=["a"] is neither a choice'),
    ],
)
def test_a_wrong_line_is_a_sentence(tmp_path: Path, row: Any, told: str) -> None:
    with pytest.raises(BadInput, match=r"mine\.jsonl") as error:
        read_tasks([write(tmp_path, row)], tokens=8)
    assert told in str(error.value)


def test_wrong_files_are_sentences(tmp_path: Path) -> None:
    row = {"prompt": "x", "answer": "y"}
    mixed = write(tmp_path, row, row | {"choices": ["x", "y"]}, name="mixed.jsonl")
    (tmp_path / "sub").mkdir()
    paths = {
        "all of one kind": [mixed],
        "does not exist": [str(tmp_path / "absent.jsonl")],
        "holds no task": [write(tmp_path, name="empty.jsonl")],
        "of a kind that is not read": [write(tmp_path, row, name="mine.txt")],
        "'bytes' is not free": [write(tmp_path, row, name="bytes.jsonl")],
        "'my task' is no name": [write(tmp_path, row, name="my task.jsonl")],
        "the name of two": [write(tmp_path, row), write(tmp_path / "sub", row)],
    }
    for told, given in paths.items():
        with pytest.raises(BadInput) as error:
            read_tasks(given, tokens=8)
        assert told in str(error.value)


def test_the_fingerprint_goes_by_what_is_asked_and_not_by_the_place(tmp_path: Path) -> None:
    row = {"prompt": "x", "answer": "y"}
    (tmp_path / "sub").mkdir()
    here, there = write(tmp_path, row), write(tmp_path / "sub", row)
    one, other = (fingerprints(read_tasks([path], tokens=8)) for path in (here, there))
    assert one == other
    assert fingerprints(read_tasks([here], tokens=9)) != one
    write(tmp_path, row | {"answer": "z"})
    assert fingerprints(read_tasks([here], tokens=8)) != one


def test_an_answer_is_right_whatever_its_case_marks_and_articles() -> None:
    item = Written("1", "?", ("The Eiffel Tower", "42"))
    for answer in (
        "eiffel tower",
        " the Eiffel Tower.\nIt stands in Paris.",
        "“Eiffel” Tower".replace("“", '"'),
        "42!",
    ):
        assert is_right(answer.replace("”", '"'), item)
    for answer in ("", "Eiffel", "the Eiffel Tower in Paris", "-42", "4 2"):
        assert not is_right(answer, item)
    assert normalised("3.5 apples") == "3.5 apples"
