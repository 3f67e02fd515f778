"""Children: their errors come back as errors, and none outlives its parent."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from attar.errors import BadInput, StageFailed
from attar.events import Event
from pipelines.child import events_file, run_child
from stages.spec import ImportSpec, Machine


def job(home: Path, folder: Path, spec: str = "random:llama") -> ImportSpec:
    machine = Machine(threads=1)
    return ImportSpec(home=str(home), events=str(events_file(folder)), machine=machine, fingerprint="x", spec=spec)


def child_of(pid: int) -> psutil.Process:
    """The one child process of a process, as soon as it is there."""
    while True:
        found = psutil.Process(pid).children(recursive=True)
        if found:
            return found[0]
        time.sleep(0.02)


def wait_until_gone(process: psutil.Process) -> None:
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.05)


def test_a_child_does_its_job_and_says_so(home: Path, tmp_path: Path) -> None:
    seen: list[Event] = []
    assert run_child(job(home, tmp_path / "job"), tmp_path / "job", "importing", seen.append) == {"fingerprint": "x"}
    assert seen[-1]["kind"] == "done"
    assert (tmp_path / "job" / "spec.json").is_file() and (tmp_path / "job" / "log.txt").is_file()
    assert list(home.glob("store/model/*/model.safetensors"))


def test_a_childs_sentence_and_exit_code_come_back(home: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="job one: the model 'absent' does not exist"):
        run_child(job(home, tmp_path / "job", "absent"), tmp_path / "job", "job one")


def test_a_folder_in_the_users_way_is_not_imported(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages" / "__main__.py").write_text("raise SystemExit(7)")
    monkeypatch.chdir(tmp_path)
    run_child(job(home, tmp_path / "job"), tmp_path / "job", "importing")


def test_a_killed_child_is_a_sentence(home: Path, tmp_path: Path) -> None:
    """Killed from outside, as by the kernel when memory runs out."""
    script = (
        "import sys, time, psutil\nwhile not (c := psutil.Process(int(sys.argv[1])).children(recursive=True)): pass\n"
    )
    script += "[p.kill() for p in c if p.pid != psutil.Process().pid] or sys.exit(1)"
    loop = f"while ! {sys.executable} -c '{script}' {os.getpid()}; do :; done"
    killer = subprocess.Popen(["sh", "-c", loop], start_new_session=True)
    try:
        with pytest.raises(
            StageFailed, match=r"importing was killed from outside by SIGKILL, .* run the same command again"
        ):
            run_child(job(home, tmp_path / "job"), tmp_path / "job", "importing")
    finally:
        killer.kill()
        killer.wait()
    assert not list(home.glob("store/model/*"))


def test_a_child_that_cannot_start_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file where the home should be")
    with pytest.raises(StageFailed, match="importing"):
        run_child(job(tmp_path / "home", tmp_path / "job"), tmp_path / "job", "importing")


PARENT = """
import sys
from pathlib import Path
from pipelines.child import events_file, run_child
from stages.spec import ImportSpec, Machine
folder = Path(sys.argv[1])
spec = ImportSpec(home=str(folder), events=str(events_file(folder)), machine=Machine(threads=1), fingerprint="x",
                  spec="random:llama")
run_child(spec, folder, "importing")
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=lambda number: number.name)
def test_no_child_outlives_its_parent(tmp_path: Path, number: signal.Signals) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)], stderr=subprocess.DEVNULL)
    child = child_of(parent.pid)
    while (tmp_path / "spec.json").is_file() and child.name().startswith("python") and child.cpu_times().user < 0.2:
        time.sleep(0.02)  # until it has asked to die with its parent
    parent.send_signal(number)
    parent.wait()
    wait_until_gone(child)
