"""MLflow's list of a sweep's variants says which to ship, in words, by a sign before the name, and by its order."""

import fcntl
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from pipelines import cli, embedded, mlflow_pages, mlflow_view, process, report, serving
from pipelines.gates import Decision
from pipelines.mlflow_words import RUNS, VIEWED
from pipelines.sweep import FILE, TRIALS
from tests.pipelines.test_html_report import swept
from tests.pipelines.test_mlflow import NOWHERE, client_of
from tests.pipelines.test_mlflow_views import experiment_of, view

if TYPE_CHECKING:
    from tests.pipelines.conftest import Shelf

__all__ = ["swept"]  # a fixture

SWEEP = "mine-0123abcd"


@pytest.fixture
def tracked(swept: "Shelf", monkeypatch: pytest.MonkeyPatch) -> Iterator["Shelf"]:
    """The sweep as an older Attar has left it: its runs are in MLflow, and nothing there says what it came to."""
    with monkeypatch.context() as patch:
        for name in ("PREFECT_HOME", "MLFLOW_HTTP_REQUEST_MAX_RETRIES"):
            patch.setenv(name, "0")
        embedded.configure(swept.home)
        client = client_of(swept.home)
        experiment = client.create_experiment("attar", artifact_location=swept.home.mlflow_artifacts.as_uri())
        for folder in swept.home.runs.iterdir():
            tags = {"pipeline.role": "pipeline", "attar.run": folder.name, "mlflow.runName": folder.name}
            run = client.create_run(experiment, tags=tags).info.run_id
            found = report.load(folder)
            assert found is not None
            client.log_metric(run, mlflow_view.QUALITY, found.final.retained)
            client.set_terminated(run)
            known = {"experiment": experiment, "runs": {"parent": run}}
            (folder / RUNS).write_text(json.dumps(known))
        (swept.home.root / "sweeps" / SWEEP / "sweep.json").write_text("[]\n")
        yield swept


def refresh(shelf: "Shelf") -> list[str]:
    told: list[str] = []
    mlflow_pages.refresh(shelf.home, told.append, told.append)
    return told


def listed(shelf: "Shelf") -> dict[str, str]:
    """The sweep's page as MLflow's server fills it: names of the runs in their order, and what is said of each."""
    found = view(shelf.home, SWEEP)
    order = [f"{found['orderByKey']} {'ASC' if found['orderByAsc'] else 'DESC'}"]
    experiment = experiment_of(shelf.home).experiment_id
    shown = client_of(shelf.home).search_runs([experiment], found["searchFilter"], order_by=order)
    assert found["selectedColumns"][0] == "tags.`attar.choice`"
    return {str(run.info.run_name): run.data.tags["attar.choice"] for run in shown}


def test_the_list_says_which_to_ship(tracked: "Shelf") -> None:
    assert refresh(tracked) == [f"{SWEEP}: sweep of 4 variants"]
    assert listed(tracked) == {
        "★ 01 ffn 0.1, bits 8": "★ best of these",  # its recipe has no gates
        "◆ 02 ffn 0.1, bits 4": "◆ worse",
        "○ 03 ffn 0.3, bits 8": "○ worse",
        "◆ 04 ffn 0.3, bits 4": "◆ worse",
    }
    asked = f"tags.`{mlflow_view.SWEEP}` = '{SWEEP}' and tags.`pipeline.role` = 'sweep'"
    (run,) = client_of(tracked.home).search_runs([experiment_of(tracked.home).experiment_id], asked)
    note = run.data.tags["mlflow.note.content"]
    assert note.startswith("**Best of these: 01 (ffn 0.1, bits 8): ") and "- It keeps the most of 4 models" in note
    assert refresh(tracked) == []  # nothing is new


def test_the_list_follows_the_gates_and_what_nobody_can_tell_apart(tracked: "Shelf") -> None:
    """The choice passed its gates; what a gate has stopped comes last, however good it is."""
    runs = tracked.home.runs
    broken = Decision(0, "bytes ≤ 60MB", 1, "1 m", False, "stop", "bytes ≤ 60MB is not kept: 90.0 MB")
    for number, gate in ((1, broken), (2, replace(broken, kept=True))):
        folder = runs / f"2026-{number}-mine-0{number}"
        found = report.load(folder)
        assert found is not None
        report.save(replace(found, gates=(gate,)), folder)
    trials = tracked.home.root / "sweeps" / SWEEP / TRIALS
    noisy = tracked.run("2026-7-mine-07", "mine-07", ("noisy", 60_000_000, 0.11))[-1]  # and not in MLflow
    lines = [json.loads(line) for line in trials.read_text().splitlines()]
    values = {"stages.0.ffn": 0.2, "stages.1.bits": 4}
    lines.append(lines[0] | {"number": 7, "values": values, "run": "2026-7-mine-07", "row": vars(noisy)})
    trials.write_text("\n".join(map(json.dumps, lines)) + "\n")
    assert refresh(tracked) == [f"{SWEEP}: sweep of 5 variants"]
    found = listed(tracked)
    assert next(iter(found.items())) == ("★ 02 ffn 0.1, bits 4", "★ ship")
    assert list(found.items())[-1] == ("✗ 01 ffn 0.1, bits 8", "✗ refused by a gate")
    experiment = experiment_of(tracked.home).experiment_id
    run = client_of(tracked.home).create_run(experiment, tags={"pipeline.role": "pipeline"}).info.run_id
    (runs / "2026-7-mine-07" / RUNS).write_text(json.dumps({"experiment": experiment, "runs": {"parent": run}}))
    assert refresh(tracked) == [f"{SWEEP}: sweep of 5 variants"]  # a run that MLflow has since
    assert listed(tracked)["● 07 ffn 0.2, bits 4"] == "● not distinguishable from the best"


def test_orders_are_texts_on_every_axis(tracked: "Shelf") -> None:
    """Where an older Attar has told them as numbers, too, which MLflow never changes."""
    folder = tracked.home.root / "sweeps" / SWEEP
    lines = [json.loads(line) for line in (folder / TRIALS).read_text().splitlines()]
    orders = ([0, 1, 2, 3], [1, 0, 2, 3], [0, 2, 1, 3], [0, 2, 3])
    for line, order in zip(lines, orders, strict=False):
        line["values"] = {"order": order, "stages.2.temperature": 1.23456789}
    (folder / TRIALS).write_text("\n".join(map(json.dumps, lines[:4])) + "\n")
    names = ("prune.width", "prune.depth", "distill.logit", "quantize.rtn")
    stages: list[dict[str, Any]] = [{"stage": name} for name in names]
    stages[2]["temperature"] = {"sweep": [1.23456789, 2.0]}
    document = {"name": "mine", "stages": stages, "sweep": {"orders": list(orders)}}
    (folder / FILE).write_text(yaml.safe_dump(document))
    known = json.loads((tracked.home.runs / lines[0]["run"] / RUNS).read_text())
    client_of(tracked.home).log_param(known["runs"]["parent"], "order", "0 1 2 3")
    refresh(tracked)
    found = view(tracked.home, SWEEP)
    (parallel,) = [chart for chart in found["compareRunCharts"] if chart["type"] == "PARALLEL"]
    assert "order" in parallel["selectedParams"]
    across = [chart["xaxis"]["key"] for chart in found["compareRunCharts"] if chart["type"] == "SCATTER"]
    assert "order" in across
    experiment = experiment_of(tracked.home).experiment_id
    shown = client_of(tracked.home).search_runs([experiment], found["searchFilter"])
    params = {run.data.tags["attar.variant"]: run.data.params for run in shown}
    assert {one["order"] for one in params.values()} == {
        "0 1 2 3",
        "depth→width→distill",  # all of them end with rtn
        "width→distill→depth",
        "no depth",
    }
    assert {one["temperature"] for one in params.values()} == {"1.23456789"}
    names = {name.partition(",")[0] for name in listed(tracked)}
    assert names == {
        "★ 01 width→depth→distill",
        "◆ 02 depth→width→distill",
        "○ 03 width→distill→depth",
        "◆ 04 no depth",
    }


def test_an_address_that_is_printed_names_a_view(tracked: "Shelf", capsys: pytest.CaptureFixture[str]) -> None:
    tag = f"{mlflow_view.TAG}{mlflow_view.KEY}"
    run = tracked.home.runs / "2026-2-mine-02"
    assert tag not in experiment_of(tracked.home).tags
    with pytest.raises(SystemExit, match="0"):
        cli.main(["show", run.name, "--home", str(tracked.home.root)])
    assert f"viewStateShareKey={mlflow_view.KEY}" in capsys.readouterr().out
    tags = experiment_of(tracked.home).tags
    assert tag in tags and tags["mlflow.experimentKind"] == "custom_model_development"
    assert VIEWED in json.loads((run / RUNS).read_text()) and serving.mlflow(tracked.home) is None


def test_a_server_that_is_away_costs_no_address(tracked: "Shelf", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", NOWHERE)
    run = tracked.home.runs / "2026-2-mine-02"
    mlflow_pages.ensure(tracked.home, run)
    assert VIEWED not in json.loads((run / RUNS).read_text())
    assert all("0123abcd" in text or "view of experiment" in text for text in refresh(tracked))


def test_what_the_tracker_keeps_meanwhile_is_not_lost(tracked: "Shelf", monkeypatch: pytest.MonkeyPatch) -> None:
    path = tracked.home.runs / "2026-2-mine-02" / RUNS
    keep = mlflow_view.keep

    def slow(client: Any, experiment: str) -> None:
        keep(client, experiment)
        found = json.loads(path.read_text())
        path.write_text(json.dumps(found | {"runs": found["runs"] | {"step-1": "new"}}))

    monkeypatch.setattr(mlflow_view, "keep", slow)
    mlflow_pages.ensure(tracked.home, path.parent)
    found = json.loads(path.read_text())
    assert found[VIEWED] and found["runs"]["step-1"] == "new"


def test_the_book_of_a_run_that_goes_on_is_its_own(tracked: "Shelf") -> None:
    path = tracked.home.runs / "2026-2-mine-02" / RUNS
    before = path.read_bytes()
    with (path.parent / process.LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        mlflow_pages.ensure(tracked.home, path.parent)
    assert path.read_bytes() == before
    mlflow_pages.ensure(tracked.home, path.parent)
    assert VIEWED in json.loads(path.read_text())
