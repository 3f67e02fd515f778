"""Knows in which MLflow a run was begun: what is left of it belongs there and nowhere else."""

from collections.abc import Sequence
from pathlib import Path

from attar.credentials import without_credentials
from pipelines import mlflow_registry, serving
from pipelines.home import Home
from pipelines.mlflow_link import known
from pipelines.mlflow_words import HOME, PLACE, RUNS


def here(home: Home) -> str:
    """What the MLflow of this process is written down as; homes may be moved, and their database may be served."""
    uri = home.mlflow_uri.rstrip("/")
    own = uri in (f"sqlite:///{home.root / 'mlflow.db'}", serving.mlflow(home))
    return HOME if own else without_credentials(uri)


def elsewhere(home: Home, folder: Path) -> str | None:
    """Where a run was begun, empty if nobody wrote that down; None if it was here, or was not begun.

    One place may go by several addresses, so one of another name is asked for the run.
    """
    found = known(folder)
    parent, place = found.get("runs", {}).get("parent"), str(found.get(PLACE, ""))
    if parent is None or place == here(home):
        return None
    return None if mlflow_registry.has(home, parent) else place


def advice(home: Home, place: str, runs: Sequence[str]) -> str:
    """How to send the rest of runs that were begun in another place."""
    some = f"{len(runs)} runs, {runs[0]} and others," if len(runs) > 1 else f"the run {runs[0]}"
    where = {HOME: "in the home's own MLflow", "": f"in another MLflow than {mlflow_registry.shown(home)}"}
    to_do = {HOME: "unset MLFLOW_TRACKING_URI", "": "set MLFLOW_TRACKING_URI as it was then"}
    lost = "" if place else f" (or, if it was deleted from MLflow for good, remove its {RUNS})"
    verb = "were" if len(runs) > 1 else "was"
    return (
        f"{some} {verb} begun {where.get(place, f'in {place}')}, and the rest waits for that: "
        f"{to_do.get(place, f'set MLFLOW_TRACKING_URI to {place}')} and run attar sync again{lost}"
    )
