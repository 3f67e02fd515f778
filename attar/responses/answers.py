"""Answers as they come in: appended to a file at once, so that a killed process loses none that is complete."""

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Answer:
    """What a teacher said to one prompt."""

    key: str  # of the prompt
    text: str
    finish: str  # "stop" when the teacher ended by itself, else why it was cut off
    prompt_tokens: int
    answer_tokens: int


class AnswerLog:
    """Answers in a JSONL file, by prompt; reading it back tolerates the torn last line of a killed process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answers: dict[str, Answer] = {}
        whole = 0  # bytes of complete lines
        for line in path.read_bytes().splitlines(keepends=True) if path.exists() else []:
            try:
                answer = Answer(**json.loads(line))
            except (ValueError, TypeError):
                break
            if not line.endswith(b"\n"):
                break
            self.answers[answer.key] = answer
            whole += len(line)
        if path.exists():
            os.truncate(path, whole)

    def add(self, answers: Iterable[Answer]) -> None:
        """Keep answers to prompts that have none yet, on disk before this returns."""
        new = [answer for answer in answers if answer.key not in self.answers]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a", encoding="utf-8", newline="\n") as file:
            file.writelines(json.dumps(asdict(answer)) + "\n" for answer in new)
            file.flush()
            os.fsync(file.fileno())
        self.answers |= {answer.key: answer for answer in new}
