"""What machine this is: threads, dtypes, devices, versions. Torch-free unless a GPU is asked about."""

import ctypes
import os
import platform
import resource
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from attar.errors import BadInput

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
M_MMAP_THRESHOLD = -3
LARGE = 1 << 22  # bytes from which on a block counts as large
MEMORY = 1  # bump when an evaluation on a CPU, where the memory is the whole process's, would tell another memory
LIBRARIES = ("torch", "transformers", "peft", "safetensors", "tokenizers", "datasets", "numpy", "gptqmodel")


def threads() -> int:
    """Threads to compute with: the processors this process may use, or fewer if ``OMP_NUM_THREADS`` says so."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return min(found, int(asked)) if asked.isdigit() and int(asked) else found


def die_with_parent(parent: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Ask the kernel to end this process when the process ``parent``, which started it, ends; however that happens."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:  # it was gone before we asked
            os._exit(130)


def adopt_orphans() -> None:
    """Become the parent of every process below this one whose own parent ends; elsewhere than on Linux, nothing."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)


def give_back_large_blocks() -> None:
    """Let blocks of at least :data:`LARGE` bytes go back to the system when freed, from now on in this process.

    Left alone, glibc keeps freed blocks of up to 32 MiB in its heap, which live blocks between them stop from
    shrinking. Other C libraries are left alone.
    """
    allocator = ctypes.CDLL(None)
    if hasattr(allocator, "mallopt"):
        allocator.mallopt(M_MMAP_THRESHOLD, LARGE)


@cache
def cpu_flags() -> frozenset[str]:
    """Instruction sets of the processor; empty where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line for line in lines if line.startswith("flags")), "").split())


def cpu_name() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


# In a process of its own: a driver that was once asked lives on in its process, where it breaks every fork.
ASK_DRIVER = """
import ctypes, sys
driver, device, name = ctypes.CDLL("libcuda.so.1"), ctypes.c_int(), ctypes.create_string_buffer(256)
code = driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), int(sys.argv[1]))
code = code or driver.cuDeviceGetName(name, 256, device)
sys.exit(f"the driver answers with error {code}" if code else print(name.value.decode()))
"""


@cache
def gpu_name(device: str) -> str:
    """The name of a CUDA device, in the order that CUDA gives them, as its driver tells it."""
    index = device.partition(":")[2] or "0"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", ASK_DRIVER, index], capture_output=True, text=True)
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["no answer"])[-1]
        raise BadInput(f"device={device!r}: NVIDIA's driver does not tell its name ({why}); use device=cpu")
    return done.stdout.strip()


def measuring(device: str, dtype: str, threads: int, timed: bool) -> dict[str, Any]:
    """What of a machine goes into the name of an evaluation: its processor only where time is measured."""
    found: dict[str, Any] = {"device": device.partition(":")[0], "dtype": dtype}
    if timed:
        found |= {"threads": threads, "processor": gpu_name(device) if device.startswith("cuda") else cpu_name()}
        if (memory := memory_version(device)) is not None:
            found["memory"] = memory
    return found


def memory_version(device: str) -> int | None:
    """How an evaluation takes the memory in use; None of a GPU, where nothing of it has ever changed."""
    return None if device.startswith("cuda") else MEMORY


def resolve_device(asked: str) -> str:
    """``auto`` becomes the GPU where there is one; a device that is not there is a sentence."""
    kind, _, index = asked.partition(":")
    if asked == "cpu" or (kind not in ("auto", "cuda") and asked):
        if asked != "cpu":
            raise BadInput(f"device={asked!r} is not known; possible: auto, cpu, cuda, cuda:N")
        return "cpu"
    gpus = gpu_count()
    if asked == "auto":
        return "cuda" if gpus else "cpu"
    if index and not index.isdigit():
        raise BadInput(f"device={asked!r} is not known; possible: auto, cpu, cuda, cuda:N")
    if int(index or 0) >= gpus:
        raise BadInput(f"device={asked!r} does not exist: this machine has {gpus} CUDA devices; use device=cpu")
    return asked


def gpu_count() -> int:
    """CUDA devices that the driver shows and this build of torch can use, without loading torch."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return 0
    if version("torch").endswith("+cpu"):  # a GPU that this build of torch cannot use
        return 0
    devices = len(list(Path("/proc/driver/nvidia/gpus").glob("*"))) or len(list(Path("/dev").glob("nvidia[0-9]*")))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return min(devices, len(visible.split(","))) if visible else devices


def resolve_dtype(asked: str, device: str) -> str:
    """``auto`` is bf16 where the machine computes it fast, fp32 elsewhere; fp16 is refused."""
    if asked == "auto":
        fast = {"avx512_bf16", "amx_bf16", "bf16"} & cpu_flags()
        return "bfloat16" if device.startswith("cuda") or fast else "float32"
    if asked not in ("bfloat16", "float32"):
        raise BadInput(f"dtype={asked!r} is not supported; possible: auto, bfloat16, float32")
    return asked


def memory_bytes() -> int:
    """Bytes of main memory this process may get."""
    return int(psutil.virtual_memory().total)


def free_disk(folder: Path) -> int:
    """Free bytes on the file system that holds ``folder`` (or its nearest parent that exists)."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def describe(device: str, thread_count: int) -> dict[str, Any]:
    """The machine as an artifact's manifest records it."""
    facts: dict[str, Any] = {
        "device": device,
        "cpu": cpu_name(),
        "threads": thread_count,
        "memory_bytes": memory_bytes(),
        "system": platform.platform(),
        "python": platform.python_version(),
    }
    if device.startswith("cuda"):
        import torch

        facts["gpu"] = torch.cuda.get_device_name(device)
    return facts


def versions() -> dict[str, str]:
    """Full versions of the libraries that matter, as a manifest records them."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def peak_memory(device: str) -> int:
    """Highest bytes of this process so far: allocated on a GPU, resident on a CPU."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.max_memory_allocated(device))
    # Not ru_maxrss where there is the kernel's own mark: a process takes that over from the one that started it.
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
