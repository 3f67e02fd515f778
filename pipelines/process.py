"""Tells the living from the dead: the process of a run holds a lock in the run's folder for as long as it lives.

The kernel frees it, however the process ends; so it does not matter under which name the machine goes (a container
that is made again has another one), and no later process is taken for an earlier one. A home on a network file system
needs one that passes ``flock`` on to its server, as NFS on Linux does unless it is mounted with ``local_lock``: one
that refuses locks begins no run, and one that keeps them to each machine takes the runs of another machine for dead.
"""

import fcntl
import os
import platform
import time
from pathlib import Path

import psutil

from attar.errors import BadInput

LOCK = "alive.lock"
POLL_SECONDS = 0.02
TRIES = 250  # who asks holds the lock for a moment

_held: dict[Path, int] = {}  # run's folder → handle of its lock


def hold(folder: Path, taken: str = "") -> None:
    """Be the process of a run, until this process ends.

    Args:
        folder: the run's; of what else one process at a time may do, a folder of that.
        taken: what is said when another process is; by default that it carries out the run.

    Raises:
        BadInput: another process is, or the file system knows no locks.
    """
    folder = folder.absolute()
    if folder in _held:
        return
    handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    for _ in range(TRIES):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(POLL_SECONDS)
        except OSError as error:
            os.close(handle)
            raise BadInput(
                f"{folder / LOCK} cannot be locked ({error.strerror}), and a home needs a file system with locks; "
                "choose another folder with --home"
            ) from None
        else:
            _held[folder] = handle
            return
    os.close(handle)
    carried = f"another process carries out the run {folder.name}; start a new one, or wait until it has ended"
    raise BadInput(taken or carried)


def alive(folder: Path) -> bool:
    """Whether the process of a run still lives."""
    try:
        handle = os.open(folder / LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:  # it has not begun, or is of a time before there were locks
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: who asks at the same time is not the run
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def _forget() -> None:
    """In a fork: what goes on when the run's process is dead must not keep its lock."""
    while _held:
        os.close(_held.popitem()[1])  # closed and not unlocked, which would unlock it for the run as well


os.register_at_fork(after_in_child=_forget)


def this_process() -> str:
    """Identity of this process, which no later one can have: host, pid and start."""
    return f"{platform.node()}/{os.getpid()}/{_start(os.getpid())}"


def _start(pid: int) -> str:
    """When a process started, by a clock that nobody sets: boot and ticks since then; elsewhere than Linux, seconds."""
    stat = Path(f"/proc/{pid}/stat")
    boot = Path("/proc/sys/kernel/random/boot_id")
    if boot.is_file():
        ticks = stat.read_text().rpartition(")")[2].split()[19]
        return f"{boot.read_text().strip()}.{ticks}"
    return f"{psutil.Process(pid).create_time():.0f}"
