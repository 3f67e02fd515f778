"""The command and the address that open a run in MLflow."""

import json
import re
import shlex
import sys
from pathlib import Path

from pipelines.home import Home

PORT = 5000


def open_command(home: Home, folder: Path) -> str | None:
    """How to see this run: a command for the embedded database, then the address; None if it was not tracked."""
    try:
        known = json.loads((folder / "mlflow.json").read_text())
        place = f"/#/experiments/{known['experiment']}/runs/{known['runs']['parent']}"
        place += "?workflowType=machine_learning"  # else MLflow shows its pages for GenAI
    except (OSError, ValueError, KeyError):
        return None
    uri = home.mlflow_uri
    if not uri.startswith("sqlite:"):
        shown = re.sub(r"//[^/@]*@", "//", uri)  # no user and no password
        return f"{shown.rstrip('/')}{place}" if uri.startswith("http") else f"tracked in {shown}"
    program = Path(sys.executable).with_name("mlflow")
    arguments = [
        str(program) if program.exists() else "mlflow",
        "server",
        "--workers=1",
        f"--port={PORT}",
        f"--backend-store-uri={uri}",
        f"--default-artifact-root={home.mlflow_artifacts}",
    ]
    # With job execution the idle server takes over 2 GB.
    quiet = "MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_DISABLE_TELEMETRY=true"
    return f"{quiet} {shlex.join(arguments)}\n        then open http://127.0.0.1:{PORT}{place}"


def address(home: Home, folder: Path) -> str | None:
    """Where a served MLflow shows this run, without user and password; None for the embedded database."""
    found = open_command(home, folder)
    return found if found is not None and found.startswith("http") else None
