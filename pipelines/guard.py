"""Runs a command and ends all that it started: when it ends, however that happens, and when its own parent ends.

    python -m pipelines.guard PARENT COMMAND…

``PARENT`` is the pid of the process to end with, or 0. A worker that is killed leaves its flows running, and they
their stages: all of them become children of the guard, which asks them to end, waits, and then insists. The
temporary files of the command lie in a folder of the guard, and go with it. The guard holds a lock in that folder, so
that others tell the folder of a dead guard also where they do not see its process, as in another container.
"""

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import FrameType

import psutil

from attar.machine import adopt_orphans, die_with_parent
from pipelines import process

GRACE_SECONDS = 40.0  # for the command: longer than what it gives its own flows
REST_SECONDS = 25.0  # for what it left behind: longer than what a flow gives its stage
POLL_SECONDS = 0.1
PREFIX = "attar-guard-"  # of its folder
DRAFT = ".attar-guard-"  # of the same folder until its lock is held
STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def arguments(parent: int, command: list[str]) -> list[str]:
    """How to start ``command`` under a guard that ends with the process ``parent``."""
    return [sys.executable, "-P", "-m", "pipelines.guard", str(parent), *command]


def worker(pool: str) -> list[str]:
    """The command of a worker, to be guarded."""
    return [sys.executable, "-P", "-m", "pipelines.worker", pool]


class Guard:
    """One guarded command: the first signal asks it to end, the second one ends it, as does the end of the grace."""

    def __init__(self, command: list[str], temporary: str) -> None:
        self._asked = False
        self._pid = 0
        for number in STOPS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
                signal.signal(number, self._stop)
        signal.signal(signal.SIGALRM, self._stop)
        started = subprocess.Popen(
            command,
            env={**os.environ, "TMPDIR": temporary},
            start_new_session=True,  # the terminal's Ctrl-C comes to the guard alone
            preexec_fn=partial(die_with_parent, os.getpid()),
        )
        self._process = started
        self._pid = started.pid
        if self._asked:  # while it was being started
            os.kill(self._pid, signal.SIGTERM)

    def wait(self) -> int:
        """The command's exit code. Orphans that end meanwhile are buried."""
        while True:
            pid, status = os.waitpid(-1, 0)
            if pid == self._pid:
                self._pid = 0
                signal.setitimer(signal.ITIMER_REAL, 0)
                self._process.returncode = os.waitstatus_to_exitcode(status)
                return self._process.returncode

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self._pid:
            # By pid: Popen's own way would bury the process, and wait() would never hear of it.
            with suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL if self._asked else signal.SIGTERM)
        if not self._asked:
            signal.setitimer(signal.ITIMER_REAL, GRACE_SECONDS)
        self._asked = True


def end_rest() -> None:
    """End what is left below this process: its own children are told that their parent is gone, and end theirs."""
    deadline = time.monotonic() + REST_SECONDS
    asked: set[int] = set()
    while children := _children():
        for child in children:
            with suppress(psutil.NoSuchProcess):
                if time.monotonic() > deadline:
                    child.kill()
                elif child.pid not in asked:
                    asked.add(child.pid)
                    child.send_signal(signal.SIGHUP)
        time.sleep(POLL_SECONDS)


def _children() -> list[psutil.Process]:
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            continue
    return list(psutil.Process().children())


def sweep() -> None:
    """Remove the folders of guards that were killed themselves."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):
            found = folder.lstat()
            if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not process.alive(folder):
                shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _temporary() -> Iterator[Path]:
    """A folder that exists under its name only while this process lives and holds its lock."""
    draft = Path(tempfile.mkdtemp(prefix=DRAFT))
    process.hold(draft)
    folder = draft.with_name(PREFIX + draft.name.removeprefix(DRAFT))
    draft.rename(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main(parent: int, command: list[str]) -> int:
    """Run the command; its exit code, or 128 and the signal that ended it, as a shell says it."""
    adopt_orphans()
    sweep()
    if parent:
        die_with_parent(parent, signal.SIGTERM)
    with _temporary() as temporary:
        code = Guard(command, str(temporary)).wait()
        end_rest()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
