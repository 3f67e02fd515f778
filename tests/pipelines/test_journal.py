"""The journal: written before it is sent, and never stopped by a tracker."""

from pathlib import Path

import pytest

from pipelines import journal
from pipelines.journal import Curves, Journal, NullTracker, Record


class Broken:
    """A tracker that takes some records and then none."""

    def __init__(self, takes: int) -> None:
        self.takes = takes
        self.got: list[Record] = []

    def send(self, record: Record) -> None:
        if len(self.got) == self.takes:
            raise ConnectionError("no route to the server\nand much more text")
        self.got.append(record)


def kinds(folder: Path) -> list[str]:
    return [record["kind"] for record in journal.read(folder)]


def test_a_failing_tracker_is_left_alone_with_one_warning(tmp_path: Path) -> None:
    written = Journal(tmp_path, Broken(2))
    for kind in "abcd":
        written.write(kind)
    assert kinds(tmp_path) == ["a", "b", "c", "warning", "d"]
    assert "no route to the server)" in journal.read(tmp_path)[3]["text"]
    assert journal.sent(tmp_path) == 2


def test_replay_sends_the_rest_in_order_and_once(tmp_path: Path) -> None:
    written = Journal(tmp_path, Broken(1))
    for kind in "abc":
        written.write(kind)
    tracker = Broken(100)
    assert journal.replay(tmp_path, tracker) == 3
    assert [record["kind"] for record in tracker.got] == ["b", "warning", "c"]
    assert journal.replay(tmp_path, tracker) == 0


def test_an_interrupted_replay_goes_on_where_it_stopped(tmp_path: Path) -> None:
    written = Journal(tmp_path, Broken(0))
    for kind in "abc":
        written.write(kind)
    with pytest.raises(ConnectionError):
        journal.replay(tmp_path, Broken(2))
    tracker = Broken(100)
    journal.replay(tmp_path, tracker)
    assert [record["kind"] for record in tracker.got] == ["b", "c"]


def test_a_line_cut_off_by_a_crash_is_not_read(tmp_path: Path) -> None:
    Journal(tmp_path, NullTracker()).write("a")
    with open(tmp_path / journal.JOURNAL, "a") as file:
        file.write('{"kind": "b", "ti')
    assert kinds(tmp_path) == ["a"]


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
