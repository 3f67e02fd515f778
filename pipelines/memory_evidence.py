"""Tells whether a process was killed because memory ran out: by the kernel's own count, or by what it held last."""

from pathlib import Path

from attar import machine

NEAR = 0.85  # of all memory there is, from which on a killed process is taken to have died of it
GROUPS = Path("/sys/fs/cgroup")
HUGE = 1 << 60  # what the first version of cgroups says where there is no limit


class MemoryEvidence:
    """Looks at a process while it runs; :meth:`found` says afterwards what speaks for want of memory."""

    def __init__(self) -> None:
        self._kills = _kills()
        self._limit = _limit()
        self._peak = 0

    def look(self, pid: int) -> None:
        """Note how much the process holds."""
        self._peak = max(self._peak, _peak(pid))

    def found(self) -> str:
        """The evidence as half a sentence, empty where there is none."""
        if _kills() > self._kills:
            return "the kernel counts a process killed for want of memory"
        if self._peak > NEAR * self._limit:
            return f"it held {self._peak / 1e9:.1f} of {self._limit / 1e9:.1f} GB"
        return ""


def _peak(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:  # gone, or another system than Linux
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


def _kills() -> int:
    """Processes killed for want of memory so far: in this control group, or on this machine where groups do not say."""
    for group in _groups():
        for name in ("memory.events", "memory.oom_control"):
            found = _number(group / name, "oom_kill")
            if found is not None:
                return found
    return _number(Path("/proc/vmstat"), "oom_kill") or 0


def _limit() -> int:
    limits = [machine.memory_bytes()]
    for group in _groups():
        for name in ("memory.max", "memory.limit_in_bytes"):
            try:
                text = (group / name).read_text().strip()
            except OSError:
                continue
            if text.isdigit() and int(text) < HUGE:
                limits.append(int(text))
    return min(limits)


def _groups() -> list[Path]:
    """Folders of this process's memory group under both versions of cgroups, and what a container sees as its root."""
    try:
        lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    except OSError:
        return []
    found = []
    for _, controllers, path in lines:
        if controllers in ("", "memory"):
            root = GROUPS / controllers
            found += [root / path.lstrip("/"), root]
    return found


def _number(file: Path, key: str) -> int | None:
    try:
        words = [line.split() for line in file.read_text().splitlines()]
    except OSError:
        return None
    return next((int(line[1]) for line in words if len(line) == 2 and line[0] == key and line[1].isdigit()), None)
