"""Closes flow runs that Prefect takes for running although their process is gone: those of the command line.

A killed process tells nobody. Its journal says which flow run it was, and how far it came. Runs of a deployment have a
worker, and an automation, that see to them.
"""

import contextvars
import json
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.states import Cancelled, Completed, Crashed, Failed

from pipelines import journal
from pipelines.home import Home
from pipelines.journal import Record
from pipelines.process import alive

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State

OPEN = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]
AT_ONCE = 200


def close(home: Home) -> threading.Thread:
    """Set the states of dead runs of this home, in the background; a server that is away is asked at the next start."""

    def work() -> None:
        with suppress(Exception):
            close_now(home)

    # Prefect's settings are in the context, which a new thread would not have.
    thread = threading.Thread(target=contextvars.copy_context().run, args=(work,), name="attar-lost-runs", daemon=True)
    thread.start()
    return thread


def close_now(home: Home) -> list[str]:
    """Ids of the flow runs whose state was set."""
    wanted = FlowRunFilter(
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=OPEN)),
        deployment_id=FlowRunFilterDeploymentId(is_null_=True),
    )
    with get_client(sync_client=True) as client:
        open_runs = {str(run.id) for run in client.read_flow_runs(flow_run_filter=wanted, limit=AT_ONCE)}
        dead = _dead(home, open_runs) if open_runs else {}
        for name, records in dead.items():
            client.set_flow_run_state(UUID(name), _end(records), force=True)
    return sorted(dead)


def untold(home: Home, flow_run: str) -> bool:
    """Whether the newest run of a flow run was cut off before MLflow knew how it ended."""
    records = _dead(home, {flow_run}).get(flow_run)
    if records is None:
        return False
    begun = next(record for record in records if record["kind"] == "run")
    return not journal.ended(records) or journal.unsent(home.runs / begun["run"]) > 0


def _dead(home: Home, names: set[str]) -> dict[str, list[Record]]:
    """Flow run → its journal, for those of this home whose process is gone."""
    found: dict[str, list[Record]] = {}
    for path in sorted(home.runs.glob(f"*/{journal.JOURNAL}"), reverse=True):
        if len(found) == len(names):
            break
        begun = _first(path)
        if begun is not None and begun.get("flow_run") in names and not alive(path.parent):
            found[begun["flow_run"]] = journal.read(path.parent)
    return found


def _first(path: Path) -> Record | None:
    """The record with which a run began; reads no more of the journal than that."""
    with suppress(OSError, ValueError), open(path, encoding="utf-8") as file:
        for line in file:
            record: Record = json.loads(line)
            if record["kind"] == "run":
                return record
    return None


def _end(records: list[Record]) -> "State":
    """How the run ended by its own account; without one it crashed."""
    said = next((record for record in reversed(records) if record["kind"] == "end-run"), None)
    if said is None:
        return Crashed(message="the process of this run died; running the recipe again goes on from there")
    states = {"finished": Completed, "failed": Failed, "cancelled": Cancelled}
    return states[said["status"]](message=said["text"] or None)
