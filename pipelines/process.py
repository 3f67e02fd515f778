"""Names for processes that no later process can have, so that the dead can be told from the living."""

import os
import platform

import psutil


def this_process() -> str:
    """Identity of this process: host, pid and start time."""
    return f"{platform.node()}/{os.getpid()}/{psutil.Process().create_time():.0f}"


def alive(process: str) -> bool:
    """Whether the process of an identity still runs; on another machine that is not known, so yes."""
    try:
        host, pid, started = process.rsplit("/", 2)
        return host != platform.node() or f"{psutil.Process(int(pid)).create_time():.0f}" == started
    except (ValueError, psutil.Error):
        return False
