"""Who lives: the run whose process holds its lock, whatever its journal says of hosts and pids."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
import pytest

from attar.errors import BadInput
from pipelines import inventory, journal, lost_runs, process, tracking
from pipelines.home import Home
from pipelines.journal import Journal, NullTracker

# A run as another process carries it out, under any name; its children outlive it, as those of a killed run may.
RUN = """
import os, platform, subprocess, sys, time
from pathlib import Path

folder, platform.node = Path(sys.argv[1]), lambda: sys.argv[2]
folder.mkdir(parents=True)
from attar import fresh
from pipelines.journal import Journal, NullTracker
from pipelines.process import this_process

journal = Journal(folder, NullTracker())
facts = {"run": folder.name, "name": "r", "plan": [], "flow_run": "f", "recipe": {"track": {}}}
journal.write("run", **facts, process=sys.argv[3] if len(sys.argv) > 3 else this_process())
ready, tell = os.pipe()
forked = os.fork()
if forked == 0:
    os.write(tell, b".")
    time.sleep(600)
os.read(ready, 1)  # until then the fork still holds what it is about to let go
spawned = subprocess.Popen(["sleep", "600"], close_fds=False)
fresh.prepare(dict(os.environ), ["json"])
(zygote,) = fresh._own.values()
print(forked, spawned.pid, zygote.process.pid, flush=True)
time.sleep(600)
"""


class Other:
    """A run of another process."""

    def __init__(self, folder: Path, host: str, *told: str) -> None:
        self.folder = folder
        command = [sys.executable, "-c", RUN, str(folder), host, *told]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
        assert self.process.stdout is not None
        self.children = [psutil.Process(int(pid)) for pid in self.process.stdout.readline().split()]

    def die(self) -> None:
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        self.die()
        for child in self.children:
            with suppress(psutil.NoSuchProcess):
                child.kill()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def start(home: Path) -> Iterator[Callable[..., Other]]:
    """Starts a run of another process on a machine of a name, which writes of itself what it is told to."""
    with ExitStack() as started:

        def begin(run: str, host: str, *told: str) -> Other:
            other = Other(home / "runs" / run, host, *told)
            started.callback(other.end)
            return other

        yield begin


def judged(home: Home, run: str) -> set[bool]:
    """What all that ask whether a run lives come to."""
    (listed,) = [found for found in inventory.read_runs(home) if found.id == run]
    folder = home.runs / run
    (folder / "mlflow.json").write_text('{"runs": {}}')
    lost = lost_runs._dead(home, {"f"})
    return {process.alive(folder), listed.live, tracking._died(folder) is None, not lost}


def test_a_run_of_another_name_lives_until_its_process_ends(home: Path, start: Callable[..., Other]) -> None:
    """As in a container: when it is made again its host has another name, and its pids begin anew."""
    other = start("r1", "another-host")
    assert journal.read(other.folder)[0]["process"].startswith("another-host/")
    assert judged(Home(home), "r1") == {True}
    other.die()
    assert [child.is_running() for child in other.children[:2]] == [True, True]  # which hold nothing
    assert judged(Home(home), "r1") == {False}


def test_a_dead_run_is_not_taken_for_a_later_process_of_its_pid(home: Path, start: Callable[..., Other]) -> None:
    other = start("r1", "here", process.this_process())
    assert judged(Home(home), "r1") == {True}
    other.die()
    assert judged(Home(home), "r1") == {False}


def test_one_process_carries_out_a_run(
    home: Path, start: Callable[..., Other], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "TRIES", 3)
    other = start("r1", "another-host")
    with pytest.raises(BadInput, match="another process carries out the run r1"):
        Journal(other.folder, NullTracker())
    other.die()
    written = Journal(other.folder, NullTracker())  # the next one goes on with it
    written.write("end-run", status="finished", text="", files=[])
    written.close()
    assert process.alive(other.folder)


def test_who_asks_is_not_taken_for_the_run(tmp_path: Path) -> None:
    """However many ask at the same time, and while it begins."""
    (tmp_path / process.LOCK).touch()
    ask = "import sys\nfrom pathlib import Path\nfrom pipelines.process import alive\n"
    loop = f"{ask}print(any([alive(Path(sys.argv[1])) for _ in range(20_000)]))"
    asking = [subprocess.Popen([sys.executable, "-c", loop, str(tmp_path)], stdout=-1, text=True) for _ in range(2)]
    assert not any(process.alive(tmp_path) for _ in range(20_000))
    assert [one.communicate()[0] for one in asking] == ["False\n"] * 2


def test_a_run_that_was_cut_off_has_something_to_be_told(home: Path, start: Callable[..., Other]) -> None:
    place, other = Home(home), start("r1", "here")
    assert not lost_runs.untold(place, "f")  # it lives
    other.die()
    assert lost_runs.untold(place, "f") and not lost_runs.untold(place, "g")
    with open(other.folder / journal.JOURNAL, "a") as file:
        file.write('{"kind": "end-run", "time": 0, "status": "cancelled", "text": "", "files": []}\n')
    assert not lost_runs.untold(place, "f")
    journal.mark_sent(other.folder, 1)  # and the tracker never heard of its end
    assert lost_runs.untold(place, "f")
