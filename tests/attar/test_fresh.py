"""Fresh processes: forked or spawned, they are the same to whoever starts them, and none is left behind."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from attar import fresh

JOB = """
import json, os, sys, threading, time

def start(what, *more):
    if what == "tell":
        told = {"environment": dict(os.environ), "session": os.getsid(0), "pid": os.getpid(), "folder": os.getcwd(),
                "threads": threading.active_count(), "loaded": "json" in sys.modules, "parent": os.getppid()}
        print(json.dumps(told))
    if what == "exit":
        sys.exit(int(more[0]))
    if what == "raise":
        raise ValueError("no good")
    if what == "die":
        os.kill(os.getpid(), int(more[0]))
    if what == "sleep":
        print("asleep", flush=True)
        time.sleep(1000)
    if what == "nest":
        from attar import fresh
        with open(more[0], "wb") as output:
            process = fresh.start("a_job", ["sleep"], os.environ, output)
            print(process.pid, flush=True)
            return process.wait()
    return 0
"""
ENVIRONMENT = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"}


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "a_job.py").write_text(JOB)
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    return ENVIRONMENT | {"PYTHONPATH": path}


@pytest.fixture
def prepared(environment: dict[str, str]) -> Iterator[dict[str, str]]:
    """An environment whose jobs are forked, from a process that has loaded next to nothing."""
    before = dict(fresh._own)
    fresh.prepare(environment, ["json"])
    yield environment
    for name in set(fresh._own) - set(before):
        fresh._own.pop(name).end()


@pytest.fixture(params=["forked", "spawned"])
def either(request: pytest.FixtureRequest) -> dict[str, str]:
    found: dict[str, str] = request.getfixturevalue("prepared" if request.param == "forked" else "environment")
    return found


def run(environment: dict[str, str], folder: Path, *arguments: str) -> tuple[fresh.Process, str]:
    """A job's end and what it printed."""
    with open(folder / "out.txt", "wb") as output:
        process = fresh.start("a_job", arguments, environment, output)
        process.wait()
    return process, (folder / "out.txt").read_text()


def until(holds: Callable[[], bool]) -> None:
    while not holds():
        time.sleep(0.02)


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_job_has_its_own_environment_session_and_output(
    either: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_SECRET", "of this process")
    process, said = run(either | {"ATTAR_ONE": "1"}, tmp_path, "tell")
    told = json.loads(said)
    assert process.returncode == 0
    assert told["environment"].items() >= (either | {"ATTAR_ONE": "1"}).items()
    assert "A_SECRET" not in told["environment"]
    assert told["pid"] == told["session"] == process.pid
    assert (told["threads"], told["folder"]) == (1, os.getcwd())


def test_forked_means_forked(prepared: dict[str, str], tmp_path: Path) -> None:
    parents = {json.loads(run(prepared, tmp_path, "tell")[1])["parent"] for _ in range(2)}
    assert len(parents) == 1 and parents != {os.getpid()}


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(("exit", "3"), 3), (("exit", "0"), 0), (("raise",), 1), (("die", "9"), -9), (("die", "11"), -11)],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else str(value),
)
def test_how_a_job_ended_comes_back(
    either: dict[str, str], tmp_path: Path, arguments: tuple[str, ...], code: int
) -> None:
    process, said = run(either, tmp_path, *arguments)
    assert process.returncode == process.poll() == process.wait() == code
    assert ("ValueError: no good" in said) == (arguments == ("raise",))


def test_jobs_run_beside_each_other_and_can_be_waited_for(either: dict[str, str], tmp_path: Path) -> None:
    with open(tmp_path / "out.txt", "wb") as output:
        sleeper = fresh.start("a_job", ["sleep"], either, output)
        other, _ = run(either, tmp_path, "exit", "5")
        assert other.returncode == 5
        assert sleeper.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            sleeper.wait(0.05)
        os.killpg(sleeper.pid, signal.SIGKILL)
        assert sleeper.wait() == -signal.SIGKILL


def test_a_job_may_start_a_fresh_one_which_ends_with_it(either: dict[str, str], tmp_path: Path) -> None:
    with open(tmp_path / "out.txt", "wb") as output:
        outer = fresh.start("a_job", ["nest", str(tmp_path / "inner.txt")], either, output)
        until(lambda: (tmp_path / "inner.txt").exists() and "asleep" in (tmp_path / "inner.txt").read_text())
        inner = int((tmp_path / "out.txt").read_text())
        os.kill(outer.pid, signal.SIGKILL)
        assert outer.wait() == -signal.SIGKILL
        until(lambda: gone(inner))


def test_a_killed_zygote_takes_its_jobs_along_and_is_replaced(prepared: dict[str, str], tmp_path: Path) -> None:
    with open(tmp_path / "out.txt", "wb") as output:
        job = fresh.start("a_job", ["sleep"], prepared, output)
        fresh._own[fresh._key(prepared)].process.kill()
        assert job.wait() == -signal.SIGKILL
        until(lambda: gone(job.pid))
    assert run(prepared, tmp_path, "exit", "4")[0].returncode == 4
    assert fresh._own[fresh._key(prepared)].alive()


CLIENT = """
import os, sys
from attar import fresh
if sys.argv[1] == "forked":
    fresh.prepare(os.environ, ["json"])
with open(sys.argv[2], "wb") as output:
    job = fresh.start("a_job", ["sleep"], os.environ, output)
    print(job.pid, flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("way", ["forked", "spawned"])
def test_nothing_outlives_a_killed_client(environment: dict[str, str], tmp_path: Path, way: str) -> None:
    command = [sys.executable, "-c", CLIENT, way, str(tmp_path / "out.txt")]
    client = subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    assert client.stdout is not None
    job = int(client.stdout.readline())
    family = [process.pid for process in psutil.Process(client.pid).children(recursive=True)]
    assert job in family
    client.kill()
    client.communicate()
    until(lambda: all(gone(pid) for pid in family))
