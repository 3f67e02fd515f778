"""MLflow beside the runs: the view that compares them, models without copies, datasets, and what a sweep adds."""

import base64
import json
import zlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pipelines import journal, mlflow_link, mlflow_view, tracking, variants
from pipelines.home import Home
from pipelines.journal import Journal
from pipelines.process import this_process
from pipelines.recipe import Recipe, validate
from pipelines.sweep import Trial
from pipelines.sweep_space import read
from tests.pipelines.test_mlflow import NOWHERE, client_of, place, runs_of
from tests.pipelines.test_sweep import ROW

if TYPE_CHECKING:
    from mlflow.entities import Experiment, LoggedModel, Run

__all__ = ["place"]  # a fixture

TEXTS = {"data.held-out": "h1", "data.other": "o1"}
STEPS = {"prune.width": {"data.calibration": "c1"}, "distill.logit": {"data.train": "t1"}, "prune.width 2": {}}


def write(
    home: Home, run: str, recipe: Recipe, ffn: float = 0.25, retained: float = 0.8, group: str | None = None
) -> Path:
    """The journal of a finished run of three stages, two of them alike, as an execution writes it."""
    folder = home.runs / run
    folder.mkdir(parents=True)
    plan: list[dict[str, Any]] = [{"name": "origin", "settings": {}, "evaluation_inputs": TEXTS}]
    for name in STEPS:
        settings = {"stage": name.split()[0], "ffn": ffn} if "prune" in name else {"stage": name, "temperature": 4.0}
        plan.append({"name": name.split()[0], "settings": settings, "evaluation_inputs": TEXTS})
    written = Journal(folder, tracking.open_tracker(recipe, home, folder, True))
    facts = {
        "name": recipe.name,
        "recipe": recipe.model_dump(mode="json"),
        "machine": {"device": "cpu"},
        "warnings": [],
    }
    written.write("run", run=run, plan=plan, process=this_process(), flow_run="f", flow_run_url=None, **facts)
    row = {
        "retained": retained,
        "retained_low": retained - 0.1,
        "retained_high": retained + 0.1,
        "kl": 0.5,
        "bytes": 10,
        "compression_ratio": 1 / (1 - ffn),
        "folder": "/store/m",
        "group": group,
    }
    for number, inputs in enumerate(STEPS.values(), start=1):
        name = plan[number]["name"]
        told = {"label": f"{number} {name}", "name": name, "settings": plan[number]["settings"], "inputs": inputs}
        made = {"cached": False, "measured": False, "fingerprint": f"f{number}", "folder": "/store/m"}
        written.write("step", step=number, **told, **made)
        figures = row | {"step": number, "name": name, "fingerprint": f"f{number}", "evaluation": f"e{number}"}
        written.write("measured", step=number, row=figures)
        written.write("end-step", step=number, status="finished")
    (folder / "report.json").write_text(json.dumps({"rows": [figures]}))
    written.write("end-run", status="finished", text="", files=[])
    written.close()
    warned = [record["text"] for record in journal.read(folder) if record["kind"] == "warning"]
    assert warned == [] or "wait on disk" in warned[-1]
    return folder


def view(home: Home, key: str = mlflow_view.KEY) -> dict[str, Any]:
    """What MLflow's page is told to remember."""
    tag = json.loads(experiment_of(home).tags[f"mlflow.sharedViewState.{key}"])
    assert isinstance(tag["name"], str) and isinstance(tag["createdAt"], int)  # else the page refuses it
    packed = tag["state"].removeprefix("deflate;")
    assert packed != tag["state"]
    found: dict[str, Any] = json.loads(zlib.decompress(base64.b64decode(packed)))
    return found


def experiment_of(home: Home) -> "Experiment":
    found = client_of(home).get_experiment_by_name("attar")
    assert found is not None
    return found


def models_of(home: Home) -> "list[LoggedModel]":
    return sorted(
        client_of(home).search_logged_models([experiment_of(home).experiment_id]), key=lambda model: model.name
    )


def parents(home: Home) -> "list[Run]":
    return [run for run in runs_of(home) if run.data.tags["pipeline.role"] == "pipeline"]


def chart(found: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [chart for chart in found["compareRunCharts"] if chart["type"] == kind]


def test_an_experiment_has_a_view_of_its_parents_over_what_differs(place: Home, document: dict[str, Any]) -> None:
    recipe = validate(document)
    folder = write(place, "r1", recipe, ffn=0.25)
    assert chart(view(place), "PARALLEL")[0]["selectedParams"] == []
    write(place, "r2", recipe, ffn=0.5, retained=0.6)
    found = view(place)
    (parallel,) = chart(found, "PARALLEL")
    assert parallel["selectedParams"] == ["prune.width 2.ffn", "prune.width.ffn"]
    assert parallel["selectedMetrics"] == ["compression_ratio", "quality/retained"]
    front = chart(found, "SCATTER")[0]
    assert (front["xaxis"]["key"], front["yaxis"]["key"]) == ("compression_ratio", "quality/retained")
    assert (found["orderByKey"], found["orderByAsc"]) == ("metrics.`quality/retained`", False)
    # The filter and the names are MLflow's own language: it finds by them what the page shows.
    experiment = experiment_of(place)
    order = [f"{found['orderByKey']} DESC"]
    shown = client_of(place).search_runs([experiment.experiment_id], found["searchFilter"], order_by=order)
    assert [run.data.tags["attar.run"] for run in shown] == ["r1", "r2"]
    interval = [f"metrics.`{name}`" for name in ("quality/retained_low", "quality/retained_high")]
    assert set(interval) <= set(found["selectedColumns"])
    named = [chart["metricKey"] for chart in chart(found, "BAR")] + parallel["selectedMetrics"]
    assert all(set(named) <= set(run.data.metrics) for run in shown)
    assert all(set(parallel["selectedParams"]) <= set(run.data.params) for run in shown)
    sections = {section["uuid"]: section["display"] for section in found["compareRunSections"]}
    assert all(sections[chart["metricSectionId"]] for chart in found["compareRunCharts"])
    page = mlflow_link.comparison(place, folder)
    assert page is not None and page.endswith(f"compareRunsMode=CHART&viewStateShareKey={mlflow_view.KEY}")
    assert f"/experiments/{experiment.experiment_id}/runs?" in page
    assert mlflow_link.newest_comparison(place, "http://x") == f"http://x{page.partition(':5000')[2]}"
    assert mlflow_link.comparison(place, place.runs / "none") is None


def test_a_view_is_written_only_when_it_changes_and_over_what_cannot_be_read(
    place: Home, document: dict[str, Any]
) -> None:
    write(place, "r1", validate(document), ffn=0.25)
    before, tag = experiment_of(place).tags, f"mlflow.sharedViewState.{mlflow_view.KEY}"
    client, experiment = client_of(place), experiment_of(place).experiment_id
    mlflow_view.keep(client, experiment)
    assert experiment_of(place).tags == before and before["mlflow.experimentKind"] == "custom_model_development"
    for broken in ("{}", "not JSON", '{"createdAt": 1, "state": "deflate;xyz"}'):
        client.set_experiment_tag(experiment, tag, broken)
        mlflow_view.keep(client, experiment)
        assert view(place)["searchFilter"] == f"{mlflow_view.PARENTS} and {mlflow_view.FINISHED}"
    first = json.loads(experiment_of(place).tags[tag])["createdAt"]
    write(place, "r2", validate(document), ffn=0.5)
    assert json.loads(experiment_of(place).tags[tag])["createdAt"] == first and len(chart(view(place), "SCATTER")) > 1


def test_the_view_ranks_only_what_is_comparable_with_the_newest_run(place: Home, document: dict[str, Any]) -> None:
    recipe, (one, other) = validate(document), ("1a2b3c4d5e6f", "9f8e7d6c5b4a")
    write(place, "r0", recipe)  # of an Attar that did not say
    write(place, "r1", recipe, ffn=0.25, group=one)
    write(place, "r2", recipe, ffn=0.5, group=other)
    named = recipe.model_copy(update={"model": "/elsewhere/its copy's"})  # the same model by another name
    write(place, "r3", named, ffn=0.75, group=one)

    def shown() -> set[str]:
        experiment, asked = experiment_of(place).experiment_id, view(place)["searchFilter"]
        return {run.data.tags["attar.run"] for run in client_of(place).search_runs([experiment], asked)}

    assert shown() == {"r1", "r3"} and "tags.`attar.comparable`" in view(place)["selectedColumns"]
    tags = {run.data.tags["attar.run"]: run.data.tags.get("attar.comparable") for run in parents(place)}
    assert tags["r0"] is None and tags["r3"] == "its copy-s 1a2b3c4d"
    assert tags["r1"] == f"{Path(document['model']).name} 1a2b3c4d" and str(tags["r2"]).endswith(" 9f8e7d6c")
    write(place, "r4", recipe, ffn=0.125, group=other)
    assert shown() == {"r2", "r4"}
    killed = write(place, "r5", recipe, ffn=0.0625, group=other)
    parent = json.loads((killed / "mlflow.json").read_text())["runs"]["parent"]
    client_of(place).set_terminated(parent, "KILLED")  # cancelled, as its twin was not
    assert shown() == {"r2", "r4"}
    assert chart(view(place), "PARALLEL")[0]["selectedParams"] == ["prune.width 2.ffn", "prune.width.ffn"]


def test_params_that_differ_are_those_of_stages_and_the_commonest_come_first() -> None:
    many = {f"prune.width.p{index}": "1" for index in range(20)}
    runs = [
        {
            "name": "a",
            "machine.device": "cpu",
            "stages": "a → b",
            "distill.logit.temperature": "2",
            "quantize.bits": "4",
        },
        {"name": "b", "machine.device": "cuda", "stages": "b → a", "distill.logit.temperature": "4", **many},
        {"name": "c", "machine.device": "cpu", "stages": "b → a", "quantize.bits": "4", **dict.fromkeys(many, "2")},
    ]
    found = mlflow_view.varied(runs)
    assert found[:2] == ["stages", "distill.logit.temperature"] and len(found) == mlflow_view.MOST_PARAMS
    assert mlflow_view.varied(runs[:1]) == [] and mlflow_view.varied([]) == []
    long = [run | {"stages": f"{run['stages']} → something that is longer"} for run in runs]
    made = mlflow_view.state(long, found, mlflow_view.PARENTS, same_ratio=True)
    across = [chart["xaxis"]["key"] for chart in chart(made, "SCATTER")]
    assert across[0] == "distill.logit.temperature" and across[-1] == "compression_ratio"
    assert "stages" not in across  # no axis can name such an order
    assert chart(made, "PARALLEL")[0]["selectedMetrics"] == ["quality/retained"]


def test_models_are_logged_without_copies_with_what_they_were_measured_on(
    place: Home, document: dict[str, Any]
) -> None:
    write(place, "r1", validate(document))
    models = models_of(place)
    assert [model.name for model in models] == ["1 prune-width", "2 distill-logit", "3 prune-width"]
    stages = {run.info.run_id: run for run in runs_of(place) if run.data.tags["pipeline.role"] == "stage"}
    for number, model in enumerate(models, start=1):
        assert model.status.value == "READY" and model.source_run_id in stages
        assert (model.tags["fingerprint"], model.tags["folder"]) == (f"f{number}", "/store/m")
        assert model.params == stages[str(model.source_run_id)].data.params
        figures = {metric.key: metric for metric in model.metrics or []}
        retained, size = figures["stage/retained"], figures["stage/bytes"]
        assert (retained.dataset_name, retained.dataset_digest) == ("topics other", "o1")
        assert size.dataset_name is None and size.value == 10
    assert models[1].params["temperature"] == "4.0"
    final = {metric.key: metric.value for metric in models[2].metrics or []}
    assert final["quality/retained"] == final["stage/retained"] == 0.8 and "quality/retained" not in str(
        models[0].metrics
    )
    (parent,) = parents(place)
    assert parent.data.metrics["quality/retained"] == 0.8


def test_texts_are_datasets_of_the_runs_that_read_them(place: Home, document: dict[str, Any]) -> None:
    write(place, "r1", validate(document))
    found = {}
    for run in runs_of(place):
        for entry in run.inputs.dataset_inputs:
            context = next(tag.value for tag in entry.tags if tag.key == "mlflow.data.context")
            found[run.data.tags.get("attar.step", "parent"), entry.dataset.digest] = (entry.dataset.name, context)
            assert json.loads(entry.dataset.source)["fingerprint"] == entry.dataset.digest
    name = Path(document["data"]["source"]).name.replace(".", "-")
    assert found == {
        ("parent", "h1"): (f"{name} held-out", "evaluation"),
        ("parent", "o1"): ("topics other", "evaluation"),
        ("1", "c1"): (f"{name} calibration", "calibration"),
        ("2", "t1"): (f"{name} train", "training"),
    }


def test_models_and_datasets_sent_twice_or_late_are_there_once(
    place: Home, document: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = validate(document)
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", NOWHERE)
        folder = write(place, "r1", recipe)
    told: list[str] = []
    tracking.sync(place, told.append)
    before = [(model.model_id, model.tags, len(model.metrics or [])) for model in models_of(place)]
    inputs = [len(run.inputs.dataset_inputs) for run in runs_of(place)]
    assert len(before) == 3 and sum(inputs) == 4
    (folder / "mlflow.json").unlink()
    (folder / "journal.sent").unlink()
    tracking.sync(place, told.append)
    assert told == []
    assert [(model.model_id, model.tags, len(model.metrics or [])) for model in models_of(place)] == before
    assert [len(run.inputs.dataset_inputs) for run in runs_of(place)] == inputs


def test_a_sweep_is_a_run_with_its_plot_and_a_view_of_its_variants(place: Home, document: dict[str, Any]) -> None:
    from pipelines import mlflow_sweep

    recipe = validate(document)
    for run, ffn in (("r1", 0.25), ("r2", 0.5), ("stranger", 0.75)):
        write(place, run, recipe, ffn=ffn)
    document["stages"][0]["ffn"] = {"sweep": [0.125, 0.25, 0.5]}
    space = read(document | {"sweep": {"orders": [[1, 0]]}})
    values: list[dict[str, Any]] = [{"stages.0.ffn": ffn, "order": [1, 0]} for ffn in (0.25, 0.5, 0.125)]
    ended = [Trial(number, values[number - 1], "finished", f"r{number}", row=ROW) for number in (1, 2)]
    trials = [*ended, Trial(3, values[2], "failed", text="it broke")]
    folder = place.root / "sweeps" / "small-1a2b"
    folder.mkdir(parents=True)
    files = [variants.plot(trials, "small", folder / "pareto.png"), variants.table(trials, folder / "sweep.csv")]
    again = replace(ended[0], run="stranger")  # then a variant of it runs anew, and the same command comes again
    for now in ([again, *trials[1:]], trials):
        where = mlflow_sweep.record(place, "attar", folder, now, files, space)
    assert where.endswith("viewStateShareKey=small-1a2b")
    found = view(place, "small-1a2b")
    assert chart(found, "PARALLEL")[0]["selectedParams"] == ["ffn", "order"]
    shown = client_of(place).search_runs([experiment_of(place).experiment_id], found["searchFilter"])
    names = {run.info.run_name: run.data.tags["attar.run"] for run in shown}
    assert names == {"01 ffn 0.25": "r1", "02 ffn 0.5": "r2"}  # what differs alone: MLflow's list cuts names off
    assert all(run.data.params["order"] == "rtn→width" for run in shown)
    assert all(run.data.params["ffn"] == run.data.params["prune.width.ffn"] for run in shown)
    (swept,) = [run for run in runs_of(place) if run.data.tags["pipeline.role"] == "sweep"]
    kept = {entry.path for entry in client_of(place).list_artifacts(swept.info.run_id)}
    assert kept == {"pareto.png", "sweep.csv"} and swept.data.metrics["variants"] == 2
    header, *lines = (folder / "sweep.csv").read_text().splitlines()
    assert header.startswith("variant,label,order,stages.0.ffn,status,text,run,step,name") and len(lines) == 3
    others = {run.data.tags["attar.run"]: run for run in parents(place)}  # the sweep's own run is none of them
    assert len(others) == 3 and others["stranger"].info.run_name == "stranger"
    assert not [tag for tag in others["stranger"].data.tags if tag in ("attar.sweep", "attar.variant")]
