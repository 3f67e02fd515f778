"""The guard: nothing that a command started outlives it, whoever is killed, and no temporary file either."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from pipelines import guard

# Starts a process in a session of its own, as a worker does with a flow; says both pids, and where temporary files go.
COMMAND = """
import os, pathlib, signal, subprocess, sys, tempfile, time
deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
child = subprocess.Popen([sys.executable, "-c", {child}], start_new_session=True)
tempfile.mkdtemp()
target = pathlib.Path(sys.argv[1])
(target / "draft").write_text(f"{{os.getpid()}} {{child.pid}} {{tempfile.gettempdir()}}")
(target / "draft").rename(target / "said")
{then}
"""


class Guarded:
    """A guard with its command and what that started."""

    def __init__(self, folder: Path, then: str, child: str = "'import time; time.sleep(600)'", parent: int = 0) -> None:
        code = COMMAND.format(child=child, then=then)
        command = guard.arguments(parent or os.getpid(), [sys.executable, "-c", code, str(folder)])
        self.process = subprocess.Popen(command)
        wait_for(lambda: (folder / "said").is_file() or self.process.poll() is not None)
        command_pid, child_pid, temporary = (folder / "said").read_text().split(maxsplit=2)
        self.command, self.child, self.temporary = int(command_pid), int(child_pid), Path(temporary)

    def is_gone(self) -> bool:
        return not (runs(self.command) or runs(self.child) or self.temporary.exists())


def runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_for(done: Callable[[], bool]) -> None:
    while not done():
        time.sleep(0.02)


def test_what_a_command_leaves_behind_ends_with_it(tmp_path: Path) -> None:
    guarded = Guarded(tmp_path, "sys.exit(7)")
    assert guarded.process.wait() == 7
    assert guarded.is_gone()


def test_a_killed_command_takes_its_processes_and_files_along(tmp_path: Path) -> None:
    guarded = Guarded(tmp_path, "time.sleep(600)")
    os.kill(guarded.command, signal.SIGKILL)
    assert guarded.process.wait() == 128 + signal.SIGKILL
    assert guarded.is_gone()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda number: number.name)
def test_a_signal_is_passed_on_as_a_request_to_end(tmp_path: Path, number: signal.Signals) -> None:
    ending = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))\nwhile True: time.sleep(0.05)"
    guarded = Guarded(tmp_path, ending)
    guarded.process.send_signal(number)
    assert guarded.process.wait() in (3, 128 + signal.SIGTERM)  # the latter before it listened
    assert guarded.is_gone()


def test_who_does_not_listen_is_killed_at_the_second_signal(tmp_path: Path) -> None:
    guarded = Guarded(
        tmp_path, "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n(target / 'deaf').touch()\ntime.sleep(600)"
    )
    wait_for((tmp_path / "deaf").is_file)
    guarded.process.terminate()
    time.sleep(0.2)  # else the two signals may become one
    guarded.process.terminate()
    assert guarded.process.wait() == 128 + signal.SIGKILL
    assert guarded.is_gone()


def test_the_folder_of_a_killed_guard_is_removed_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "tmp"
    place.mkdir()
    monkeypatch.setenv("TMPDIR", str(place))
    monkeypatch.setattr("tempfile.tempdir", str(place))
    guarded = Guarded(tmp_path, "time.sleep(600)")
    # Not by its process: its name says nothing of one, and who shares the folder may not see it.
    (place / "other").mkdir()
    (place / f"{guard.PREFIX}link").symlink_to(place / "other")
    kept = sorted([guarded.temporary, place / "other", place / f"{guard.PREFIX}link"])
    assert sorted(place.iterdir()) == kept
    guard.sweep()
    assert sorted(place.iterdir()) == kept and list(guarded.temporary.iterdir())
    guarded.process.kill()
    guarded.process.wait()
    wait_for(lambda: not runs(guarded.command))
    assert guarded.temporary.exists()
    guard.sweep()
    assert sorted(place.iterdir()) == [folder for folder in kept if folder != guarded.temporary]
    os.kill(guarded.child, signal.SIGKILL)  # it had nobody left to end it


def test_who_is_deaf_among_the_rest_is_killed_in_the_end(tmp_path: Path) -> None:
    deaf = "import pathlib, signal, sys, time; signal.signal(signal.SIGHUP, signal.SIG_IGN)"
    deaf += "; pathlib.Path(sys.argv[1]).touch(); time.sleep(600)"
    start = "import pathlib, subprocess, sys, time; child = subprocess.Popen([sys.executable, '-c', *sys.argv[1:]])"
    start += "\nwhile not pathlib.Path(sys.argv[2]).exists(): time.sleep(0.02)\nprint(child.pid, flush=True)"
    code = "import sys; from pipelines import guard; guard.REST_SECONDS = 0.5; guard.main(0, sys.argv[1:])"
    command = [sys.executable, "-c", code, sys.executable, "-c", start, deaf, str(tmp_path / "deaf")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert not runs(int(done.stdout))


def test_all_ends_with_the_process_that_asked_for_the_guard(tmp_path: Path) -> None:
    code = (
        "import os, subprocess, sys, time\nfrom pipelines import guard\n"
        "subprocess.Popen(guard.arguments(os.getpid(), sys.argv[1:]))\ntime.sleep(600)"
    )
    inner = COMMAND.format(child="'import time; time.sleep(600)'", then="time.sleep(600)")
    parent = subprocess.Popen([sys.executable, "-c", code, sys.executable, "-c", inner, str(tmp_path)])
    wait_for((tmp_path / "said").is_file)
    command, child, temporary = (tmp_path / "said").read_text().split(maxsplit=2)
    parent.kill()
    parent.wait()
    wait_for(lambda: not (runs(int(command)) or runs(int(child)) or Path(temporary).exists()))
