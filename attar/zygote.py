"""A process that has loaded torch and transformers once and forks for every job: ``python -m attar.zygote``.

Loading them takes longer than most small jobs. Nothing is ever computed here and no thread is started, so that a fork
is as good as a new process. Requests come in as messages on a socket, each with two handles: where the answers go,
and where the job's output goes. A job's parent is this process, which kills a job whose asker is gone (the asker's end
of the answers is closed then) and ends with the process that started it (its lifeline is closed then).
"""

import ctypes
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import tempfile
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from attar.machine import die_with_parent

LARGEST = 1 << 20  # bytes of a request
PR_SET_NAME = 15
ARGUMENTS = (48, 49)  # fields of /proc/PID/stat: where the words of the command line begin and end in memory


class _Job:
    """A forked process and the socket on which its asker waits."""

    def __init__(self, pid: int, answers: socket.socket) -> None:
        self.pid = pid
        self.handle = os.pidfd_open(pid)
        self.answers = answers

    def close(self) -> None:
        os.close(self.handle)
        self.answers.close()


class _Server:
    """Waits for requests, for the ends of jobs, and for askers that go away."""

    def __init__(self, requests: socket.socket, ask: int, lifeline: int) -> None:
        self.requests = requests
        self.ask = ask  # the other end of ``requests``: jobs inherit it and may ask as well
        self.lifeline = lifeline
        self.jobs: list[_Job] = []

    def serve(self) -> None:
        """Until the lifeline is closed."""
        while True:
            poll = select.poll()
            poll.register(self.requests, select.POLLIN)
            poll.register(self.lifeline, select.POLLIN)
            for job in self.jobs:
                poll.register(job.handle, select.POLLIN)
                poll.register(job.answers, select.POLLIN)
            ready = {handle for handle, _ in poll.poll()}
            if self.lifeline in ready:
                for job in self.jobs:
                    _kill(job.pid)
                return
            for job in list(self.jobs):
                if job.handle in ready:
                    self._ended(job)
                elif job.answers.fileno() in ready:  # nobody ever writes there: its asker is gone
                    _kill(job.pid)
                    self._ended(job)
            if self.requests.fileno() in ready:
                self._accept()

    def _accept(self) -> None:
        message, handles, _, _ = socket.recv_fds(self.requests, LARGEST, 2)
        answers, output = socket.socket(fileno=handles[0]), handles[1]
        parent = os.getpid()
        try:
            pid = os.fork()
        except OSError:  # no room for a process: the asker hears nothing, and starts one itself
            answers.close()
            os.close(output)
            return
        if pid == 0:
            answers.detach()
            os.close(handles[0])
            _become(json.loads(message), output, parent, self)
        os.close(output)
        job = _Job(pid, answers)
        self.jobs.append(job)
        with suppress(OSError):
            answers.send(json.dumps({"pid": pid}).encode())

    def _ended(self, job: _Job) -> None:
        _, status = os.waitpid(job.pid, 0)
        with suppress(OSError):
            job.answers.send(json.dumps({"code": os.waitstatus_to_exitcode(status)}).encode())
        self.jobs.remove(job)
        job.close()


def _become(request: dict[str, Any], output: int, parent: int, server: _Server) -> NoReturn:
    """Be the job, as if started anew: own session, own environment and output, nothing of the other jobs."""
    code = 1
    try:
        die_with_parent(parent)
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for job in server.jobs:
            job.close()
        server.requests.close()
        os.close(server.lifeline)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.close(nothing)
        os.close(output)
        os.environ.clear()
        os.environ.update(request["environment"])
        os.chdir(request["folder"])
        tempfile.tempdir = None  # a library may have asked for it, in another environment
        sys.argv = [request["module"], *request["arguments"]]
        _rename(sys.argv)
        from attar import fresh

        fresh.inherit(server.ask)
        made = importlib.import_module(request["module"]).start(*request["arguments"])
        code = made if isinstance(made, int) else 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except KeyboardInterrupt:
        code = 130
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _rename(words: list[str]) -> None:
    """Show in ``ps`` what this process does, as far as the room of the old words reaches."""
    ctypes.CDLL(None).prctl(PR_SET_NAME, os.fsencode(words[0])[:15])
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    begin, end = (int(fields[number - 3]) for number in ARGUMENTS)  # two stand before the ")", counted from 1
    words = [words[0].removesuffix(".__main__"), *words[1:]]
    line = b"\0".join(map(os.fsencode, words))[: end - begin - 1]
    ctypes.memmove(begin, line.ljust(end - begin, b"\0"), end - begin)


def _kill(leader: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)
    with suppress(ProcessLookupError):  # one that has not got a group of its own yet
        os.kill(leader, signal.SIGKILL)


def main(requests: int, ask: int, lifeline: int, modules: list[str]) -> None:
    """Load, then serve."""
    for handle in (requests, ask, lifeline):
        os.set_inheritable(handle, False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal: whoever asked for jobs ends them
    for name in modules:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # the collector of a job would touch, and so copy, every page
    _Server(socket.socket(fileno=requests), ask, lifeline).serve()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
