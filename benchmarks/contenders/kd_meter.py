"""Times every step of a training and takes the memory of the third; needs nothing but Python on Linux.

Extra memory is the peak resident size within step 3 less the resident size just before it, when weights, optimizer
state and everything the first steps leave behind are there: what a step itself needs.
"""

import gc
import json
import re
import sys
import time
from pathlib import Path
from typing import Any

MEASURED = 3  # the step, counted from 1, whose memory is taken
WARM = 3  # steps that are not timed


def job() -> dict[str, Any]:
    """What this process was told: the JSON file named on its command line."""
    told: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    return told


def resident(field: str) -> int:
    """``VmRSS`` (now) or ``VmHWM`` (highest since the last reset) of this process, in bytes."""
    found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return 1024 * int(found[1])


class Meter:
    """Call :meth:`begin` and :meth:`end` around every step, then :meth:`save`."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.losses: list[float] = []
        self.extra = 0
        self._before = 0
        self._started = 0.0

    def begin(self) -> None:
        if len(self.seconds) + 1 == MEASURED:
            gc.collect()
            Path("/proc/self/clear_refs").write_text("5")  # the highest resident size starts anew
            self._before = resident("VmRSS")
        self._started = time.perf_counter()

    def end(self, loss: float) -> None:
        self.seconds.append(time.perf_counter() - self._started)
        self.losses.append(loss)
        if len(self.seconds) == MEASURED:
            self.extra = resident("VmHWM") - self._before

    def save(self, file: str, **more: Any) -> None:
        found = {"seconds": self.seconds[WARM:], "losses": self.losses, "extra_bytes": self.extra, **more}
        Path(file).write_text(json.dumps(found))
