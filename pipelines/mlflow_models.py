"""Logged models in MLflow without copies: a model that stays in the store, and what MLflow needs to register it."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

from mlflow.entities import LoggedModel, LoggedModelStatus
from mlflow.models.model import MLMODEL_FILE_NAME
from mlflow.models.utils import get_external_mlflow_model_spec
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_IS_EXTERNAL

TYPE = "attar"


def find(client: MlflowClient, experiment: str, run: str, name: str) -> LoggedModel | None:
    """The logged model of a run by its name."""
    query = f"source_run_id = '{run}' AND name = '{name}'"
    return next(iter(client.search_logged_models([experiment], query, max_results=1)), None)


def keep(
    client: MlflowClient,
    experiment: str,
    run: str,
    name: str,
    tags: Mapping[str, str],
    params: Mapping[str, str] | None = None,
) -> LoggedModel:
    """The logged model of a run by its name, which is made and made ready where that has not been done."""
    model = find(client, experiment, run, name)
    if model is None:
        told = {**tags, MLFLOW_MODEL_IS_EXTERNAL: "true"}
        model = client.create_logged_model(experiment, name, run, told, dict(params or {}), model_type=TYPE)
    if model.status == LoggedModelStatus.READY:
        return model
    with tempfile.TemporaryDirectory() as folder:
        get_external_mlflow_model_spec(model).save(str(Path(folder) / MLMODEL_FILE_NAME))
        client.log_model_artifacts(model.model_id, folder)
    return client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
