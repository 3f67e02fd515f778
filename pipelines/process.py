"""Names for processes that no later process can have, so that the dead can be told from the living."""

import os
import platform
from pathlib import Path

import psutil


def this_process() -> str:
    """Identity of this process: host, pid and start."""
    return f"{platform.node()}/{os.getpid()}/{_start(os.getpid())}"


def alive(process: str) -> bool:
    """Whether the process of an identity still runs; on another machine that is not known, so yes."""
    try:
        host, pid, started = process.rsplit("/", 2)
        return host != platform.node() or _start(int(pid)) == started
    except (ValueError, OSError, psutil.Error):
        return False


def _start(pid: int) -> str:
    """When a process started, by a clock that nobody sets: boot and ticks since then; elsewhere than Linux, seconds."""
    stat = Path(f"/proc/{pid}/stat")
    boot = Path("/proc/sys/kernel/random/boot_id")
    if boot.is_file():
        ticks = stat.read_text().rpartition(")")[2].split()[19]
        return f"{boot.read_text().strip()}.{ticks}"
    return f"{psutil.Process(pid).create_time():.0f}"
