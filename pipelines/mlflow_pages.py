"""Brings what MLflow shows of a home up to date: views an older Attar did not write, and sweeps it was not told of."""

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from attar.credentials import without_credentials
from attar.errors import first_line
from pipelines import mlflow_place
from pipelines.home import Home
from pipelines.mlflow_link import known
from pipelines.mlflow_words import HOME, PLACE, RUNS, VIEWED
from pipelines.process import alive


def refresh(home: Home, tell: Callable[[str], None], warn: Callable[[str], None]) -> None:
    """Write the views of all experiments, and mark the variants of all sweeps that have ended.

    Args:
        home: whose runs they are.
        tell: gets a sentence about each sweep that is new there.
        warn: gets a sentence about what is not possible.
    """
    tracked, here = [known(path.parent) for path in sorted(home.runs.glob(f"*/{RUNS}"))], mlflow_place.here(home)
    tracked = [found for found in tracked if "experiment" in found and found.get(PLACE, here) == here]
    experiments = sorted({str(found["experiment"]) for found in tracked})
    if not experiments:
        return
    from pipelines import mlflow_sweep

    for experiment in experiments:
        try:
            _write(home, experiment)
        except Exception as error:  # whatever MLflow has against one, the others are written
            warn(f"the view of experiment {experiment}: {without_credentials(first_line(error))}")
    for folder in sorted(path for path in (home.root / "sweeps").glob("*") if path.is_dir()):
        try:
            told = mlflow_sweep.catch_up(home, folder)
        except Exception as error:  # the same
            warn(f"the sweep {folder.name}: {without_credentials(first_line(error))}")
            continue
        if told is not None:
            tell(f"{folder.name}: sweep of {told}")


def ensure(home: Home, folder: Path) -> None:
    """Write the view that the address of a run's experiment names, if an older Attar has tracked the run.

    Only into the database in the home: a server may be away, and takes the views with ``attar sync``. A run that is
    going on writes it by itself, and keeps its own book.
    """
    found = known(folder)
    if alive(folder) or VIEWED in found or "experiment" not in found or not home.mlflow_uri.startswith("sqlite:"):
        return
    if found.get(PLACE, HOME) != HOME:  # another MLflow's, whose views are not ours to write here
        return
    with suppress(Exception):  # then the page opens on MLflow's own overview
        _write(home, str(found["experiment"]))
        if alive(folder):  # it was taken up again meanwhile
            return
        draft = folder / f"{RUNS}.viewed.{os.getpid()}.draft"  # not the tracker's own
        draft.write_text(json.dumps(known(folder) | {VIEWED: True}, indent=1))  # with what was kept meanwhile
        draft.replace(folder / RUNS)


def _write(home: Home, experiment: str) -> None:
    from pipelines.embedded import configure

    configure(home)
    from mlflow.tracking import MlflowClient

    from pipelines import mlflow_view

    mlflow_view.keep(MlflowClient(tracking_uri=home.mlflow_uri), experiment)
