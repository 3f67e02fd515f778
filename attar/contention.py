"""How much of the CPU time that this process asked for went to others: what was timed meanwhile is no measurement."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

TASKS = Path("/proc/self/task")
MUCH = 0.1  # above this share, times are not to be relied on


@dataclass(frozen=True)
class Account:
    """Nanoseconds that the threads of this process have run, and have waited, ready to run, while others did."""

    ran: int
    waited: int

    @classmethod
    def read(cls) -> "Account":
        """As the kernel's scheduler counts them (``schedstat``); zeros where it does not."""
        ran = waited = 0
        for thread in TASKS.glob("*/schedstat"):
            with suppress(OSError, ValueError):  # a thread may end meanwhile
                numbers = thread.read_text().split()
                ran, waited = ran + int(numbers[0]), waited + int(numbers[1])
        return cls(ran, waited)

    def lost_since(self) -> float | None:
        """Share of the CPU time wanted since then that was not got; None where the kernel does not tell."""
        now = Account.read()
        ran, waited = max(0, now.ran - self.ran), max(0, now.waited - self.waited)
        return waited / (ran + waited) if ran else None
