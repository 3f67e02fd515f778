"""A sweep in MLflow: a run of its own with plot and tables, variants called by their values, and a view of them."""

import json
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from mlflow.entities import Param, Run, RunTag
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NAME, MLFLOW_SOURCE_NAME

from pipelines import mlflow_choice, mlflow_view, recipe_yaml
from pipelines.home import RECIPE, Home
from pipelines.mlflow_tracker import MAX_TAG, ROLE, RUN, connect
from pipelines.mlflow_view import CHOICE, PARENTS, PLACE, SWEEP
from pipelines.mlflow_words import RUNS, key_of
from pipelines.recipe import Recipe, Track
from pipelines.sweep import FILE, Trial, trials_in
from pipelines.sweep_space import Search, Space, read
from pipelines.sweep_words import ORDER, names, short, short_order, whole, words

ENDED = "sweep.json"  # is there once a sweep has come to an end
FILES = ("pareto.png", ENDED, "sweep.csv", FILE, "report.html")
VARIANT = "attar.variant"
RECORDED = "recorded.json"  # in the sweep's folder: what MLflow was told last
NOTE = "mlflow.note.content"  # the description, on the page of a run


def record(
    home: Home, experiment: str, folder: Path, trials: Sequence[Trial], files: Sequence[Path], space: Space
) -> str:
    """Tell MLflow of a sweep, of the values of its variants, and which to ship; may be called again, as it goes on.

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
    chosen = mlflow_choice.of_sweep(home, folder)
    parents = {parent: trial for trial in trials if (parent := _parent(home, trial)) is not None}
    for parent, trial in parents.items():
        told = {path: trial.values[path] for path in moving if path in trial.values}  # names are cut off in lists
        tags = {SWEEP: sweep, VARIANT: trial.label}
        name = [f"{trial.number:02}", short(told, space.document, orders)]
        if mark := chosen.marks.get(trial.run):
            tags |= {CHOICE: f"{mark.sign} {mark.words}", PLACE: mark.place}
            name.insert(0, mark.sign)
        tags[MLFLOW_RUN_NAME] = " ".join(filter(None, name))
        own = {path: name for path, name in called.items() if path in trial.values and name not in Recipe.model_fields}
        said = words(trial.values, space.document)
        said |= {path: short_order(trial.values[path], space.document, orders) for path in said if path == ORDER}
        there = client.get_run(parent).data.params  # they never change, though an older Attar told the same otherwise
        new = [Param(name, said[path]) for path, name in own.items() if name not in there]
        client.log_batch(parent, params=new, tags=[RunTag(tag, text[:MAX_TAG]) for tag, text in tags.items()])
    for other in client.search_runs([place], f"{PARENTS} and tags.`{SWEEP}` = '{sweep}'"):
        if other.info.run_id not in parents:  # that variant has run again
            _forget(client, other)
    run = _run(client, place, sweep)
    for path in files:
        client.log_artifact(run, str(path))
    client.log_metric(run, "variants", sum(trial.row is not None for trial in trials), round(1000 * time.time()), 0)
    client.set_tag(run, NOTE, chosen.text[:MAX_TAG])
    client.set_terminated(run, "FINISHED")
    mlflow_view.keep(client, place, sweep, list(called.values()))
    (folder / RECORDED).write_text(json.dumps(_state(home, trials)) + "\n")
    return mlflow_view.place(place, sweep)


def catch_up(home: Home, folder: Path) -> str | None:
    """Tell MLflow of a sweep that has ended; how many variants it has, in words, or None where nothing is new.

    Raises:
        Exception: MLflow cannot be reached, or refuses.
    """
    trials = trials_in(folder)
    if not (folder / ENDED).is_file() or not any(_parent(home, trial) for trial in trials):
        return None  # it goes on, or was not tracked
    with suppress(OSError, ValueError):
        if json.loads((folder / RECORDED).read_text()) == _state(home, trials):
            return None
    space = _space(home, folder, trials)
    trials = [replace(trial, label=space.label(trial.values)) for trial in trials]
    files = [path for name in FILES if (path := folder / name).is_file()]
    experiment = Track.model_validate(space.document.get("track") or {}).experiment
    record(home, experiment, folder, trials, files, space)
    count = sum(trial.row is not None for trial in trials)
    return f"{count} {'variant' if count == 1 else 'variants'}"


def _state(home: Home, trials: Sequence[Trial]) -> list[list[str | None]]:
    """What a record is made of: MLflow has it once it was told of the same."""
    return [[trial.run, trial.status, _parent(home, trial)] for trial in trials]


def _space(home: Home, folder: Path, trials: Sequence[Trial]) -> Space:
    """What the sweep varies; of an Attar that did not keep its recipe, as far as the variants tell it."""
    if (file := folder / FILE).is_file():
        return read(recipe_yaml.parse(recipe_yaml.read_text(file), f"the recipe {file}"))
    files = [(trial, home.runs / trial.run / RECIPE) for trial in trials if trial.run]
    document = whole(
        [
            (trial.values, recipe_yaml.parse(recipe_yaml.read_text(file), f"the recipe {file}"))
            for trial, file in files
            if file.is_file()
        ]
    )
    orders = [trial.values[ORDER] for trial in trials if ORDER in trial.values]
    return Space(document, Search(orders=orders), {})


def _forget(client: MlflowClient, run: Run) -> None:
    """A run that was a variant is one among others again."""
    for tag in (SWEEP, VARIANT, CHOICE, PLACE):
        if tag in run.data.tags:
            client.delete_tag(run.info.run_id, tag)
    if own := run.data.tags.get(RUN):
        client.set_tag(run.info.run_id, MLFLOW_RUN_NAME, own)


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
