"""Turns journal records into MLflow runs: one parent a pipeline run, one nested run a stage.

Run ids are explicit everywhere (MLflow's active run belongs to a thread) and kept in ``mlflow.json`` beside the
journal, so that what was not sent can be sent later; where that file is lost, runs are found by their tags. All of a
record may be sent twice. A run of a process that died is closed as KILLED at the next start.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any

from mlflow.entities import DatasetInput, Metric, Param, RunTag
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME, MLFLOW_SOURCE_NAME, MLFLOW_USER

from attar.errors import StageFailed, first_line
from pipelines import cost_figures, journal, mlflow_models, mlflow_place, mlflow_view, task_figures
from pipelines.chain import spelled
from pipelines.champion import CHAMPION, Champion
from pipelines.home import Home
from pipelines.journal import Record
from pipelines.mlflow_data import Texts
from pipelines.mlflow_link import known
from pipelines.mlflow_view import COMPARABLE
from pipelines.mlflow_words import PLACE, RUNS, VIEWED, flatten, key_of, name_of, refuses
from pipelines.process import alive
from pipelines.sender import Refused

ROLE = "pipeline.role"  # "pipeline" on parents, "stage" on nested runs
RUN = "attar.run"
STEP = "attar.step"
ERROR = "attar.error"
PROCESS = "attar.process"  # host, pid and start time of the process that wrote the run
STATUS = {"finished": "FINISHED", "failed": "FAILED", "cancelled": "KILLED"}
MODEL_TAGS: tuple[str, ...] = ("fingerprint", "evaluation", "folder")  # of a row that its model goes by
MAX_PARAM = 6000
MAX_TAG = 5000


def connect(home: Home, experiment: str) -> tuple[MlflowClient, str]:
    """A client of the tracking server, or of the database in the home, and the id of the experiment."""
    client = MlflowClient(tracking_uri=home.mlflow_uri)
    found = client.get_experiment_by_name(experiment)
    if found is None:
        local = home.mlflow_uri.startswith("sqlite:")
        place = (home.mlflow_artifacts / experiment).as_uri() if local else None
        try:
            return client, str(client.create_experiment(experiment, artifact_location=place))
        except Exception:
            found = client.get_experiment_by_name(experiment)
            if found is None:  # else another run has made it at the same moment
                raise
    if found.lifecycle_stage != "active":
        client.restore_experiment(found.experiment_id)
    return client, str(found.experiment_id)


def close_dead(home: Home, client: MlflowClient, experiment: str) -> None:
    """Mark RUNNING runs of this home whose process is gone as KILLED. Those of other homes are not ours to judge."""
    running = {
        run.info.run_id for run in client.search_runs([experiment], "attributes.status = 'RUNNING'", max_results=1000)
    }
    for path in home.runs.glob(f"*/{RUNS}") if running else ():
        if not alive(path.parent):
            for run in sorted(running & set(known(path.parent).get("runs", {}).values())):
                client.set_tag(run, ERROR, "the process died; running the recipe again goes on from there")
                client.set_terminated(run, "KILLED")


class MlflowTracker:
    """Sends records of one run; connects when it is made."""

    def __init__(self, home: Home, folder: Path, experiment: str, weights: str) -> None:
        self.client, self.experiment = connect(home, experiment)
        self.home = home
        self.folder = folder
        self.weights = weights
        found = known(folder)
        self.runs: dict[str, str] = found.get("runs", {})  # key → id
        self.place = found.get(PLACE) or mlflow_place.here(home)
        # Of the run, which may be long gone when its journal is sent.
        begun = next((r for r in reversed(journal.read(folder)) if r["kind"] == "run"), None)
        self.process = begun["process"] if begun else ""
        self.texts = Texts.of(begun) if begun else Texts({}, {})
        self.model = PurePath(str(begun["recipe"].get("model", ""))).name if begun else ""
        self._refusals: list[str] = []
        self._viewed = False

    def send(self, record: Record) -> None:
        """Pass on one record; unknown kinds concern other readers.

        Raises:
            Refused: the server does not take a part of it and never will; it has all other parts.
        """
        handler = getattr(self, f"_{record['kind'].replace('-', '_')}", None)
        if handler is None:
            return
        self._refusals = []
        with self._part(record["kind"]):
            handler(record)
        if self._refusals and "parent" not in self.runs:  # without it nothing that follows can be sent: it comes again
            raise StageFailed(self._refusals[0])
        if self._refusals:
            raise Refused(self._refusals[0])

    @contextmanager
    def _part(self, name: str) -> Iterator[None]:
        """Goes on behind a part of a record that is refused; anything else is raised, and the record comes again."""
        try:
            yield
        except Exception as error:
            if not refuses(error):
                raise
            self._refusals.append(f"{name}: {first_line(error)}")

    def _run(self, record: Record) -> None:
        recipe, self.process, self.texts = record["recipe"], record["process"], Texts.of(record)
        tags = {
            ROLE: "pipeline",
            RUN: record["run"],
            "attar.recipe": record["name"],
            "prefect.flow_run_id": record["flow_run"],
            "prefect.url": record.get("flow_run_url"),
        }
        run = self._create("parent", record["run"], record["time"], tags)
        flat = {key: value for key, value in recipe.items() if key not in ("stages", "track")}
        flat["stages"] = spelled(recipe["stages"])
        self._params(run, flatten(flat) | flatten({"machine": record["machine"]}) | settings(record.get("plan", [])))
        self._datasets(run, self.texts.measured())
        self._view()

    def _step(self, record: Record) -> None:
        if not record["step"]:
            return  # the origin is no stage: its figures go to the parent
        tags = {
            ROLE: "stage",
            STEP: str(record["step"]),
            MLFLOW_PARENT_RUN_ID: self.runs["parent"],
            "cached": str(record["cached"]).lower(),
            "measurement_cached": str(record["measured"]).lower(),
            "fingerprint": record["fingerprint"],
            "folder": record["folder"],
        }
        run = self._create(f"step-{record['step']}", record["label"], record["time"], tags)
        self._params(run, flatten(record["settings"]) | flatten({"input": record["inputs"]}))
        self._datasets(run, self.texts.used(record["inputs"]))

    def _metrics(self, record: Record) -> None:
        run = self._run_of(record)
        points = [
            Metric(key_of(name), value, round(1000 * when), at or 0) for name, value, at, when in record["points"]
        ]
        for start in range(0, len(points), 1000):
            self.client.log_batch(run, metrics=points[start : start + 1000])

    def _measured(self, record: Record) -> None:
        row, when = record["row"], round(1000 * record["time"])
        group = "stage" if record["step"] else "origin"
        run = self._run_of(record)
        model = None
        if record["step"] and row.get("pairs") is None:
            with self._part("model"):
                model = self._model(run, row)
        self.client.log_batch(run, metrics=self._metrics_of(f"{group}/", figures(row), when, model))
        if group := row.get("group"):
            self.client.set_tag(self.runs["parent"], COMPARABLE, mlflow_view.comparable(self.model, group))
        if record["step"]:
            self._file(run, Path(row["folder"]) / "manifest.json")

    def _gate(self, record: Record) -> None:
        """What a gate came to, and what it changed, as tags; runs of stages that run anew make room for others."""
        decision = record["decision"]
        tag = f"gate.{decision['gate']}" + (f".{decision['action']}" if record["again"] is not None else "")
        self.client.set_tag(self.runs["parent"], tag, decision["text"][:MAX_TAG])
        for key in [key for key in self.runs if key.startswith("step-")]:
            number = key.removeprefix("step-")
            if record["again"] is not None and int(number) >= record["again"]:
                changed = {ROLE: "superseded", STEP: f"{number} before {decision['rule']}"[:MAX_TAG]}
                self.client.log_batch(self.runs[key], tags=[RunTag(tag, value) for tag, value in changed.items()])
                del self.runs[key]
        self._keep()

    def _champion(self, record: Record) -> None:
        """Register the final model; what it came to is for the run's folder, too, since nobody else knows."""
        from pipelines.champion_lines import Lines

        policy, run = Champion.model_validate(record["policy"]), self.runs["parent"]
        told = Lines(self.home, self.client).consider(policy, record["row"], record["run"], run, self.experiment)
        self.client.set_tag(run, "champion", told[:MAX_TAG])
        (self.folder / CHAMPION).write_text(f"{told}\n")

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
            with self._part("result"):
                self._final(run, last, round(1000 * record["time"]))
        self._close("parent", record)
        self._view()

    def _final(self, run: str, row: dict[str, Any], when: int) -> None:
        """The result on the parent alone, so that charts over pipeline runs hold one point a run."""
        found = figures(row)
        ratio = {"compression_ratio": found.pop("compression_ratio")}
        made = self.runs.get(f"step-{row['step']}")
        model = mlflow_models.find(self.client, self.experiment, made, _name(row)) if made else None
        known = model.model_id if model else None
        metrics = self._metrics_of("", ratio, when, known) + self._metrics_of("quality/", found, when, known)
        self.client.log_batch(run, metrics=metrics)
        self.client.set_tag(run, "weights.folder", row["folder"])
        if self.weights == "copy":
            self.client.log_artifacts(run, row["folder"], "weights")

    def _run_of(self, record: Record) -> str:
        return self.runs[f"step-{record['step']}" if record["step"] else "parent"]

    def _create(self, key: str, name: str, when: float, tags: dict[str, str | None]) -> str:
        """The run of a key: known, found by its tags, or new. One that was there runs again from now on."""
        common = {
            MLFLOW_RUN_NAME: name,
            MLFLOW_SOURCE_NAME: "attar",
            MLFLOW_USER: os.environ.get("USER", "attar"),
            PROCESS: self.process,
        }
        all_tags = {tag: value[:MAX_TAG] for tag, value in (common | tags).items() if value}
        run = self.runs.get(key) or self._find(all_tags)
        if run is None:
            made = self.client.create_run(self.experiment, start_time=round(1000 * when), tags=all_tags)
            run = str(made.info.run_id)
        else:
            self.client.log_batch(run, tags=[RunTag(tag, value) for tag, value in all_tags.items()])
            self.client.update_run(run, status="RUNNING")
        if self.runs.get(key) != run:
            self.runs[key] = run
            self._keep()
        return run

    def _keep(self) -> None:
        """Write down which run is whose."""
        draft = self.folder / f"{RUNS}.draft"
        found = {"experiment": self.experiment, PLACE: self.place, "runs": self.runs}
        draft.write_text(json.dumps(found | ({VIEWED: True} if self._viewed else {}), indent=1))
        draft.replace(self.folder / RUNS)

    def _find(self, tags: dict[str, str]) -> str | None:
        """A run made by this very process for this record, whose id was lost on the way."""
        names = (ROLE, PROCESS, RUN) if tags[ROLE] == "pipeline" else (ROLE, MLFLOW_PARENT_RUN_ID, STEP)
        if any("'" in tags.get(name, "'") for name in names):
            return None
        query = " and ".join(f"tags.`{name}` = '{tags[name]}'" for name in names)
        found = self.client.search_runs([self.experiment], query, max_results=1)
        return str(found[0].info.run_id) if found else None

    def _params(self, run: str, values: dict[str, Any]) -> None:
        params = [Param(key_of(key), str(value)[:MAX_PARAM]) for key, value in values.items()]
        for start in range(0, len(params), 100):
            with self._part("params"):
                self.client.log_batch(run, params=params[start : start + 100])

    def _metrics_of(self, group: str, values: dict[str, float], when: int, model: str | None) -> list[Metric]:
        """Figures of a row with the model that has them and the text that they are measured on."""
        return [
            Metric(
                key_of(f"{group}{name}"), value, when, 0, model_id=model, **(self.texts.below(name) if model else {})
            )
            for name, value in values.items()
        ]

    def _model(self, run: str, row: dict[str, Any]) -> str:
        """The stage's model as MLflow knows it: figures, settings, and where it lies."""
        params = self.client.get_run(run).data.params
        tags = {RUN: self.folder.name} | {name: str(row[name])[:MAX_TAG] for name in MODEL_TAGS if name in row}
        return str(mlflow_models.keep(self.client, self.experiment, run, _name(row), tags, params).model_id)

    def _datasets(self, run: str, found: list[DatasetInput]) -> None:
        if found:
            with self._part("datasets"):
                self.client.log_inputs(run, found)

    def _view(self) -> None:
        """The page on which the runs of the experiment are compared."""
        with self._part("view"):
            mlflow_view.keep(self.client, self.experiment)
            if not self._viewed:
                self._viewed = True
                self._keep()

    def _file(self, run: str, path: Path) -> None:
        if path.is_file():
            with self._part(path.name):
                self.client.log_artifact(run, str(path))

    def _close(self, key: str, record: Record) -> None:
        if key not in self.runs:
            return
        run, text = self.runs[key], record.get("text", "")
        if text:
            self.client.set_tag(run, ERROR, text[:MAX_TAG])
        elif ERROR in self.client.get_run(run).data.tags:  # taken for dead before its journal was sent
            self.client.delete_tag(run, ERROR)
        self.client.set_terminated(run, STATUS[record["status"]], round(1000 * record["time"]))


def settings(plan: list[dict[str, Any]]) -> dict[str, Any]:
    """Settings of all stages, to compare runs by: ``distill.logit.temperature``, ``prune.width 2.ffn``."""
    flat: dict[str, Any] = {}
    names: list[str] = []
    for step in plan:
        names.append(step["name"])
        count = names.count(step["name"])
        told = {key: value for key, value in step.get("settings", {}).items() if key != "stage"}
        flat |= flatten(told, f"{step['name']}{f' {count}' if count > 1 else ''}.")
    return flat


def _name(row: dict[str, Any]) -> str:
    return name_of(f"{row['step']} {row.get('name', 'model')}")


def figures(row: dict[str, Any]) -> dict[str, float]:
    """The numbers of a report row that are there."""
    skipped = ("step", "cached")
    if row.get("pairs") is not None:  # the model is that of the step before, which has told of it
        row = {key: row.get(key) for key in ("pairs", "tokens", "price", "seconds", "peak_memory_bytes")}
    own = {k: float(v) for k, v in row.items() if isinstance(v, int | float) and k not in skipped}
    return own | task_figures.numbers(row.get("tasks") or {}) | cost_figures.numbers(row)
