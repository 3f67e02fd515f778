"""The line between a child process and its parent: one JSON object a line, appended and flushed."""

import json
import time
from pathlib import Path
from typing import Any, Literal, TypedDict


class Event(TypedDict, total=False):
    """One line of ``events.jsonl``; ``kind`` says which of the other keys are there."""

    time: float
    kind: Literal["metric", "progress", "log", "waiting", "error", "done"]
    name: str  # metric
    value: float  # metric
    step: int | None  # metric
    done: int  # progress
    total: int  # progress
    unit: str  # progress, e.g. "tokens", "layers"
    text: str  # log, waiting (empty: it is over), error
    level: str  # log: info or warning
    exit_code: int  # error
    result: dict[str, Any]  # done


class Events:
    """Appends events to a file; ``Events(None)`` swallows them (unit tests)."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def metric(self, name: str, value: float, step: int | None = None) -> None:
        self._write({"kind": "metric", "name": name, "value": float(value), "step": step})

    def progress(self, done: int, total: int, unit: str) -> None:
        self._write({"kind": "progress", "done": done, "total": total, "unit": unit})

    def log(self, text: str, level: str = "info") -> None:
        self._write({"kind": "log", "text": text, "level": level})

    def waiting(self, text: str) -> None:
        """Say for whom this job waits; an empty text says that it works again."""
        self._write({"kind": "waiting", "text": text})

    def error(self, text: str, exit_code: int) -> None:
        self._write({"kind": "error", "text": text, "exit_code": exit_code})

    def done(self, result: dict[str, Any]) -> None:
        self._write({"kind": "done", "result": result})

    def _write(self, event: Event) -> None:
        if self._path:
            event["time"] = time.time()
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(json.dumps(event) + "\n")


def read(path: Path, offset: int = 0) -> tuple[list[Event], int]:
    """Events of all complete lines after byte ``offset``, and the offset to go on from.

    A line that a full disk cut in the middle says nothing.
    """
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            text = file.read()
    except FileNotFoundError:
        return [], offset
    end = text.rfind(b"\n") + 1
    return [event for line in text[:end].splitlines() if (event := _parsed(line))], offset + end


def _parsed(line: bytes) -> Event | None:
    try:
        event: Event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and "kind" in event else None
