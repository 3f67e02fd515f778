"""Sends a journal's records to a tracker, in order and in a thread of its own: no server can hold up the work.

The journal on disk and the count of records in ``journal.sent`` are the truth. A tracker that does not answer is asked
again, ever more rarely; what is left at the end of a run is sent by ``attar sync``, or when a run or a worker starts. A
record that the tracker refuses is counted and left out, for those behind it must not wait for ever. Only who holds the
lock of a run sends its records; the kernel frees it when its holder dies.
"""

import fcntl
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from attar import events
from attar.credentials import without_credentials
from attar.errors import first_line

SENT = "journal.sent"
LOCK = "journal.lock"
NEVER = 2**62  # records "sent" of a run that is not tracked
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 30.0
LOOK_SECONDS = 0.5


class Refused(Exception):
    """The tracker was reached and will never take this record, or a part of it."""


class Tracker(Protocol):
    """Where records go. What was sent before may come again, after a crash or a lost answer."""

    patience: float  # seconds that the end of a run waits for a sign of life

    def send(self, record: dict[str, Any]) -> None:
        """Pass on one record.

        Raises:
            Refused: sending it again is of no use.
            Exception: anything else means that it may be taken later.
        """
        ...


class Backlog:
    """What a tracker has not got of one journal. Only for who holds the lock."""

    def __init__(self, journal: Path, tracker: Tracker) -> None:
        self.journal = journal
        self.tracker = tracker
        self.sent = 0  # by this object, the refused ones included
        self.refused: list[str] = []
        self._count: int | None = None
        self._skip = 0
        self._offset = 0
        self._waiting: deque[dict[str, Any]] = deque()

    def send(self) -> None:
        """Send all there is; raises when the tracker does not take a record now."""
        if self._count is None:
            self._count = self._skip = sent(self.journal.parent)
        while self._read():
            while self._waiting:
                try:
                    self.tracker.send(self._waiting[0])
                except Refused as error:
                    self.refused.append(without_credentials(first_line(error)))
                self._waiting.popleft()
                self.sent += 1
                self._count += 1
                mark_sent(self.journal.parent, self._count)

    def _read(self) -> bool:
        new, self._offset = events.read(self.journal, self._offset)
        skipped = min(self._skip, len(new))
        self._skip -= skipped
        self._waiting.extend(dict(event) for event in new[skipped:])
        return bool(self._waiting)


class Sender:
    """The thread that sends a journal while it is written. It never keeps an interpreter from ending."""

    def __init__(self, journal: Path, tracker: Tracker, warn: Callable[[str], None]) -> None:
        self._journal = journal
        self._backlog = Backlog(journal, tracker)
        self._warn = warn
        self.failure = "no answer in time"  # why the last records are not sent
        self._told: set[str] = set()
        self._new = threading.Event()
        self._closing = threading.Event()
        self._given_up = False
        self._thread = threading.Thread(target=self._run, name="attar-sender", daemon=True)
        self._thread.start()

    def announce(self) -> None:
        """Tell that the journal has grown."""
        self._new.set()

    def close(self) -> None:
        """Wait for the rest to be sent, but no longer than the tracker's patience without any sign of life."""
        self._closing.set()
        self._new.set()
        patience = self._backlog.tracker.patience
        before, since = self._backlog.sent, time.monotonic()
        while self._thread.is_alive() and time.monotonic() - since < patience:
            self._thread.join(0.1)
            if self._backlog.sent != before:
                before, since = self._backlog.sent, time.monotonic()
        self._given_up = True

    def _run(self) -> None:
        with self._turn() as mine:
            if mine:
                self._send()

    @contextmanager
    def _turn(self) -> Iterator[bool]:
        """The lock; somebody may be sending what an earlier process wrote into this journal."""
        while True:
            with only_sender(self._journal.parent) as mine:
                if mine or self._closing.wait(LOOK_SECONDS):
                    yield mine
                    return

    def _send(self) -> None:
        pause = FIRST_PAUSE
        while not self._given_up:
            last = self._closing.is_set()  # asked before the attempt: all was announced that will be
            self._new.clear()
            try:
                self._backlog.send()
            except Exception as error:  # whatever a tracking server does, the work goes on
                self.failure = without_credentials(first_line(error))
                if last:
                    return
                self._tell("away", f"tracking waits ({self.failure}); the run goes on, and the rest is sent later")
                self._closing.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
                continue
            pause = FIRST_PAUSE
            if self._tell_refused(last):
                continue  # a warning is a record, too
            if last:
                return
            self._new.wait()

    def _tell_refused(self, last: bool) -> bool:
        """Of the first record at once, of all at the end; whether there was something to tell."""
        refused = self._backlog.refused
        if refused and self._tell("refused", f"tracking refused a record and goes on ({refused[0]})"):
            return True
        return last and len(refused) > 1 and self._tell("all", f"tracking refused {len(refused)} records for good")

    def _tell(self, what: str, text: str) -> bool:
        """Once a run, and not again for what is but a consequence."""
        if what in self._told:
            return False
        self._told.add(what)
        self._warn(text)
        return True


@contextmanager
def only_sender(folder: Path) -> Iterator[bool]:
    """Whether nobody else sends this run's records for as long as the block lasts."""
    handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(handle)


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
