"""The command and the address that open a run in MLflow."""

import json
import os
import shlex
from pathlib import Path

from attar.credentials import without_credentials
from pipelines import mlflow_server
from pipelines.home import Home
from pipelines.mlflow_words import RUNS

PORT = 5000
BROWSED = "ATTAR_MLFLOW_URL"  # where a browser finds the server, if its tracking address is not that


def address(home: Home, folder: Path) -> str | None:
    """The page of a run on the MLflow server; None if there is no server, or it has not got the run yet."""
    place = _place(folder)
    if place is None or not home.mlflow_uri.startswith("http"):
        return None
    seen = os.environ.get(BROWSED) or home.mlflow_uri
    return f"{without_credentials(seen).rstrip('/')}{place}"


def open_command(home: Home, folder: Path) -> str | None:
    """How to see this run: a command for the embedded database, then the address; None if it was not tracked."""
    place = _place(folder)
    if place is None:
        return None
    uri = home.mlflow_uri
    if not uri.startswith("sqlite:"):
        return address(home, folder) or f"tracked in {without_credentials(uri)}"
    settings = " ".join(f"{name}={value}" for name, value in mlflow_server.ENVIRONMENT.items())
    command = shlex.join(mlflow_server.command(home, PORT))
    return f"{settings} {command}\n        then open http://127.0.0.1:{PORT}{place}"


def _place(folder: Path) -> str | None:
    """Where MLflow's pages show the run."""
    try:
        known = json.loads((folder / RUNS).read_text())
        place = f"/#/experiments/{known['experiment']}/runs/{known['runs']['parent']}"
    except (OSError, ValueError, KeyError):
        return None
    return f"{place}?workflowType=machine_learning"  # else MLflow shows its pages for GenAI
