"""What MLflow's model registry needs of a home: the folders and runs that registered models came from."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attar.credentials import without_credentials
from attar.errors import BadInput, StageFailed, first_line
from pipelines.home import Home
from pipelines.inventory import named
from pipelines.mlflow_words import RUNS
from pipelines.retention import Pins


def pins(home: Home) -> Pins:
    """Fingerprints and runs behind every version of every registered model.

    Raises:
        BadInput: runs of this home were tracked by another MLflow than this one, whose registry would have to be asked.
        StageFailed: MLflow cannot be reached.
    """
    tracked = _tracked(home)
    if _missing(home):
        if tracked:
            raise _elsewhere(home, next(iter(tracked)))
        return Pins()
    from mlflow.tracking import MlflowClient

    try:
        client = MlflowClient(tracking_uri=home.mlflow_uri)
        found = list(versions(client))
        for run, parent in tracked.items():
            if _tags(client, parent) is None:
                raise _elsewhere(home, run)
        told = [texts for version in found for texts in _told(client, version)]
    except BadInput:
        raise
    except Exception as error:  # a server that is down, a wrong password, a database of another version
        raise StageFailed(
            f"MLflow at {shown(home)} cannot be asked which models are registered ({first_line(error)}), so nothing "
            "is deleted; try again when it can"
        ) from None
    ids = {str(tags["attar.run"]) for tags in told if isinstance(tags, dict) and "attar.run" in tags}
    return Pins(named(home, told), frozenset(ids))


def has(home: Home, run: str) -> bool:
    """Whether the MLflow of this process gave that id to a run, even to one that was deleted since."""
    if _missing(home):
        return False
    from mlflow.tracking import MlflowClient

    return _tags(MlflowClient(tracking_uri=home.mlflow_uri), run) is not None


def _missing(home: Home) -> bool:
    """Whether MLflow would be a database file that is not there."""
    path = home.mlflow_uri.removeprefix("sqlite:///")
    return path != home.mlflow_uri and not Path(path).is_file()


def _tracked(home: Home) -> dict[str, str]:
    """Run → its parent run in MLflow, of the runs that were tracked."""
    found = {}
    for path in sorted(home.runs.glob(f"*/{RUNS}")):
        try:
            found[path.parent.name] = str(json.loads(path.read_text())["runs"]["parent"])
        except (OSError, ValueError, KeyError, TypeError):  # it broke off before the first record was sent
            continue
    return found


def versions(client: Any, asked: str | None = None) -> Iterator[Any]:
    """Versions of all registered models, or of those that a filter such as ``name='line'`` names."""
    token = None
    while True:
        page = client.search_model_versions(asked, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _told(client: Any, version: Any) -> Iterator[Any]:
    """Everything around a version that may name a folder or a fingerprint."""
    yield [version.source or "", dict(version.tags)]
    runs = {version.run_id}
    logged = version.model_id or str(version.source or "").removeprefix("models:/")
    if logged.startswith("m-"):  # an external model: MLflow knows of it, and its weights lie where its tags say
        model = client.get_logged_model(logged)
        yield {**model.params, **model.tags}
        runs.add(model.source_run_id)
    for run in filter(None, runs):
        tags = _tags(client, run) or {}
        yield tags
        if parent := tags.get("mlflow.parentRunId"):
            yield {"attar.run": (_tags(client, parent) or {}).get("attar.run", "")}


def _tags(client: Any, run: str) -> dict[str, str] | None:
    """Tags of a run; None when this MLflow has none of that id, not even a deleted one."""
    from mlflow.exceptions import MlflowException

    try:
        return dict(client.get_run(run).data.tags)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def _elsewhere(home: Home, run: str) -> BadInput:
    return BadInput(
        f"the run {run} was tracked by an MLflow that is not {shown(home)}, and its registered models are not known "
        "here, so nothing is deleted; set MLFLOW_TRACKING_URI as it was then (or, if the run was deleted from MLflow "
        f"for good, remove {home.runs / run / RUNS})"
    )


def shown(home: Home) -> str:
    """Which MLflow it is, for a sentence."""
    return without_credentials(home.mlflow_uri)
