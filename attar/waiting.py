"""Locks on files that say who holds them: who waits says for whom, and the kernel frees what the dead held."""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from attar.errors import Cancelled

POLL_SECONDS = 0.1
UNTOLD = 3  # tries before a wait is worth a word: a sweep holds a lock for a moment
LONGEST_NAME = 200  # bytes


@dataclass(frozen=True)
class Waiter:
    """Who asks for locks: the name that others read meanwhile, how a wait is told, and what ends it."""

    name: str = ""  # by default that of the process
    say: Callable[[str], None] = lambda text: None  # hears for whom it waits, and "" when the wait is over
    cancelled: Callable[[], bool] = lambda: False


ANYBODY = Waiter()


@contextmanager
def hold(path: Path, what: str, waiter: Waiter = ANYBODY, wait: bool = True, shared: bool = False) -> Iterator[bool]:
    """Hold the lock ``path`` for as long as the block lasts; yields whether it is held.

    Args:
        what: what the lock stands for, as a waiting process calls it.
        wait: without it somebody else's lock is left alone, and the block runs without.
        shared: with others who share it.

    Raises:
        Cancelled: the waiter was cancelled while it waited.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        how = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        held = _try(handle, how)
        if wait and not held:
            _await(handle, how, what, waiter)
            held = True
        if not held:
            yield False
            return
        _sign(handle, waiter.name or f"process {os.getpid()}")
        try:
            yield True
        finally:
            _sign(handle, "")
            fcntl.flock(handle, fcntl.LOCK_UN)  # also for a forked helper that lives on with a copy of the handle
    finally:
        os.close(handle)


def _await(handle: int, how: int, what: str, waiter: Waiter) -> None:
    """Polls, since a process that waits inside the kernel can neither look whether it is cancelled nor speak."""
    told, tries = "", 1
    while not _try(handle, how):
        if waiter.cancelled():
            raise Cancelled(f"cancelled while waiting for {what}")
        text = f"waiting for {what}: {_signed(handle)} holds it"
        if tries >= UNTOLD and text != told:
            waiter.say(text)
            told = text
        tries += 1
        time.sleep(POLL_SECONDS)
    if told:
        waiter.say("")


def _try(handle: int, how: int) -> bool:
    try:
        fcntl.flock(handle, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _sign(handle: int, name: str) -> None:
    with suppress(OSError):  # a full disk: the lock holds without a name
        os.ftruncate(handle, 0)
        os.pwrite(handle, name.encode()[:LONGEST_NAME], 0)


def _signed(handle: int) -> str:
    name = os.pread(handle, LONGEST_NAME, 0).decode(errors="replace")
    return "".join(letter for letter in name if letter.isprintable()) or "another process"
