"""The journal of a run: every fact is written to ``journal.jsonl`` first and sent to the tracker after.

Records are JSON objects with ``kind`` and ``time``:

    run       run, name, recipe, plan, environment, warnings, the run begins
              process, flow_run, flow_run_url
    why       text                                            what is to be computed, and what made the difference
    child     step, what, title, events, seconds              a child process begins; ``seconds`` is an estimate
    metrics   step, points [[name, value, at, time], …]       loss curves, in batches
    step      step, name, cached, fingerprint, settings, inputs, teacher
    measured  step, row                                       a line of the report
    planned   needs                                           fingerprints: a gate goes on, or tries, with these
    probe     step, gate, value, kept, text, evaluation       a value that a gate tried
    gate      step, decision, again, needs                    what a gate came to; from step ``again`` on all runs anew
    champion  run, policy, row                                the final model is up for the champion of a line
    warning   step, text
    waiting   step, text                                      for whom a child waits; empty when it works again
    end-step  step, status                                    finished, failed or cancelled
    end-run   status, text, files                             only warnings may follow
"""

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from attar.credentials import without_credentials
from pipelines import process
from pipelines.sender import NEVER, Sender, Tracker, mark_sent, sent

Record = dict[str, Any]
JOURNAL = "journal.jsonl"


class NullTracker:
    """Tracks nothing: the journal stays on disk, and nobody sends it later."""

    patience = 0.0

    def send(self, record: Record) -> None:
        return


class Journal:
    """Appends records; a :class:`Sender` passes them on to the tracker. Any thread may write.

    Who has opened a run's journal is the run's process, see :func:`pipelines.process.alive`.
    """

    def __init__(self, folder: Path, tracker: Tracker) -> None:
        self.folder = folder
        process.hold(folder)
        path = folder / JOURNAL
        _mend(path)
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (until close)
        self._lock = threading.Lock()
        self._sender: Sender | None = None
        if isinstance(tracker, NullTracker):
            mark_sent(folder, NEVER)
        else:
            self._sender = Sender(path, tracker, self._warn)

    def write(self, kind: str, **facts: Any) -> None:
        """Append a record and flush it; it is sent when it can be."""
        if isinstance(facts.get("text"), str):  # a library's words may quote an address with a key in it
            facts["text"] = without_credentials(facts["text"])
        line = json.dumps({"kind": kind, "time": time.time(), **facts}) + "\n"
        with self._lock:
            self._file.write(line)
            self._file.flush()
        if self._sender is not None:
            self._sender.announce()

    def close(self) -> None:
        """Wait a short while for the tracker to take the rest, and say what it has not taken."""
        if self._file.closed:
            return
        if self._sender is not None:
            self._sender.close()
            if waiting := unsent(self.folder):
                why = self._sender.failure
                self._warn(f"{waiting} records wait on disk for MLflow ({why}); the next run or attar sync sends them")
        with self._lock, suppress(OSError):  # what a full disk has not taken is tried once more, and was told of
            self._file.close()

    def _warn(self, text: str) -> None:
        with suppress(OSError, ValueError):  # a full disk, or closed by now: a warning is not worth a run
            self.write("warning", step=None, text=text)

    @contextmanager
    def step(self, index: int) -> Iterator[None]:
        """Closes a step in the journal, however it ends."""
        try:
            yield
        except BaseException as error:
            status = "failed" if isinstance(error, Exception) and not _cancelled(error) else "cancelled"
            with suppress(OSError):  # a full disk must not hide what happened before
                self.write("end-step", step=index, status=status)
            raise
        self.write("end-step", step=index, status="finished")


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


def ended(records: list[Record]) -> bool:
    """Whether a run has said how it ended."""
    return any(record["kind"] == "end-run" for record in records)


def unsent(folder: Path) -> int:
    """How many records the tracker has not got; 0 for a run that is not tracked."""
    try:
        return max(0, (folder / JOURNAL).read_bytes().count(b"\n") - sent(folder))
    except FileNotFoundError:
        return 0


def _mend(path: Path) -> None:
    """Cut off what a crash left of a last line, so that the next one begins where a line begins."""
    if path.is_file():
        os.truncate(path, path.read_bytes().rfind(b"\n") + 1)


def _cancelled(error: BaseException) -> bool:
    return getattr(error, "exit_code", None) == 130
