"""The journal of a run: every fact is written to ``journal.jsonl`` first and sent to the tracker after.

Records are JSON objects with ``kind`` and ``time``:

    run       run, name, recipe, plan, environment, warnings, process   the run begins
    why       text                                            what is to be computed, and what made the difference
    child     step, what, title, events, seconds              a child process begins; ``seconds`` is an estimate
    metrics   step, points [[name, value, at, time], …]       loss curves, in batches
    step      step, name, cached, fingerprint, settings, inputs, teacher
    measured  step, row                                       a line of the report
    warning   step, text
    waiting   step, text                                      for whom a child waits; empty when it works again
    end-step  step, status                                    finished, failed or cancelled
    end-run   status, text, files
"""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from attar.errors import first_line

Record = dict[str, Any]
JOURNAL = "journal.jsonl"
SENT = "journal.sent"


class Tracker(Protocol):
    """Where a journal's records go: :class:`NullTracker`, or MLflow."""

    def send(self, record: Record) -> None:
        """Pass on one record. May raise: the journal goes on without the tracker."""
        ...


class NullTracker:
    """Tracks nothing; the journal stays on disk."""

    def send(self, record: Record) -> None:
        return


class Journal:
    """Appends records and sends them; a tracker that fails once is left alone for the rest of the run."""

    def __init__(self, folder: Path, tracker: Tracker) -> None:
        self.folder = folder
        self.tracker: Tracker | None = tracker
        self._file = open(folder / JOURNAL, "a", encoding="utf-8")  # noqa: SIM115 (until close)
        self._sent = sent(folder)

    def write(self, kind: str, **facts: Any) -> None:
        """Append a record, flush it, then send it."""
        record = {"kind": kind, "time": time.time(), **facts}
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        if self.tracker is None:
            return
        try:
            self.tracker.send(record)
        except Exception as error:  # whatever a tracking server does, the work goes on
            self.tracker = None
            text = f"tracking stopped ({first_line(error)}); the run goes on, and attar sync sends its journal later"
            self.write("warning", step=None, text=text)
            return
        except BaseException:  # interrupted in the middle: sync begins again at this very record
            self.tracker = None
            raise
        self._sent += 1
        mark_sent(self.folder, self._sent)

    def close(self) -> None:
        self._file.close()

    @contextmanager
    def step(self, index: int) -> Iterator[None]:
        """Closes a step in the journal, however it ends."""
        status = "failed"
        try:
            yield
            status = "finished"
        except BaseException as error:
            status = "failed" if isinstance(error, Exception) and not _cancelled(error) else "cancelled"
            raise
        finally:
            self.write("end-step", step=index, status=status)


class Curves:
    """Collects a child's metrics and hands them to the journal in batches."""

    EVERY_SECONDS = 2.0

    def __init__(self, journal: Journal, step: int) -> None:
        self.journal = journal
        self.step = step
        self.points: list[list[Any]] = []
        self.flushed = time.monotonic()

    def add(self, name: str, value: float, at: int | None, when: float) -> None:
        self.points.append([name, value, at, when])
        if len(self.points) >= 500 or time.monotonic() - self.flushed > self.EVERY_SECONDS:
            self.flush()

    def flush(self) -> None:
        if self.points:
            self.journal.write("metrics", step=self.step, points=self.points)
        self.points = []
        self.flushed = time.monotonic()


def read(folder: Path) -> list[Record]:
    """All complete records of a run's journal."""
    try:
        text = (folder / JOURNAL).read_bytes()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text[: text.rfind(b"\n") + 1].splitlines()]


def sent(folder: Path) -> int:
    """How many records of a journal the tracker has."""
    try:
        return int((folder / SENT).read_text())
    except (OSError, ValueError):
        return 0


def mark_sent(folder: Path, count: int) -> None:
    draft = folder / f"{SENT}.{os.getpid()}"
    draft.write_text(str(count))
    draft.replace(folder / SENT)


def replay(folder: Path, tracker: Tracker) -> int:
    """Send what the tracker has not got yet; returns how many records that were. Raises when it is not reached."""
    records, start = read(folder), sent(folder)
    for index, record in enumerate(records[start:], start=start):
        tracker.send(record)
        mark_sent(folder, index + 1)
    return len(records) - start


def _cancelled(error: BaseException) -> bool:
    return getattr(error, "exit_code", None) == 130
