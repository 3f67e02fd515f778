"""Tasks of the user's own: a JSONL file of questions with choices, or of prompts with the answer to be written."""

import json
import os
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attar.data.files import records
from attar.errors import BadInput
from attar.questions import Choosing, Question, Task, Writing, Written
from attar.stamp import PARTS

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
OURS = frozenset({"describes", "facts", "generation", "lm_eval", "origin", *PARTS})
_ARTICLES = frozenset({"a", "an", "the"})
_MARKS = ".,;:!?\"'`()[]{}*"


def read_tasks(paths: Sequence[str], tokens: int) -> list[Task]:
    """The tasks of these files, each called by its file's name without the ending.

    Raises:
        BadInput: the first file or line that is wrong, or a name that two tasks would have.
    """
    tasks: dict[str, Task] = {}
    for text in paths:
        path = Path(os.path.expanduser(text))
        name = path.stem
        if name in tasks or name in OURS or not NAME.fullmatch(name):
            raise BadInput(
                f"measure.tasks: a task is called by its file, and {name!r} is "
                + ("the name of two of them" if name in tasks else "not free for a task" if name in OURS else "no name")
                + "; rename the file, with letters, digits, dash and underscore"
            )
        tasks[name] = _read(path, name, tokens)
    return list(tasks.values())


def normalised(text: str) -> str:
    """The words of an answer's first line, without case, articles and punctuation around them."""
    line = next((line for line in text.splitlines() if line.strip()), "")
    words = (word.strip(_MARKS) for word in unicodedata.normalize("NFKC", line).casefold().split())
    return " ".join(word for word in words if word and word not in _ARTICLES)


def is_right(answer: str, item: Written) -> bool:
    """Whether what a model wrote is one of the right answers, as far as :func:`normalised` looks."""
    return normalised(answer) in {normalised(right) for right in item.right}


def _read(path: Path, name: str, tokens: int) -> Task:
    if path.suffix.lower() != ".jsonl":
        raise BadInput(f"measure.tasks: {path} is of a kind that is not read; a task is a .jsonl file")
    questions: list[Question] = []
    items: list[Written] = []
    for number, row in enumerate(records(path, ["prompt", "answer"], ["choices"]), start=1):
        where, key = f"task {number} of {path}", str(number)
        prompt = _text(row["prompt"])
        if prompt is None:
            raise BadInput(f"{where} has no text in 'prompt'")
        if "choices" in row:
            questions.append(_question(key, prompt, row["choices"], row["answer"], where))
        else:
            items.append(Written(key, prompt, _answers(row["answer"], where)))
        if questions and items:
            raise BadInput(
                f"{where} {'has' if 'choices' in row else 'lacks'} 'choices', unlike those before; the tasks of one "
                "file are all of one kind: put the others into a file of their own"
            )
    if not questions and not items:
        raise BadInput(f"measure.tasks: {path} holds no task; a line is {{'prompt': …, 'choices': […], 'answer': …}}")
    return Choosing(name, tuple(questions)) if questions else Writing(name, tuple(items), tokens)


def _question(key: str, prompt: str, choices: Any, answer: Any, where: str) -> Question:
    texts = [_text(choice) for choice in choices] if isinstance(choices, list) else []
    if len(texts) < 2 or None in texts or len(set(texts)) < len(texts):
        raise BadInput(f"{where}: 'choices' must be a list of at least two different texts")
    found = tuple(text for text in texts if text is not None)
    number = isinstance(answer, int) and not isinstance(answer, bool)
    if number and str(answer) in found and 0 <= answer < len(found) and found[answer] != str(answer):
        raise BadInput(f"{where}: answer={answer} is a place and a choice at once; write the choice in quotes")
    if number and str(answer) not in found:
        if not 0 <= answer < len(found):
            raise BadInput(f"{where}: answer={answer} is no place among {len(found)} choices, counted from 0")
        return Question(key, prompt, found, answer)
    if _text(answer) is None:
        raise BadInput(
            f"{where}: answer={json.dumps(answer)} is neither a choice nor the place of one; write the choice as it "
            f"stands there, in quotes, or its place, counted from 0: {', '.join(map(repr, found))}"
        )
    if _text(answer) not in found:
        raise BadInput(f"{where}: the answer {answer!r} is none of its choices: {', '.join(map(repr, found))}")
    return Question(key, prompt, found, found.index(str(_text(answer))))


def _answers(answer: Any, where: str) -> tuple[str, ...]:
    texts = [_text(one) for one in (answer if isinstance(answer, list) else [answer])]
    found = tuple(text for text in texts if text is not None and normalised(text))
    if not texts or len(found) < len(texts):
        raise BadInput(f"{where}: 'answer' must be a text or a number with a word in it, or a list of such")
    return found


def _text(value: Any) -> str | None:
    """What a choice or an answer says; None for what is neither text nor a number."""
    if isinstance(value, str) and value.strip():
        return value.strip().encode("utf-8", "replace").decode()  # JSON can spell half a surrogate pair
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
