"""What is asked of the machine."""

import os
import platform
import subprocess
import sys

import pytest

# Blocks of 8 MiB, every other one freed: how much of these goes back to the system?
FREE = """
import psutil, torch
from attar import machine
torch.zeros(31 << 20, dtype=torch.uint8)  # from here on glibc keeps what is smaller
{call}
blocks = [torch.ones(8 << 20, dtype=torch.uint8) for _ in range(40)]
full = psutil.Process().memory_info().rss
del blocks[::2]
print((full - psutil.Process().memory_info().rss) >> 20)
"""


def gone(call: str) -> int:
    """MiB of 160 that are resident no more, by the C library's own rules: nobody's settings of it are taken over."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("GLIBC_TUNABLES", "MALLOC_"))}
    done = subprocess.run(
        [sys.executable, "-c", FREE.format(call=call)], env=environment, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no such setting")
def test_large_blocks_between_others_go_back_when_they_are_freed() -> None:
    assert gone("") < 80
    assert gone("machine.give_back_large_blocks()") > 150
