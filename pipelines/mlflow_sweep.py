"""A sweep in MLflow: a run of its own with plot and tables, variants called by their values, and a view of them."""

import json
import time
from collections.abc import Sequence
from pathlib import Path

from mlflow.entities import Param, RunTag
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NAME, MLFLOW_SOURCE_NAME

from pipelines import mlflow_view
from pipelines.home import Home
from pipelines.mlflow_tracker import MAX_TAG, ROLE, connect
from pipelines.mlflow_view import PARENTS, SWEEP
from pipelines.mlflow_words import RUNS, key_of
from pipelines.recipe import Recipe
from pipelines.sweep import Trial
from pipelines.sweep_space import Space
from pipelines.sweep_words import ORDER, names, short, short_order, words

VARIANT = "attar.variant"


def record(
    home: Home, experiment: str, folder: Path, trials: Sequence[Trial], files: Sequence[Path], space: Space
) -> str:
    """Tell MLflow of a sweep and of the values of its variants; may be called again, as the sweep goes on.

    Args:
        home: whose runs the variants are.
        experiment: the name of theirs.
        folder: of the sweep; the run, the tag of its variants and their view go by its name.
        trials: what ended so far.
        files: plot and tables, kept with the run.
        space: what they vary, for the names of their values.

    Returns:
        Where MLflow's pages compare the variants.

    Raises:
        Exception: MLflow cannot be reached, or refuses.
    """
    client, place = connect(home, experiment)
    sweep, paths = folder.name, dict.fromkeys(path for trial in trials for path in trial.values)
    called = {path: key_of(name) for path, name in names(paths, space.document).items()}
    values, orders = [trial.values for trial in trials], space.search.orders
    moving = [path for path in paths if any(one.get(path) != values[0].get(path) for one in values)]
    parents = {parent: trial for trial in trials if (parent := _parent(home, trial)) is not None}
    for parent, trial in parents.items():
        told = {path: trial.values[path] for path in moving if path in trial.values}  # names are cut off in lists
        name = f"{trial.number:02} {short(told, space.document, orders)}".strip()
        tags = {SWEEP: sweep, VARIANT: trial.label[:MAX_TAG], MLFLOW_RUN_NAME: name}
        own = {path: name for path, name in called.items() if path in trial.values and name not in Recipe.model_fields}
        said = words(trial.values, space.document)
        said |= {path: short_order(trial.values[path], space.document, orders) for path in said if path == ORDER}
        params = [Param(name, said[path]) for path, name in own.items()]  # the recipe's own are there
        client.log_batch(parent, params=params, tags=[RunTag(tag, text[:MAX_TAG]) for tag, text in tags.items()])
    for other in client.search_runs([place], f"{PARENTS} and tags.`{SWEEP}` = '{sweep}'"):
        if other.info.run_id not in parents:  # that variant has run again
            client.delete_tag(other.info.run_id, SWEEP)
    run = _run(client, place, sweep)
    for path in files:
        client.log_artifact(run, str(path))
    client.log_metric(run, "variants", sum(trial.row is not None for trial in trials), round(1000 * time.time()), 0)
    client.set_terminated(run, "FINISHED")
    mlflow_view.keep(client, place, sweep, list(called.values()))
    return mlflow_view.place(place, sweep)


def _run(client: MlflowClient, experiment: str, sweep: str) -> str:
    """The run that holds what belongs to the sweep as a whole."""
    asked = f"tags.`{SWEEP}` = '{sweep}' and tags.`{ROLE}` = 'sweep'"
    for found in client.search_runs([experiment], asked, max_results=1):
        return str(found.info.run_id)
    tags = {ROLE: "sweep", SWEEP: sweep, MLFLOW_RUN_NAME: sweep, MLFLOW_SOURCE_NAME: "attar"}
    return str(client.create_run(experiment, tags=tags).info.run_id)


def _parent(home: Home, trial: Trial) -> str | None:
    """The variant's run in MLflow, if it was tracked and is there."""
    try:
        return str(json.loads((home.runs / trial.run / RUNS).read_text())["runs"]["parent"]) if trial.run else None
    except (OSError, ValueError, KeyError):
        return None
