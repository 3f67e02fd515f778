"""Prefect's own failures cost its pages, and nothing that was or is to be computed."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from pipelines.patience import Outcome, Patience, counted, through


class Engine:
    """Calls a counted function as Prefect does a task's, and breaks before it, behind it, or not at all."""

    def __init__(self, function: Callable[..., Any], breaks: str) -> None:
        self.fn = function
        self.breaks = breaks

    def __call__(self, *args: Any) -> Any:
        if self.breaks == "before":
            raise ConnectionError("http://me:secret@host is away")
        result = self.fn(*args)
        if self.breaks == "behind":
            raise ConnectionError("http://me:secret@host is away")
        return result


def recorded() -> tuple[list[int], Callable[[int], int]]:
    calls: list[int] = []

    @counted
    def double(number: int) -> int:
        calls.append(number)
        if number < 0:
            raise ValueError("negative")
        return 2 * number

    return calls, double


@pytest.mark.parametrize("breaks", ["", "before", "behind"])
def test_every_job_runs_once_and_its_own_end_counts(breaks: str) -> None:
    calls, double = recorded()
    warnings: list[str] = []
    patience = Patience(warnings.append)
    assert [patience.through(Engine(double, breaks), number) for number in (1, 2, 3)] == [2, 4, 6]
    assert calls == [1, 2, 3]
    assert len(warnings) == (1 if breaks else 0) and "secret" not in "".join(warnings)


@pytest.mark.parametrize("breaks", ["", "before", "behind"])
def test_a_jobs_own_error_is_its_end(breaks: str) -> None:
    calls, double = recorded()
    with pytest.raises(ValueError, match="negative"):
        Patience(lambda text: None).through(Engine(double, breaks), -1)
    assert calls == [-1]


def test_an_interrupt_is_an_end_even_if_the_engine_hides_it() -> None:
    @counted
    def stopped() -> None:
        raise KeyboardInterrupt

    def engine() -> None:
        try:
            stopped()
        except KeyboardInterrupt:
            raise ConnectionError("the state could not be told") from None

    with pytest.raises(KeyboardInterrupt):
        through(Outcome(), lambda error: None, engine)


HANGS = """
import sys, threading
from pipelines import patience
mode = sys.argv[1]
outcome = patience.Outcome()

@patience.counted
def work():
    print("worked")
    if mode == "fails":
        raise KeyError("x")
    return 5

def engine():
    try:
        work()
    finally:
        threading.Event().wait() if mode != "leaves" else None

def tell(outcome):
    print("told", outcome.result, repr(outcome.error))
    return 7

with patience.LastWord(outcome, tell, seconds=0.1):
    patience.through(outcome, print, engine)
patience.LEAVE_SECONDS = 0.1
thread = threading.Thread(target=threading.Event().wait)  # not a daemon: the interpreter waits for it
thread.start()
patience.leave(3)
"""


@pytest.mark.parametrize(
    ("mode", "code", "said"),
    [("ends", 7, "worked told 5 None"), ("fails", 7, "worked told None KeyError('x')"), ("leaves", 3, "worked")],
)
def test_a_process_ends_as_its_work_did_when_prefect_hangs(mode: str, code: int, said: str) -> None:
    done = subprocess.run([sys.executable, "-c", HANGS, mode], capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()) == (code, said.split()), done.stderr
