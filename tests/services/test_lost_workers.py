"""A worker and its flow are killed at once: nobody is left to tell, and the automation of the server notices."""

import signal
from collections.abc import Callable
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from tests.services.conftest import Served

SILENCE = 60  # seconds: two heartbeats
IMPATIENT = f"""
from prefect.client.orchestration import get_client
from pipelines import deployments, lost_workers

with get_client(sync_client=True) as client:
    lost_workers.watch(client, list(deployments.FLOWS.values()), silence={SILENCE})
"""


def test_a_run_whose_worker_died_with_it_is_crashed_and_a_retry_computes_nothing_twice(
    another: "Callable[[], Served]",
) -> None:
    served = another()
    try:
        served.python("-c", IMPATIENT)
        run = served.submit("recipe", recipe="long", seed=4, overrides=["stages.1.train_tokens=400000"])
        served.until(lambda: any(r["step"] == 2 and r["what"] == "stage" for r in served.records(run, "child")))
        worker, (flow,) = served.worker(), served.flow_processes()
        family = [flow, *flow.children(recursive=True), worker]
        worker.suspend()  # or it would see the flow die, and say so
        flow.send_signal(signal.SIGKILL)
        worker.kill()
        psutil.wait_procs(family)
        assert served.flow_run(run)["state"]["type"] == "RUNNING"
        state = served.wait(run)
        assert state["type"] == "CRASHED" and state["message"].startswith(f"no heartbeat for {SILENCE} s: its worker")
        served.python("-m", "prefect", "flow-run", "retry", run)
        served.until(lambda: served.flow_run(run)["state"]["type"] not in ("SCHEDULED", "PENDING", "CRASHED"))
        state = served.wait(run)
        assert state["type"] == "COMPLETED", state["message"]
        made = served.computed(run)
        assert len(made) == len(set(made)) == 2
        first, second = served.folders(run)
        assert served.tracked()[first.name] == "KILLED" and served.tracked()[second.name] == "FINISHED"
    finally:
        assert served.end() == 0, served.said()
