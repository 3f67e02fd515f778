"""The process of one deployed flow run: quiet, and asked to end when its worker ends.

    python -m pipelines.flow_process WORKER

Prefect's engine in a process that knows the pid of its worker: asked, and not killed, so that the stage is stopped
and MLflow told.
"""

import runpy
import signal
import sys

from attar.machine import die_with_parent
from pipelines.embedded import configure
from pipelines.home import Home


def main(worker: int) -> None:
    """Run the flow run that the environment names."""
    die_with_parent(worker, signal.SIGTERM)
    configure(Home.open(None))
    sys.argv = sys.argv[:1]  # the engine takes a first argument for a flow run
    runpy.run_module("prefect.engine", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
