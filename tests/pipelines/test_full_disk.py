"""A disk that is full where Attar writes down what happened costs neither the sentence about it nor one of its own."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import pytest

from attar.errors import StageFailed
from attar.events import Event
from pipelines import cli, deployed, journal
from pipelines.execution import Execution
from pipelines.home import Home
from pipelines.journal import Curves, Journal, NullTracker
from pipelines.plan import make_plan
from pipelines.recipe import validate

FULL = Path("/dev/full")  # the kernel's own: it takes nothing and says why


@contextmanager
def full() -> Iterator[TextIO]:
    """A file on a full disk."""
    file = FULL.open("a", encoding="utf-8")
    yield file
    with pytest.raises(OSError):  # or it was no such disk
        file.write("x")
        file.close()


def test_a_journal_that_takes_nothing_hides_no_failure(tmp_path: Path) -> None:
    (tmp_path / journal.JOURNAL).symlink_to(FULL)
    written = Journal(tmp_path, NullTracker())
    with pytest.raises(StageFailed, match="the loss is not finite"):
        try:
            with written.step(1):
                raise StageFailed("the loss is not finite")
        finally:
            written.close()
    written.close()


def test_curves_that_cannot_be_written_hide_no_failure(
    document: dict[str, Any], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Curves, "EVERY_SECONDS", 1e9)  # however busy the machine: a point waits to be written
    document["stages"] = [
        {"stage": "distill.logit", "train_tokens": 4096, "batch": 4, "length": 64, "student": "previous", "alpha": 0.5}
    ]
    place = Home(home)
    plan = make_plan(validate(document), place, complete=True)
    (place.runs / "r1").mkdir(parents=True)
    written = Journal(place.runs / "r1", NullTracker())
    execution = Execution(plan, "r1", written)
    heard: list[Event] = []

    def hear(event: Event) -> None:
        if event["kind"] == "metric":
            if heard:
                written._file = file
                raise StageFailed("the loss is not finite")
            heard.append(event)

    with full() as file, pytest.raises(StageFailed, match="the loss is not finite"):
        execution.child(1, execution.stage_spec(plan.steps[1]), hear)


def test_a_full_disk_is_a_sentence_in_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(OSError) as told:
        FULL.write_text("x")
    assert cli._ending(told.value) == StageFailed.exit_code
    error = capsys.readouterr().err
    assert error.startswith("error: the disk is full") and error.count("\n") == 1


def test_a_full_disk_is_a_sentence_on_prefects_pages(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"ATTAR_HOME": str(home), "PREFECT_HOME": str(home / "prefect")}.items():
        monkeypatch.setenv(name, value)  # also so that what a flow sets there does not stay

    def make() -> Any:
        FULL.write_text("x")

    state = deployed._carry_out(make)
    assert state.is_failed() and str(state.message).startswith("the disk is full; make room")
