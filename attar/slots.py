"""One processor, or one GPU, serves one job at a time across all runs of one user and one temporary folder.

A slot is a lock in the folder of ``ATTAR_SLOTS``, by default one of the user's own in the temporary folder: runs of
other users, or with another ``TMPDIR``, wait for one another only where ``ATTAR_SLOTS`` names the same folder to them.
Whoever takes both takes the lock of its artifact first and the slot after, nobody waits for an artifact while it holds
a slot, and nobody waits for a slot while it holds a text: so nobody waits in a circle.
"""

import os
import re
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType

from attar.errors import BadInput
from attar.waiting import ANYBODY, Waiter, hold

FOLDER = "ATTAR_SLOTS"


class Slot:
    """A job's turn on a device: ``with Slot("cuda:1"): …`` waits until nobody else computes there."""

    def __init__(self, device: str, waiter: Waiter = ANYBODY) -> None:
        self.waiter = waiter
        name, self.what = _device(device)
        self.path = folder() / name
        self._held = ExitStack()

    def __enter__(self) -> "Slot":
        try:
            self._held.enter_context(hold(self.path, self.what, self.waiter))
        except OSError as error:
            fault = f"the slot {self.path} cannot be locked ({error.strerror})"
            raise BadInput(f"{fault}; remove it, or name another folder in {FOLDER}") from None
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._held.close()

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Let others compute for as long as the block lasts, then wait for the next turn."""
        self._held.close()
        yield
        self.__enter__()


def folder() -> Path:
    """Where the slots lie. Raises :class:`BadInput` when that is no folder that may be trusted or written."""
    given = os.environ.get(FOLDER)
    place = Path(given).expanduser() if given else Path(tempfile.gettempdir()) / f"attar-slots-{os.getuid()}"
    try:
        place.mkdir(mode=0o700, parents=bool(given), exist_ok=True)
        found = place.lstat()
    except OSError as error:
        raise BadInput(f"the folder of slots {place} cannot be made ({error.strerror}); name one in {FOLDER}") from None
    own = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077
    if not given and not own:  # others can write to the temporary folder
        raise BadInput(
            f"{place} is not a folder that only you can enter, so that others could hold up your runs; remove it, or "
            f"name another folder in {FOLDER}"
        )
    return place.absolute()


def _device(device: str) -> tuple[str, str]:
    """Name of a device's slot, and what a waiting process calls the device.

    A GPU goes by its UUID: its number depends on what ``CUDA_VISIBLE_DEVICES`` hides from a process.
    """
    if not device.startswith("cuda"):
        return "cpu", "the CPU"
    import torch

    found = torch.cuda.get_device_properties(torch.device(device))
    return f"gpu-{re.sub(r'[^0-9A-Za-z-]', '-', str(found.uuid))}", f"the GPU {device} ({found.name})"
