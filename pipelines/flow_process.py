"""The process of one deployed flow run: quiet, and asked to end when its worker ends.

    python -m pipelines.flow_process WORKER

Prefect's engine in a process that knows the pid of its worker: asked, and not killed, so that the stage is stopped
and MLflow told. Kernel and guard may both say that the worker is gone; the flow hears of it once, or the second
time would cut off what it does at the first.
"""

import os
import runpy
import signal
import sys
from types import FrameType

from attar.machine import die_with_parent
from pipelines.embedded import configure
from pipelines.home import Home


def main(worker: int) -> None:
    """Run the flow run that the environment names."""
    signal.signal(signal.SIGHUP, _worker_is_gone)
    die_with_parent(worker, signal.SIGHUP)
    configure(Home.open(None))
    sys.argv = sys.argv[:1]  # the engine takes a first argument for a flow run
    runpy.run_module("prefect.engine", run_name="__main__", alter_sys=True)


def _worker_is_gone(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    os.kill(os.getpid(), signal.SIGTERM)  # which Prefect turns into the end of the flow


if __name__ == "__main__":
    main(int(sys.argv[1]))
