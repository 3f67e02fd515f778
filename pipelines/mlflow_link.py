"""The command and the address that open a run in MLflow."""

import json
import os
import shlex
from pathlib import Path
from typing import Any

from attar.credentials import without_credentials
from pipelines import mlflow_server, mlflow_view, serving
from pipelines.home import Home
from pipelines.mlflow_words import PLACE, RUNS

PORT = 5000
BROWSED = "ATTAR_MLFLOW_URL"  # where a browser finds the server, if its tracking address is not that


def address(home: Home, folder: Path) -> str | None:
    """The page of a run on the MLflow server; None if there is no server, or it has not got the run yet."""
    place = _place(folder)
    return page(home, place) if place is not None and home.mlflow_uri.startswith("http") else None


def page(home: Home, place: str, server: str = "") -> str | None:
    """A place among MLflow's pages as a browser finds it; of a database, where it is served or the command does."""
    uri = server or home.mlflow_uri
    if uri.startswith("http"):
        seen = os.environ.get(BROWSED) or uri
        return f"{without_credentials(seen).rstrip('/')}{place}"
    if not home.mlflow_uri.startswith("sqlite:"):
        return None
    return f"{_served(home) or f'http://127.0.0.1:{PORT}'}{place}"


def to_open(home: Home, place: str) -> str:
    """How to see a place among MLflow's pages: its address, and before it what serves a database that nobody serves."""
    seen = page(home, place)
    if not home.mlflow_uri.startswith("sqlite:") or _served(home):
        return seen or f"tracked in {without_credentials(home.mlflow_uri)}"
    settings = " ".join(f"{name}={value}" for name, value in mlflow_server.ENVIRONMENT.items())
    return f"{settings} {shlex.join(mlflow_server.command(home, PORT))}\n        then open {seen}"


def _served(home: Home) -> str | None:
    """Where the database is served that this process tracks in, if that is the home's own."""
    return None if os.environ.get("MLFLOW_TRACKING_URI") else serving.mlflow(home)


def comparison(home: Home, folder: Path) -> str | None:
    """The page that compares the runs of a run's experiment, see mlflow_view; None if it was not tracked."""
    experiment = known(folder).get("experiment")
    return page(home, mlflow_view.place(experiment), _server(folder)) if experiment else None


def newest_comparison(home: Home, url: str) -> str | None:
    """The page that compares the runs of the experiment of the newest tracked run, on a server at an address."""
    for path in sorted(home.runs.glob(f"*/{RUNS}"), reverse=True):
        if experiment := known(path.parent).get("experiment"):
            return f"{url}{mlflow_view.place(experiment)}"
    return None


def open_command(home: Home, folder: Path) -> str | None:
    """How to see a run, by its folder; None if it was not tracked."""
    place, server = _place(folder), _server(folder)
    if place is None:
        return None
    return page(home, place, server) if server else to_open(home, place)


def _server(folder: Path) -> str:
    """The server that has a run, in a shell that names none."""
    place = str(known(folder).get(PLACE, ""))
    return place if place.startswith("http") and not os.environ.get("MLFLOW_TRACKING_URI") else ""


def known(folder: Path) -> dict[str, Any]:
    """What the tracker has written down of a run."""
    try:
        found = json.loads((folder / RUNS).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _place(folder: Path) -> str | None:
    """Where MLflow's pages show the run."""
    found = known(folder)
    if "experiment" not in found or "parent" not in found.get("runs", {}):
        return None
    place = f"/#/experiments/{found['experiment']}/runs/{found['runs']['parent']}"
    return f"{place}?workflowType=machine_learning"  # else MLflow shows its pages for GenAI
