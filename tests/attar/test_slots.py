"""Slots and locks: one at a time on a device, who waits says for whom, and the dead hold nothing."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import gguf
import pytest

from attar import slots
from attar.errors import BadInput, Cancelled
from attar.events import Events, read
from attar.importing import import_source
from attar.slots import Slot
from attar.sources import resolve
from attar.store import Store
from attar.waiting import Waiter, hold
from stages.base import Context

HOLDER = """
import sys
from attar.slots import Slot
from attar.waiting import Waiter
with Slot("cpu", Waiter("run one (2 prune.width)")):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Slots of each test's own."""
    monkeypatch.setenv("ATTAR_SLOTS", str(tmp_path / "slots"))
    return tmp_path / "slots"


def holder() -> subprocess.Popen[str]:
    """A process that holds the CPU until its input ends."""
    started = subprocess.Popen([sys.executable, "-c", HOLDER], stdin=-1, stdout=-1, text=True)
    assert started.stdout is not None and started.stdout.readline() == "held\n"
    return started


def until(there: Callable[[], object]) -> None:
    while not there():
        time.sleep(0.02)


def test_a_device_serves_one_at_a_time_and_who_waits_says_for_whom() -> None:
    first, told, took = holder(), [], threading.Event()

    def second() -> None:
        with Slot("cpu", Waiter("run two", told.append)):
            took.set()

    thread = threading.Thread(target=second)
    thread.start()
    until(lambda: told)
    assert told == ["waiting for the CPU: run one (2 prune.width) holds it"] and not took.is_set()
    first.communicate()
    thread.join()
    assert took.is_set() and told[1:] == [""]


def test_a_killed_holder_holds_nothing() -> None:
    first = holder()
    first.send_signal(signal.SIGKILL)
    first.communicate()
    told: list[str] = []
    with Slot("cpu", Waiter(say=told.append)):
        assert told == []


def test_who_waits_can_be_cancelled() -> None:
    first = holder()
    with pytest.raises(Cancelled, match="waiting for the CPU"):
        Slot("cpu", Waiter(cancelled=lambda: True)).__enter__()
    first.communicate()


def test_a_lock_that_is_only_looked_at_keeps_its_holders_name(tmp_path: Path) -> None:
    told: list[str] = []
    waiter = Waiter(say=told.append, cancelled=lambda: bool(told))
    with hold(tmp_path / "lock", "it", Waiter("the holder")):
        with hold(tmp_path / "lock", "it", Waiter("a looker"), wait=False) as held:
            assert not held
        with pytest.raises(Cancelled), hold(tmp_path / "lock", "it", waiter):
            pass
    assert told == ["waiting for it: the holder holds it"]


def test_some_share_a_lock_that_nobody_else_gets_meanwhile(tmp_path: Path) -> None:
    with hold(tmp_path / "lock", "it", shared=True), hold(tmp_path / "lock", "it", wait=False, shared=True) as both:
        with hold(tmp_path / "lock", "it", wait=False) as alone:
            assert both and not alone
    with hold(tmp_path / "lock", "it", wait=False) as alone:
        assert alone


def test_a_lent_slot_is_for_others_until_it_comes_back() -> None:
    def free() -> bool:
        with hold(slots.folder() / "cpu", "it", wait=False) as held:
            return held

    with Slot("cpu") as slot:
        assert not free()
        with slot.lent():
            assert free()
        assert not free()
    assert free()


def test_who_waits_for_what_stages_share_does_not_hold_the_device(tmp_path: Path) -> None:
    store, events = Store(tmp_path / "store"), Events(tmp_path / "events.jsonl")
    entered = threading.Event()

    def job() -> None:
        with Slot("cpu", Waiter("run two", events.waiting)) as slot:
            context = Context(*[None] * 10, slot=slot)  # type: ignore[arg-type]
            object.__setattr__(context, "store", store)
            with context.lock("cache"):
                entered.set()

    thread = threading.Thread(target=job)
    with store.lock("cache", waiter=Waiter("run one")):
        thread.start()
        until(lambda: read(tmp_path / "events.jsonl")[0])
        with Slot("cpu"):  # free, although the job that waits for the cache will need it
            assert not entered.is_set()
    thread.join()
    said = [event["text"] for event in read(tmp_path / "events.jsonl")[0]]
    assert said[0] == "waiting for artifact cache: run one holds it" and said[-1] == "" and entered.is_set()


def test_the_default_folder_is_the_users_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ATTAR_SLOTS")
    monkeypatch.setattr(slots.tempfile, "tempdir", str(tmp_path))
    place = slots.folder()
    assert place.parent == tmp_path and place.stat().st_mode & 0o777 == 0o700
    place.chmod(0o777)
    with pytest.raises(BadInput, match="only you can enter"):
        slots.folder()
    place.rmdir()
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    place.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BadInput, match="only you can enter"):
        slots.folder()


def test_a_slot_is_no_link_to_another_file(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("kept")
    slots.folder()
    (folder / "cpu").symlink_to(tmp_path / "precious")
    with pytest.raises(BadInput, match="cannot be locked"):
        Slot("cpu").__enter__()
    assert (tmp_path / "precious").read_text() == "kept"


def test_a_conversion_waits_for_its_turn(tmp_path: Path) -> None:
    """Of a file that is found to be of an unknown kind only when it is converted."""
    written = gguf.GGUFWriter(tmp_path / "model.gguf", "nothing-known")
    for step in (written.write_header_to_file, written.write_kv_data_to_file, written.write_tensors_to_file):
        step()
    written.close()
    source = resolve(str(tmp_path / "model.gguf"), tmp_path)
    first, events, raised = holder(), tmp_path / "events.jsonl", []

    def convert() -> None:
        try:
            import_source(source, Store(tmp_path / "store"), Events(events), "process 1, which imports it,")
        except BadInput as error:
            raised.append(str(error))

    thread = threading.Thread(target=convert)
    thread.start()
    until(lambda: read(events)[0])
    assert [event["kind"] for event in read(events)[0]] == ["waiting"] and thread.is_alive()
    first.communicate()
    thread.join()
    assert [event["kind"] for event in read(events)[0]] == ["waiting", "waiting", "log"]
    assert len(raised) == 1 and "cannot be converted" in raised[0]
