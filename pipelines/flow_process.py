"""The process of one deployed flow run: quiet, and asked to end when its worker ends.

    python -m pipelines.flow_process WORKER

Prefect's engine in a process that knows the pid of its worker: asked, and not killed, so that the stage is stopped
and MLflow told. Kernel and guard may both say that the worker is gone; the flow hears of it once, or the second
time would cut off what it does at the first.

A deployment with a limit holds its place by a lease, which Prefect's server keeps in its memory: after a restart it
knows of none, and Prefect would cancel the run for that. Here the run goes on, and its page says that another one may
run beside it.
"""

import os
import runpy
import signal
import sys
from contextlib import AbstractContextManager
from types import FrameType
from uuid import UUID

from attar.machine import die_with_parent
from pipelines.embedded import configure
from pipelines.home import Home


def main(worker: int) -> None:
    """Run the flow run that the environment names."""
    signal.signal(signal.SIGHUP, _worker_is_gone)
    die_with_parent(worker, signal.SIGHUP)
    configure(Home.open(None))
    outlast_leases()
    sys.modules.pop("prefect.engine", None)  # imported on the way, and about to be run anew
    sys.argv = sys.argv[:1]  # the engine takes a first argument for a flow run
    runpy.run_module("prefect.engine", run_name="__main__", alter_sys=True)


def outlast_leases() -> None:
    """Let a lease that cannot be renewed end no run of this process."""
    from prefect import flow_engine

    keep = flow_engine.maintain_concurrency_lease  # type: ignore[attr-defined]

    def maintain(lease: UUID, seconds: float, **_: bool) -> AbstractContextManager[None]:
        held: AbstractContextManager[None] = keep(lease, seconds, raise_on_lease_renewal_failure=False)
        return held

    flow_engine.maintain_concurrency_lease = maintain  # type: ignore[attr-defined,assignment]


def _worker_is_gone(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    os.kill(os.getpid(), signal.SIGTERM)  # which Prefect turns into the end of the flow


if __name__ == "__main__":
    main(int(sys.argv[1]))
