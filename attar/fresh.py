"""Starts a fresh process for a job: a fork of one that has loaded the libraries already, or an ordinary new one.

``prepare`` starts the process that forks (see ``zygote``); ``start`` then takes a tenth of the time. Without it, or
where that process died, every job is spawned. A job started here may start jobs of its own in the same way.
"""

import atexit
import json
import os
import select
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import IO, Protocol
from weakref import WeakSet

MATERIAL = (
    "torch",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.llama.modeling_llama",
    "safetensors.torch",
    "attar.layerwise",
    "attar.model",
    "attar.packed",
    "attar.training",
)
# Prefixes of variables that are read when a process begins or a library is loaded, and not again.
READ_BY_LIBRARIES = (
    *("LD_", "GLIBC_", "MALLOC_", "PYTHON", "PATH", "HOME", "XDG_", "LANG", "LC_"),
    *("OMP_", "MKL_", "OPENBLAS_", "GOMP_", "KMP_", "ATEN_", "TORCH", "CUDA", "CUBLAS_", "NVIDIA_"),
    *("HF_", "HUGGINGFACE_", "TRANSFORMERS_", "TOKENIZERS_", "ACCELERATE_"),
)
MOST = 2  # processes that fork, each with the libraries in its memory


class Process(Protocol):
    """A process that leads its own group, as ``subprocess`` gives it; a negative code is that of a signal."""

    @property
    def pid(self) -> int: ...
    @property
    def returncode(self) -> int | None: ...
    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...


class _Forked:
    """A job of a zygote."""

    def __init__(self, answers: socket.socket, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._answers = answers

    def poll(self) -> int | None:
        return self._look(0)

    def wait(self, timeout: float | None = None) -> int:
        code = self._look(None if timeout is None else round(1000 * timeout))
        if code is None:
            raise subprocess.TimeoutExpired("a forked job", timeout or 0)
        return code

    def _look(self, milliseconds: int | None) -> int | None:
        if self.returncode is None and _readable(self._answers, milliseconds):
            answer = _received(self._answers)
            # No answer: the process that forks was killed, and the kernel has killed its jobs with it.
            self.returncode = answer["code"] if answer else -9
            self._answers.close()
        return self.returncode


class _Zygote:
    """The process that forks, seen from the one that started it."""

    def __init__(self, environment: Mapping[str, str], modules: Sequence[str]) -> None:
        self.modules = tuple(modules)
        self.jobs: WeakSet[_Forked] = WeakSet()
        requests, self.ask = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        lifeline, self._lifeline = os.pipe()
        handles = [requests.fileno(), self.ask.fileno(), lifeline]
        arguments = [*map(str, handles), *modules]
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-W", "ignore", "-m", "attar.zygote", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=dict(environment),
            pass_fds=handles,
            start_new_session=True,
        )
        requests.close()
        os.close(lifeline)

    def alive(self) -> bool:
        return self.process.poll() is None

    def busy(self) -> bool:
        return any(job.poll() is None for job in self.jobs)

    def end(self) -> None:
        """Its jobs end with it."""
        with suppress(OSError):
            os.close(self._lifeline)
        self.ask.close()
        self.process.wait()


_own: dict[str, _Zygote] = {}
_inherited: socket.socket | None = None


def prepare(environment: Mapping[str, str], modules: Sequence[str] = MATERIAL) -> None:
    """Start loading in the background, for jobs with this environment; returns at once.

    Jobs whose environment differs in a variable that a library may read when it is loaded need another such process;
    of those, the last ones are kept.
    """
    if sys.platform != "linux" or _inherited is not None:
        return
    name = _key(environment)
    if name in _own and _own[name].alive():
        return
    if name in _own:
        _own.pop(name).end()
    for old in [key for key, zygote in _own.items() if not zygote.busy()][: len(_own) - MOST + 1]:
        _own.pop(old).end()
    _own[name] = _Zygote(environment, modules)


def start(
    module: str,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    output: IO[bytes],
    fork: bool = True,
) -> Process:
    """Run ``start(*arguments)`` of a module in a fresh process of its own session; its result is the exit code.

    Args:
        module: an importable module with a function ``start`` that takes texts and returns an exit code.
        environment: all of the process's environment.
        output: receives what it prints.
        fork: without it the process is always spawned, as one that uses a GPU must be.

    Keep what is returned until the job has ended: a forked job is killed when nobody waits for it any more.
    """
    forked = _fork(module, arguments, environment, output) if fork else None
    if forked is not None:
        return forked
    # -P: a folder named "stages" or "json.py" where the user stands must not be imported.
    return subprocess.Popen(
        [sys.executable, "-P", "-W", "ignore", "-c", _SPAWNED, str(os.getpid()), module, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        env=dict(environment),
        start_new_session=True,
    )


_SPAWNED = """
import importlib, sys
from attar.machine import die_with_parent
die_with_parent(int(sys.argv[1]))
sys.exit(importlib.import_module(sys.argv[2]).start(*sys.argv[3:]))
"""


def inherit(ask: int) -> None:
    """Called in a job: ask the same zygote as the process that started it."""
    global _inherited
    _own.clear()
    _inherited = socket.socket(fileno=ask)


def end() -> None:
    """End the processes that fork, and whatever they have forked."""
    while _own:
        _own.popitem()[1].end()


atexit.register(end)


def _fork(module: str, arguments: Sequence[str], environment: Mapping[str, str], output: IO[bytes]) -> Process | None:
    """A job of a zygote; None where there is none, or where it does not answer any more."""
    found = _own.get(_key(environment))
    if found is not None and not found.alive():  # killed from outside
        prepare(environment, found.modules)
        found = _own[_key(environment)]
    ask = found.ask if found is not None else _inherited
    if ask is None:
        return None
    request = {
        "module": module,
        "arguments": list(arguments),
        "environment": dict(environment),
        "folder": os.getcwd(),
    }
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        socket.send_fds(ask, [json.dumps(request).encode()], [theirs.fileno(), output.fileno()])
        theirs.close()
        answer = _received(mine)  # nothing, where it died before it took the request
    except OSError:
        answer = {}
    finally:
        theirs.close()
    if not answer:
        mine.close()
        return None
    job = _Forked(mine, answer["pid"])
    if found is not None:
        found.jobs.add(job)
    return job


def _received(answers: socket.socket) -> dict[str, int]:
    try:
        message = answers.recv(4096)
    except OSError:
        message = b""
    found: dict[str, int] = json.loads(message) if message else {}
    return found


def _readable(answers: socket.socket, milliseconds: int | None) -> bool:
    poll = select.poll()
    poll.register(answers, select.POLLIN)
    return bool(poll.poll(milliseconds))


def _key(environment: Mapping[str, str]) -> str:
    """One text for environments in which the same libraries are loaded in the same way."""
    return json.dumps(
        sorted((name, value) for name, value in environment.items() if name.startswith(READ_BY_LIBRARIES))
    )
