"""Turns journal records into MLflow runs: one parent a pipeline run, one nested run a stage.

Run ids are explicit everywhere (MLflow's active run belongs to a thread) and kept in ``mlflow.json`` beside the
journal, so that what was not sent can be sent later. A run of a process that died is closed as KILLED at the next
start.
"""

import json
import os
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME, MLFLOW_SOURCE_NAME, MLFLOW_USER

from pipelines.chain import spelled
from pipelines.home import Home
from pipelines.journal import Record
from pipelines.process import alive

RUNS = "mlflow.json"
ROLE = "pipeline.role"  # "pipeline" on parents, "stage" on nested runs
PROCESS = "attar.process"  # host, pid and start time of the process that writes the run
STATUS = {"finished": "FINISHED", "failed": "FAILED", "cancelled": "KILLED"}
MAX_PARAM = 6000


class MlflowTracker:
    """Sends records of one run to the tracking server, or to the database in the home."""

    def __init__(self, home: Home, folder: Path, experiment: str, weights: str) -> None:
        self.client = MlflowClient(tracking_uri=home.mlflow_uri)
        self.folder = folder
        self.weights = weights
        self.experiment = self._experiment(home, experiment)
        try:
            self.runs: dict[str, str] = json.loads((folder / RUNS).read_text())["runs"]
        except (OSError, ValueError, KeyError):
            self.runs = {}
        self.process = ""  # of the run, which may be long gone when its journal is sent
        if not self.runs:  # otherwise a journal is being sent that begins in the middle: its runs are about to end
            self.close_dead()

    def send(self, record: Record) -> None:
        """Pass on one record; unknown kinds concern other readers."""
        handler = getattr(self, f"_{record['kind'].replace('-', '_')}", None)
        if handler is not None:
            handler(record)

    def close_dead(self) -> None:
        """Mark RUNNING runs whose process is gone as KILLED."""
        running = self.client.search_runs([self.experiment], "attributes.status = 'RUNNING'", max_results=1000)
        for run in running:
            process = run.data.tags.get(PROCESS)
            if process is not None and not alive(process):
                text = "the process died; running the recipe again goes on from there"
                self.client.set_tag(run.info.run_id, "attar.error", text)
                self.client.set_terminated(run.info.run_id, "KILLED")

    def _experiment(self, home: Home, name: str) -> str:
        found = self.client.get_experiment_by_name(name)
        if found is not None:
            if found.lifecycle_stage != "active":
                self.client.restore_experiment(found.experiment_id)
            return str(found.experiment_id)
        local = home.mlflow_uri.startswith("sqlite:")
        place = (home.mlflow_artifacts / name).as_uri() if local else None
        return str(self.client.create_experiment(name, artifact_location=place))

    def _run(self, record: Record) -> None:
        recipe, self.process = record["recipe"], record["process"]
        tags = {
            ROLE: "pipeline",
            "attar.run": record["run"],
            "attar.recipe": record["name"],
            "prefect.flow_run_id": record["flow_run"],
        }
        run = self._create("parent", record["run"], record["time"], tags)
        flat = {key: value for key, value in recipe.items() if key not in ("stages", "track")}
        flat["stages"] = spelled(recipe["stages"])
        self._params(run, flatten(flat) | flatten({"machine": record["machine"]}))

    def _step(self, record: Record) -> None:
        if not record["step"]:
            return  # the origin is no stage: its figures go to the parent
        key = f"step-{record['step']}"
        tags = {
            ROLE: "stage",
            MLFLOW_PARENT_RUN_ID: self.runs["parent"],
            "cached": str(record["cached"]).lower(),
            "measurement_cached": str(record["measured"]).lower(),
            "fingerprint": record["fingerprint"],
            "folder": record["folder"],
        }
        run = self._create(key, record["label"], record["time"], tags)
        self._params(run, flatten(record["settings"]) | flatten({"input": record["inputs"]}))

    def _metrics(self, record: Record) -> None:
        run = self._run_of(record)
        points = [Metric(name, value, round(1000 * when), at or 0) for name, value, at, when in record["points"]]
        for start in range(0, len(points), 1000):
            self.client.log_batch(run, metrics=points[start : start + 1000])

    def _measured(self, record: Record) -> None:
        row, when = record["row"], round(1000 * record["time"])
        group = "stage" if record["step"] else "origin"
        values = {f"{group}/{name}": value for name, value in figures(row).items()}
        run = self._run_of(record)
        self.client.log_batch(run, metrics=[Metric(name, value, when, 0) for name, value in values.items()])
        if record["step"]:
            self._file(run, Path(row["folder"]) / "manifest.json")

    def _end_step(self, record: Record) -> None:
        if record["step"]:
            self._close(f"step-{record['step']}", record)

    def _end_run(self, record: Record) -> None:
        run = self.runs["parent"]
        for path in record["files"]:
            self._file(run, Path(path))
        report = self.folder / "report.json"
        rows = json.loads(report.read_text())["rows"] if record["status"] == "finished" and report.is_file() else []
        if rows:
            last = next(row for row in reversed(rows) if row.get("pairs") is None)  # a model, not a dataset
            self._final(run, last, round(1000 * record["time"]))
        if record["text"]:
            self.client.set_tag(run, "attar.error", record["text"][:5000])
        self._close("parent", record)

    def _final(self, run: str, row: dict[str, Any], when: int) -> None:
        """The result on the parent alone, so that charts over pipeline runs hold one point a run."""
        found = figures(row)
        values = {"compression_ratio": found.pop("compression_ratio")} | {f"quality/{k}": v for k, v in found.items()}
        self.client.log_batch(run, metrics=[Metric(name, value, when, 0) for name, value in values.items()])
        self.client.set_tag(run, "weights.folder", row["folder"])
        if self.weights == "copy":
            self.client.log_artifacts(run, row["folder"], "weights")

    def _run_of(self, record: Record) -> str:
        return self.runs[f"step-{record['step']}" if record["step"] else "parent"]

    def _create(self, key: str, name: str, when: float, tags: dict[str, str]) -> str:
        if key not in self.runs:
            common = {
                MLFLOW_RUN_NAME: name,
                MLFLOW_SOURCE_NAME: "attar",
                MLFLOW_USER: os.environ.get("USER", "attar"),
                PROCESS: self.process,
            }
            made = self.client.create_run(self.experiment, start_time=round(1000 * when), tags=common | tags)
            self.runs[key] = str(made.info.run_id)
            draft = self.folder / f"{RUNS}.draft"
            draft.write_text(json.dumps({"experiment": self.experiment, "runs": self.runs}, indent=1))
            draft.replace(self.folder / RUNS)
        return self.runs[key]

    def _params(self, run: str, values: dict[str, Any]) -> None:
        params = [Param(key, str(value)[:MAX_PARAM]) for key, value in values.items()]
        for start in range(0, len(params), 100):
            self.client.log_batch(run, params=params[start : start + 100])

    def _file(self, run: str, path: Path) -> None:
        if path.is_file():
            self.client.log_artifact(run, str(path))

    def _close(self, key: str, record: Record) -> None:
        if key in self.runs:
            self.client.set_terminated(self.runs[key], STATUS[record["status"]], round(1000 * record["time"]))


def figures(row: dict[str, Any]) -> dict[str, float]:
    """The numbers of a report row that are there."""
    skipped = ("step", "cached")
    if row.get("pairs") is not None:  # the model is that of the step before, which has told of it
        row = {key: row.get(key) for key in ("pairs", "tokens", "price", "seconds", "peak_memory_bytes")}
    return {k: float(v) for k, v in row.items() if isinstance(v, int | float) and k not in skipped}


def flatten(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted params."""
    flat: dict[str, Any] = {}
    for key, entry in value.items():
        flat |= flatten(entry, f"{prefix}{key}.") if isinstance(entry, dict) else {f"{prefix}{key}": entry}
    return flat
