"""Follows a child process: its events, how long it has been silent, and its end together with that of its group."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from attar import events
from attar.events import Event

POLL_SECONDS = 0.1
GRACE_SECONDS = 15.0  # between asking a child to stop and killing its group

Watch = Callable[[Event], None]


class Process(Protocol):
    """A process that leads its own group, as ``subprocess`` gives it."""

    @property
    def pid(self) -> int: ...
    @property
    def returncode(self) -> int | None: ...
    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...


class Follower:
    """Reads new events, keeps the last word and counts the silence since."""

    def __init__(self, path: Path, watch: Watch) -> None:
        self.path = path
        self.watch = watch
        self.offset = path.stat().st_size if path.exists() else 0
        self.last: Event = {}
        self.silent = 0.0  # seconds without an event; a job that waits for another one is not silent
        self._looked = time.monotonic()

    def follow(self) -> None:
        """Pass on what is new."""
        new, self.offset = events.read(self.path, self.offset)
        now = time.monotonic()
        waits = self.last.get("kind") == "waiting" and self.last.get("text")
        # A gap is ours, not the child's: this machine slept, or a watcher was busy with a slow server.
        self.silent = 0.0 if new or waits else self.silent + min(now - self._looked, 10 * POLL_SECONDS)
        self._looked = now
        for event in new:
            self.last = event
            self.watch(event)


def follow(process: Process, follower: Follower, patience: float, look: Callable[[int], None]) -> bool:
    """Follow a process to its end, or until it was silent for ``patience`` seconds (0: however long).

    ``look`` gets its pid now and then. However this ends, nothing of the process's group is left. Returns whether it
    ended by itself.
    """
    try:
        while process.poll() is None:
            follower.follow()
            if patience and follower.silent > patience:
                return False
            look(process.pid)
            time.sleep(POLL_SECONDS)
        return True
    finally:
        _end(process)
        follower.follow()


def _end(process: Process) -> None:
    """Stop the child's whole process group: first politely, so that training is saved, then for good."""
    if process.poll() is None:
        _signal(process.pid, signal.SIGTERM)
        try:
            process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            pass
        finally:  # also at a second Ctrl-C, which ends the grace
            _signal(process.pid, signal.SIGKILL)
            process.wait()
    else:
        _signal(process.pid, signal.SIGKILL)  # helpers it may have left behind


def _signal(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
