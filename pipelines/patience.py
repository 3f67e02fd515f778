"""Keeps a run independent of Prefect's server: what the work itself came to counts, not what Prefect could note of it.

Prefect asks its server again for minutes and then raises, in the middle of a flow or at its end; its threads hang at
the end of the process. So the functions of flows and tasks are :func:`counted`, and called :func:`through` Prefect:
their own end is remembered, and where Prefect broke they end as they did, or run without it. Nothing runs twice.
"""

import functools
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

from attar.credentials import without_credentials
from attar.errors import Cancelled, first_line
from pipelines import prefect_server

P = ParamSpec("P")
T = TypeVar("T")
LAST_WORD_SECONDS = 30.0  # for Prefect to note how a run ended
LEAVE_SECONDS = 20.0  # for its threads to send their last lines
GONE_SECONDS = 1.0  # instead of these, when the embedded server is dead
LOOK_SECONDS = 0.2


class Outcome:
    """How a counted function ended, whatever becomes of Prefect's account of it."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        self.result: Any = None
        self.error: BaseException | None = None

    def value(self) -> Any:
        """The result, or the function's own error."""
        if self.error is not None:
            raise self.error
        return self.result


_ENTERED = threading.Event()  # this process has run a flow on behalf of a terminal
_OUTCOME: ContextVar[Outcome | None] = ContextVar("outcome", default=None)


def counted(function: Callable[P, T]) -> Callable[P, T]:
    """Remember how ``function`` ended for who called it :func:`through` Prefect. Stands below @flow and @task."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        outcome = _OUTCOME.get()
        token = _OUTCOME.set(None)  # what it calls has outcomes of its own
        try:
            result = function(*args, **kwargs)
        except BaseException as error:
            if outcome is not None:
                outcome.error = error
            raise
        else:
            if outcome is not None:
                outcome.result = result
            return result
        finally:
            _OUTCOME.reset(token)
            if outcome is not None:
                outcome.ended.set()

    return run


def through(outcome: Outcome, failed: Callable[[Exception], None], called: Any, *args: Any) -> Any:
    """Call a flow or a task whose function is counted.

    Args:
        outcome: receives the function's own end, as soon as it has ended.
        failed: hears of a failure of Prefect's own, before the function's end is taken, or it is called without it.
        called: the flow or task.
        args: its arguments.

    Returns:
        What the function returned; raises what it raised.
    """
    token = _OUTCOME.set(outcome)
    try:
        called(*args)
    except Exception as error:
        from prefect.exceptions import CancelledRun

        if isinstance(error, CancelledRun) and not outcome.ended.is_set():
            raise Cancelled("cancelled before it began") from None
        if outcome.error is None:
            failed(error)
            if not outcome.ended.is_set():
                called.fn(*args)
    finally:
        _OUTCOME.reset(token)
    return outcome.value()


class Patience:
    """Calls a run's tasks through Prefect for as long as Prefect works; says once when it does not."""

    def __init__(self, warn: Callable[[str], None]) -> None:
        self._warn = warn
        self._alone = False

    def through(self, task: Any, *args: Any) -> Any:
        """What the function in a task returns or raises; Prefect's own failures only cost its pages."""
        return task.fn(*args) if self._alone else through(Outcome(), self._without, task, *args)

    def _without(self, error: Exception) -> None:
        self._alone = True
        self._warn(lost(error))


def lost(error: Exception) -> str:
    """The sentence about a failure of Prefect's own."""
    return f"Prefect failed ({without_credentials(first_line(error))}); the run goes on without it"


class LastWord:
    """Ends this process as the work ended when Prefect does not let go of it: a server that is gone takes minutes.

    As a context around the call of a flow: when its function has ended and the block has not some time later,
    ``tell`` is called, in a thread of its own, and the process ends with the code it returns.
    """

    def __init__(self, outcome: Outcome, tell: Callable[[Outcome], int], seconds: float = LAST_WORD_SECONDS) -> None:
        self._outcome = outcome
        self._tell = tell
        self._seconds = seconds
        self._left = threading.Event()
        self._claim = threading.Lock()

    def __enter__(self) -> None:
        _ENTERED.set()
        logging.raiseExceptions = False  # its log worker would write to the terminal what it cannot send
        threading.Thread(target=self._watch, name="attar-last-word", daemon=True).start()

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._claim.acquire()  # for good; or the other thread has it, and the process is about to end

    def _watch(self) -> None:
        self._outcome.ended.wait()
        _wait(self._left, self._seconds)
        if self._left.is_set() or not self._claim.acquire(blocking=False):
            return
        try:
            code = self._tell(self._outcome)
        except BaseException:
            traceback.print_exc()
            code = 1
        _end(code)


def leave(code: int) -> None:
    """Call before the interpreter's exit: after a flow, ends the process with ``code`` if Prefect holds it up."""
    if not _ENTERED.is_set():
        return

    def wait() -> None:
        _wait(threading.Event(), LEAVE_SECONDS)
        _end(code)

    threading.Thread(target=wait, name="attar-leave", daemon=True).start()


def _wait(event: threading.Event, seconds: float) -> None:
    """Wait for an event; not for long when there is nobody left to talk to."""
    until = time.monotonic() + seconds
    while not event.wait(LOOK_SECONDS) and time.monotonic() < until:
        if prefect_server.gone():
            until = min(until, time.monotonic() + GONE_SECONDS)


def _end(code: int) -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
