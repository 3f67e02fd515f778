"""Children as real processes: silence ends them, waiting does not, and every end has a sentence."""

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from attar.errors import BadInput, StageFailed
from attar.events import Event, Events
from pipelines.following import Follower, follow
from pipelines.memory_evidence import MemoryEvidence
from pipelines.outcome import outcome, silence

CHILD = """
import sys, time
from pathlib import Path
from attar.events import Events
events = Events(Path(sys.argv[1]))
events.log("started")
"""


def runs(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


class Child:
    """A child process that runs some lines with ``events`` at hand, followed to its end."""

    def __init__(self, folder: Path, lines: str, patience: float = 0) -> None:
        self.log, self.seen = folder / "log.txt", list[Event]()
        events = folder / "events.jsonl"
        command = [sys.executable, "-X", "faulthandler", "-c", CHILD + lines, str(events)]
        self.follower, self.memory = Follower(events, self.seen.append), MemoryEvidence()
        before = self.follower.offset
        with open(self.log, "wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
        while not events.exists() or events.stat().st_size == before:
            time.sleep(0.02)  # its start may take a busy machine longer than the patience of a test
        self.by_itself = follow(process, self.follower, patience, self.memory.look)
        self.code = process.returncode

    def sentence(self, memory: str = "", **settings: int) -> str:
        with pytest.raises(StageFailed) as told:
            outcome(self.code, self.follower.last, "3 quantize.gptq", self.log, settings, memory)
        return str(told.value)


def test_a_silent_child_is_ended_with_all_its_children(tmp_path: Path) -> None:
    helper = "import subprocess\nh = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
    child = Child(tmp_path, f"{helper}events.log(str(h.pid))\ntime.sleep(600)", patience=0.3)
    assert not child.by_itself and child.code < 0
    helper_pid = int(child.seen[1]["text"])
    while runs(helper_pid):  # killed already: the kernel may take a moment
        time.sleep(0.02)
    text = str(silence(1800, "3 quantize.gptq", child.log))
    assert text.startswith("3 quantize.gptq made no progress for 30 min and was ended;") and "progress_timeout" in text


def test_a_sign_of_life_begins_the_silence_anew(tmp_path: Path) -> None:
    lines = "for n in range(12):\n    events.progress(n, 12, 'layers')\n    time.sleep(0.25)\nevents.done({'n': '12'})"
    child = Child(tmp_path, lines, patience=2.5)  # less than the whole takes
    assert child.by_itself
    assert outcome(child.code, child.follower.last, "job", child.log, {}) == {"n": "12"}


def test_waiting_for_others_is_no_silence_and_the_silence_after_it_is(tmp_path: Path) -> None:
    lines = "events.waiting('for the CPU')\ntime.sleep(1.5)\nevents.waiting('')\ntime.sleep(600)"
    child = Child(tmp_path, lines, patience=0.5)
    assert not child.by_itself
    assert [event["text"] for event in child.seen] == ["started", "for the CPU", ""]


def test_no_patience_asked_is_patience_for_ever(tmp_path: Path) -> None:
    assert Child(tmp_path, "time.sleep(1)", patience=0).by_itself


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT", "SIGBUS", "SIGILL", "SIGFPE"])
def test_a_native_crash_says_so_and_where(tmp_path: Path, name: str) -> None:
    lines = f"import signal\ndef multiply():\n    signal.raise_signal(signal.{name})\nmultiply()"
    text = Child(tmp_path, lines).sentence()
    assert text.startswith(f"3 quantize.gptq crashed in native code ({name}: ") and "(multiply, " in text
    assert "dtype=float32" in text and "run the same command again" in text


def test_a_crash_inside_a_library_names_the_library(tmp_path: Path) -> None:
    package = tmp_path / "site-packages" / "fastmath"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("import signal\ndef dot():\n    signal.raise_signal(signal.SIGSEGV)\n")
    lines = f"sys.path.insert(0, {str(package.parent)!r})\nimport fastmath\nfastmath.dot()"
    assert "under fastmath (dot, __init__.py line 3)" in Child(tmp_path, lines).sentence()


def test_a_kill_is_want_of_memory_only_where_evidence_says_so(tmp_path: Path) -> None:
    child = Child(tmp_path, "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    assert "was killed from outside by SIGKILL" in child.sentence(child.memory.found(), batch=8)
    text = child.sentence("it held 15.2 of 16.0 GB", batch=8)
    assert "ran out of memory and was killed (it held 15.2 of 16.0 GB); lower batch (now 8)" in text


def test_the_most_a_child_held_is_seen(tmp_path: Path) -> None:
    child = Child(tmp_path, "block = bytearray(200_000_000)\ntime.sleep(1)")
    assert child.memory._peak > 200_000_000 > 0.5 * child.memory._peak
    child.memory._limit = child.memory._peak + 1  # as on a machine of that size
    assert child.memory.found().startswith("it held 0.")


def test_a_childs_own_sentence_comes_back_and_a_torn_line_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").touch()
    lines = "open(sys.argv[1], 'a').write('{\"kind\": \"met\\n')\nevents.error('no such thing', 2)\nsys.exit(2)"
    child = Child(tmp_path, lines)
    with pytest.raises(BadInput, match=r"3 quantize\.gptq: no such thing"):
        outcome(child.code, child.follower.last, "3 quantize.gptq", child.log, {})


def test_events_of_an_earlier_attempt_are_not_heard_again(tmp_path: Path) -> None:
    Events(tmp_path / "events.jsonl").done({"n": "old"})
    child = Child(tmp_path, "sys.exit(4)")
    assert [event["kind"] for event in child.seen] == ["log"] and "exit code 4: it said nothing" in child.sentence()
