"""What is asked of the machine."""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from attar import machine
from attar.errors import BadInput
from attar.suite import Suite

# A driver with two devices of different names.
DRIVER = """
#include <stdio.h>
int cuInit(unsigned flags) { return flags; }
int cuDeviceGet(int *device, int ordinal) { *device = 40 + ordinal; return ordinal < 2 ? 0 : 101; }
int cuDeviceGetName(char *name, int size, int device) { snprintf(name, size, "Some GPU %d", device - 40); return 0; }
"""

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


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the kernel keeps no mark of a process's own")
def test_the_memory_of_whoever_started_a_process_is_no_part_of_its_own() -> None:
    parent = "from attar import machine; import subprocess, sys; held = b'1' * (400 << 20); "
    parent += "subprocess.run([sys.executable, '-c', 'from attar import machine; print(machine.peak_memory(\"cpu\"))'])"
    done = subprocess.run([sys.executable, "-c", parent], capture_output=True, text=True, check=True)
    assert 0 < int(done.stdout) < 200 << 20


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NVIDIA's, as far as it is asked for names."""
    source = tmp_path / "driver.c"
    source.write_text(DRIVER)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(tmp_path / "libcuda.so.1"), str(source)], check=True)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    machine.gpu_name.cache_clear()


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler to make a driver with")
def test_speed_is_known_by_what_computes_it(driver: None) -> None:
    """The evaluation of a GPU is not that of another, whatever the CPU beside it; without speed, any is."""
    suites = {speed: Suite(speed=speed) for speed in (True, False)}
    places = [machine.measuring(device, "bfloat16", 2, True) for device in ("cpu", "cuda", "cuda:0", "cuda:1")]
    assert [place["processor"] for place in places] == [machine.cpu_name(), *["Some GPU 0"] * 2, "Some GPU 1"]
    cpu, first, same, second = (suites[True].fingerprint({}, place) for place in places)
    assert first == same and len({cpu, first, second}) == 3
    quality = [
        machine.measuring(device, "bfloat16", threads, False) for device, threads in (("cuda", 2), ("cuda:1", 4))
    ]
    assert quality == [{"device": "cuda", "dtype": "bfloat16"}] * 2
    with pytest.raises(BadInput, match=r"device='cuda:7': NVIDIA's driver does not tell its name \(.* error 101\)"):
        machine.gpu_name("cuda:7")


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler to make a driver with")
def test_a_timed_evaluation_on_a_cpu_is_known_by_how_memory_is_taken_and_no_other_is(driver: None) -> None:
    timed = {"device": "cpu", "dtype": "float32", "threads": 2, "processor": machine.cpu_name()}
    assert machine.measuring("cpu", "float32", 2, timed=True) == timed | {"memory": machine.MEMORY}
    on_gpu = {"device": "cuda", "dtype": "float32", "threads": 2, "processor": "Some GPU 0"}
    assert machine.measuring("cuda", "float32", 2, timed=True) == on_gpu
    assert machine.measuring("cpu", "float32", 2, timed=False) == {"device": "cpu", "dtype": "float32"}


@pytest.mark.skipif(bool(machine.gpu_count()), reason="there is a driver")
def test_without_a_driver_a_gpu_has_no_name() -> None:
    machine.gpu_name.cache_clear()
    with pytest.raises(BadInput, match=r"driver does not tell its name .*libcuda.*; use device=cpu"):
        machine.gpu_name("cuda")
