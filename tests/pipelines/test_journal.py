"""The journal: written before it is sent, and never stopped by a tracker."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines import journal, sender
from pipelines.journal import Curves, Journal, NullTracker, Record
from pipelines.sender import Backlog, Refused, only_sender


class Server:
    """A tracker that takes records while it is up, refuses what it does not like, and can hold an answer back."""

    patience = 5.0

    def __init__(self, takes: int = 10**6, refuses: str = "") -> None:
        self.takes = takes
        self.refuses = refuses
        self.got: list[Record] = []
        self.answers = threading.Event()
        self.answers.set()

    def send(self, record: Record) -> None:
        self.answers.wait()
        if record["kind"] == self.refuses:
            raise Refused("the name b*d is not possible, asked by http://me:secret@host/x")
        if len(self.got) >= self.takes:
            raise ConnectionError("no route to http://me:secret@host\nand much more text")
        self.got.append(record)

    @property
    def kinds(self) -> list[str]:
        return [record["kind"] for record in self.got]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses between two attempts too short to wait for."""
    monkeypatch.setattr(sender, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(sender, "LONGEST_PAUSE", 0.02)


def wait(true: Callable[[], bool]) -> None:
    while not true():
        threading.Event().wait(0.005)


def kinds(folder: Path) -> list[str]:
    return [record["kind"] for record in journal.read(folder)]


def texts(folder: Path) -> list[str]:
    return [record["text"] for record in journal.read(folder) if record["kind"] == "warning"]


def backlog(folder: Path, tracker: Server) -> Backlog:
    return Backlog(folder / journal.JOURNAL, tracker)


def test_all_is_sent_in_order_when_the_journal_is_closed(tmp_path: Path) -> None:
    server = Server()
    written = Journal(tmp_path, server)
    for number in range(500):
        written.write(f"k{number}")
    written.close()
    assert server.kinds == [f"k{number}" for number in range(500)]
    assert journal.unsent(tmp_path) == 0


def test_a_tracker_that_does_not_answer_holds_nobody_up(tmp_path: Path) -> None:
    server = Server()
    server.answers.clear()
    server.patience = 0.05
    written = Journal(tmp_path, server)
    for kind in "abc":
        written.write(kind)
    assert kinds(tmp_path) == ["a", "b", "c"]
    written.close()
    assert "3 records wait on disk" in texts(tmp_path)[0]
    server.answers.set()


def test_a_tracker_that_comes_back_gets_all_in_order(tmp_path: Path) -> None:
    server = Server(takes=1)
    written = Journal(tmp_path, server)
    for kind in "abc":
        written.write(kind)
    wait(lambda: bool(texts(tmp_path)))
    server.takes = 100
    wait(lambda: "c" in server.kinds)
    written.write("d")
    written.close()
    assert [kind for kind in server.kinds if kind != "warning"] == ["a", "b", "c", "d"]
    assert len(texts(tmp_path)) == 1 and "no route to http://host)" in texts(tmp_path)[0]
    assert journal.unsent(tmp_path) == 0


def test_what_is_left_is_said_once_and_sent_later_in_order(tmp_path: Path) -> None:
    written = Journal(tmp_path, Server(takes=1))
    for kind in ("a", "b", "end-run"):
        written.write(kind)
    written.close()
    assert "wait on disk" in texts(tmp_path)[-1] and journal.ended(journal.read(tmp_path))
    later = Server()
    rest = backlog(tmp_path, later)
    rest.send()
    assert [kind for kind in later.kinds if kind != "warning"] == ["b", "end-run"]
    assert rest.sent == len(later.got) and journal.unsent(tmp_path) == 0
    again = backlog(tmp_path, later)
    again.send()
    assert again.sent == 0


def test_a_refused_record_is_told_of_and_left_out(tmp_path: Path) -> None:
    server = Server(refuses="b")
    written = Journal(tmp_path, server)
    for kind in "abcb":
        written.write(kind)
    written.close()
    assert [kind for kind in server.kinds if kind != "warning"] == ["a", "c"]
    told = texts(tmp_path)
    assert len(told) == 2 and "b*d" in told[0] and "refused 2 records" in told[1]
    assert "secret" not in (tmp_path / journal.JOURNAL).read_text()


def test_an_interrupted_backlog_goes_on_where_it_stopped(tmp_path: Path) -> None:
    written = Journal(tmp_path, Server(takes=0))
    for kind in "abc":
        written.write(kind)
    written.close()
    with pytest.raises(ConnectionError):
        backlog(tmp_path, Server(takes=2)).send()
    server = Server()
    backlog(tmp_path, server).send()
    assert server.kinds[0] == kinds(tmp_path)[2]


def test_only_one_sends_a_run(tmp_path: Path) -> None:
    server = Server()
    with only_sender(tmp_path) as mine:
        assert mine
        with only_sender(tmp_path) as other:
            assert not other
        written = Journal(tmp_path, server)
        written.write("a")
        written.close()
        assert server.got == [] and journal.unsent(tmp_path) == 2  # it and the warning
    backlog(tmp_path, server).send()
    assert server.kinds == ["a", "warning"]


def test_what_is_not_tracked_is_never_sent(tmp_path: Path) -> None:
    written = Journal(tmp_path, NullTracker())
    written.write("a")
    written.close()
    assert journal.unsent(tmp_path) == 0
    server = Server()
    backlog(tmp_path, server).send()
    assert server.got == []


def test_a_line_cut_off_by_a_crash_is_not_read_and_does_not_spoil_the_next(tmp_path: Path) -> None:
    Journal(tmp_path, NullTracker()).write("a")
    with open(tmp_path / journal.JOURNAL, "a") as file:
        file.write('{"kind": "b", "ti')
    assert kinds(tmp_path) == ["a"]
    Journal(tmp_path, NullTracker()).write("c")
    assert kinds(tmp_path) == ["a", "c"]


def test_steps_end_however_they_end(tmp_path: Path) -> None:
    written = Journal(tmp_path, NullTracker())
    with written.step(1):
        pass
    for error in (ValueError(), KeyboardInterrupt()):
        with pytest.raises(type(error)), written.step(2):
            raise error
    assert [record["status"] for record in journal.read(tmp_path)] == ["finished", "failed", "cancelled"]


def test_curves_keep_every_point(tmp_path: Path) -> None:
    curves = Curves(Journal(tmp_path, NullTracker()), 1)
    for at in range(1234):
        curves.add("loss", 1 / (at + 1), at, 0.0)
    curves.flush()
    points = [point for record in journal.read(tmp_path) for point in record["points"]]
    assert [point[2] for point in points] == list(range(1234))
