"""MLflow: one parent, one nested run a stage, and nothing that stops the work when it is down."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from attar.errors import StageFailed
from pipelines import embedded, journal, mlflow_link, tracking
from pipelines.home import Home
from pipelines.journal import Journal
from pipelines.process import LOCK, this_process
from pipelines.recipe import Recipe, validate

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

    from tests.pipelines.conftest import Attar

TEXTS = {"finished": "", "failed": "2 quantize.rtn ran out of memory; lower windows", "cancelled": "cancelled"}
NOWHERE = "http://127.0.0.1:9"  # the discard port: nothing listens


@pytest.fixture
def place(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """A home of its own, with the quiet environment of a run, for this test only."""
    with monkeypatch.context() as patch:
        for name in ("PREFECT_HOME", "MLFLOW_HTTP_REQUEST_MAX_RETRIES"):
            patch.setenv(name, "0")
        embedded.configure(Home(home))
        yield Home(home)


def client_of(home: Home) -> "MlflowClient":
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=f"sqlite:///{home.root / 'mlflow.db'}")


def runs_of(home: Home) -> "list[Run]":
    """All runs, in order of their start."""
    client = client_of(home)
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    return list(client.search_runs(ids, order_by=["attributes.start_time ASC", "tags.`pipeline.role` ASC"]))


def write(folder: Path, recipe: Recipe, home: Home, end: str = "finished", process: str = "") -> None:
    """The journal of a run of one stage, as an execution writes it; with ``end=""`` it breaks off."""
    folder.mkdir(parents=True)
    written = Journal(folder, tracking.open_tracker(recipe, home, folder, True))
    written.write(
        "run",
        run=folder.name,
        name=recipe.name,
        recipe=recipe.model_dump(mode="json"),
        plan=[],
        machine={"device": "cpu"},
        warnings=[],
        process=process,
        flow_run="f",
        flow_run_url="http://prefect/runs/flow-run/f",
    )
    facts = {"cached": False, "measured": False, "fingerprint": "abc", "folder": str(folder), "inputs": {"source": "x"}}
    written.write(
        "step",
        step=1,
        name="prune.width",
        label="1 prune.width",
        settings={"ffn": 0.25, "bits_of": {"layers.*.up": 8}},
        **facts,
    )
    written.write("metrics", step=1, points=[["loss", 1 / (i + 1), i, 1e9 + i] for i in range(1500)])
    if end:
        written.write("measured", step=1, row={"step": 1, "folder": str(folder), "retained": 0.8, "kl": None})
        written.write("end-step", step=1, status="finished")
        written.write("step", step=2, name="quantize.rtn", label="2 quantize.rtn", settings={"group_size": 16}, **facts)
        written.write("end-step", step=2, status=end)
        written.write("end-run", status=end, text=TEXTS[end], files=[])
    written.close()


def write_dead(folder: Path, recipe: Recipe, home: Home) -> None:
    """The same of a run that broke off with its process, on a machine of another name; its lock is nobody's."""
    write(folder, recipe, home, end="", process="another-host/1/boot.1")
    (folder / LOCK).unlink()


def ends(home: Home) -> dict[str, str]:
    """Name of a run → how it ended; parents are called by their id."""
    return {run.data.tags.get("attar.run", run.info.run_name): run.info.status for run in runs_of(home)}


def test_a_run_becomes_a_parent_and_nested_runs(place: Home, document: dict[str, Any]) -> None:
    write(place.runs / "r1", validate(document), place, process=this_process())
    assert not [r["text"] for r in journal.read(place.runs / "r1") if r["kind"] == "warning"]
    parent, stage, second = sorted(runs_of(place), key=lambda run: run.data.tags.get("attar.step", ""))
    assert [run.data.tags["pipeline.role"] for run in (parent, stage, second)] == ["pipeline", "stage", "stage"]
    assert stage.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert (parent.data.tags["prefect.flow_run_id"], parent.data.tags["prefect.url"][:12]) == ("f", "http://prefe")
    assert set(ends(place).values()) == {"FINISHED"}
    assert stage.data.params["ffn"] == "0.25" and parent.data.params["measure.windows"] == "4"
    assert stage.data.params["bits_of.layers.all.up"] == "8"
    curve = client_of(place).get_metric_history(stage.info.run_id, "loss")
    assert sorted(point.step for point in curve) == list(range(1500))
    assert stage.data.metrics["stage/retained"] == 0.8 and "stage/kl" not in stage.data.metrics
    assert journal.unsent(place.runs / "r1") == 0
    command = mlflow_link.open_command(place, place.runs / "r1")
    assert command is not None and parent.info.run_id in command and "JOB_EXECUTION=false" in command
    assert mlflow_link.address(place, place.runs / "r1") is None  # a database has no pages


@pytest.mark.parametrize(("end", "status"), [("failed", "FAILED"), ("cancelled", "KILLED")])
def test_a_run_ends_in_mlflow_as_it_ended(place: Home, document: dict[str, Any], end: str, status: str) -> None:
    write(place.runs / "r1", validate(document), place, end=end, process=this_process())
    assert ends(place) == {"r1": status, "1 prune.width": "FINISHED", "2 quantize.rtn": status}
    parent = next(run for run in runs_of(place) if "attar.run" in run.data.tags)
    assert parent.data.tags["attar.error"] == TEXTS[end]


def test_what_is_sent_twice_does_no_harm(place: Home, document: dict[str, Any]) -> None:
    """The process died before it wrote down what MLflow had taken already, its ids included."""
    folder = place.runs / "r1"
    write(folder, validate(document), place, process=this_process())
    before = {run.info.run_id: (run.info.status, run.data.metrics, run.data.params) for run in runs_of(place)}
    (folder / "mlflow.json").unlink()
    (folder / "journal.sent").unlink()
    told: list[str] = []
    assert tracking.sync(place, told.append) == {"r1": len(journal.read(folder))} and told == []
    assert {run.info.run_id: (run.info.status, run.data.metrics, run.data.params) for run in runs_of(place)} == before
    stage = next(run for run in runs_of(place) if run.data.tags.get("attar.step") == "1")
    assert len(client_of(place).get_metric_history(stage.info.run_id, "loss")) == 1500


def test_a_run_that_somebody_deleted_does_not_block_the_others(place: Home, document: dict[str, Any]) -> None:
    for name in ("r1", "r2"):
        write(place.runs / name, validate(document), place, process=this_process())
    deleted = next(run for run in runs_of(place) if run.data.tags.get("attar.run") == "r1")
    client_of(place).delete_run(deleted.info.run_id)
    for name in ("r1", "r2"):
        (place.runs / name / "journal.sent").write_text("1")
    told: list[str] = []
    assert list(tracking.sync(place, told.append)) == ["r1", "r2"]
    assert len(told) == 1 and told[0].startswith("r1: ") and tracking.sync(place) == {}


def test_runs_of_dead_processes_are_closed(place: Home, document: dict[str, Any]) -> None:
    recipe = validate(document)
    write_dead(place.runs / "r1", recipe, place)
    write(place.runs / "r2", recipe, place, end="", process=this_process())
    assert {run.info.status for run in runs_of(place)} == {"RUNNING"}
    tracking.catch_up(recipe, place).join()
    parents = {run.data.tags["attar.run"]: run.info.status for run in runs_of(place) if "attar.run" in run.data.tags}
    assert parents == {"r1": "KILLED", "r2": "RUNNING"}
    assert [run.info.status for run in runs_of(place)].count("KILLED") == 2  # the stage of r1 as well


def test_a_server_that_is_down_costs_a_warning_and_sync_sends_later(
    place: Home, document: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = validate(document)
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", NOWHERE)
        write(place.runs / "r1", recipe, place)
        with pytest.raises(StageFailed, match="could not be sent"):
            tracking.sync(place)
    records = journal.read(place.runs / "r1")
    assert "wait on disk" in records[-1]["text"] and NOWHERE[7:16] in records[-1]["text"]
    assert journal.ended(records) and journal.unsent(place.runs / "r1") == len(records)
    assert tracking.sync(place) == {"r1": len(records)}
    assert tracking.sync(place) == {}
    assert [run.info.status for run in runs_of(place)] == ["FINISHED"] * 3


def test_sync_closes_what_died_and_goes_on_past_what_cannot_be_sent(
    place: Home, document: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", NOWHERE)
        write(place.runs / "r1", validate(document), place)
        write_dead(place.runs / "r2", validate(document), place)
    broken = journal.read(place.runs / "r1")
    broken[0]["recipe"].pop("track")
    (place.runs / "r1" / journal.JOURNAL).write_text("".join(json.dumps(record) + "\n" for record in broken))
    with pytest.raises(
        StageFailed, match=r"the run r1 could not be sent to .*: its journal is damaged .*\(1 runs were sent\)"
    ):
        tracking.sync(place)
    assert journal.unsent(place.runs / "r2") == 0
    assert [run.info.status for run in runs_of(place)] == ["KILLED", "KILLED"]


def test_a_run_that_was_sent_in_part_is_not_called_dead(place: Home, document: dict[str, Any]) -> None:
    write_dead(place.runs / "r1", validate(document), place)
    ends = ({"kind": "end-step", "step": 1}, {"kind": "end-run", "text": "", "files": []})
    with open(place.runs / "r1" / journal.JOURNAL, "a") as file:
        file.writelines(json.dumps({"time": 2e9, "status": "finished", **end}) + "\n" for end in ends)
    assert tracking.sync(place) == {"r1": 2}
    assert [(run.info.status, run.data.tags.get("attar.error")) for run in runs_of(place)] == [("FINISHED", None)] * 2


def test_the_smoke_run_is_all_there(attar: "Attar", finished: dict[str, Any]) -> None:
    home = Home(attar.home)
    client = client_of(home)
    runs = [run for run in runs_of(home) if run.data.tags.get("attar.run") == finished["run"]]
    assert len(runs) == 1
    parent = runs[0]
    nested = [run for run in runs_of(home) if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    names = ["1 distill.logit", "2 prune.width", "3 quantize.gptq", "4 finetune.scales"]
    assert sorted(run.info.run_name for run in nested) == names
    files = {entry.path for entry in client.list_artifacts(parent.info.run_id)}
    assert files >= {"report.md", "report.json", "table.csv", "pareto.png", "recipe.yaml", "manifest.json"}
    final = finished["rows"][-1]
    assert parent.data.metrics["compression_ratio"] == pytest.approx(final["compression_ratio"])
    assert parent.data.metrics["quality/retained"] == pytest.approx(final["retained"])
    by_name = {run.info.run_name: run for run in nested}
    for name in (names[0], names[3]):
        curve = client.get_metric_history(by_name[name].info.run_id, "loss")
        assert sorted(point.step for point in curve) == list(range(64))
    for run in nested:
        assert run.data.tags["cached"] == "false" and run.info.status == "FINISHED"
        assert not any(key.startswith("quality/") or key == "compression_ratio" for key in run.data.metrics)
        assert [entry.path for entry in client.list_artifacts(run.info.run_id)] == ["manifest.json"]
