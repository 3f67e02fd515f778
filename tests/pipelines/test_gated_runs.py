"""Runs whose gates are breached: one stops, one searches a milder value, one gets a stage more."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines import journal, report
from pipelines.home import Home
from pipelines.plan import make_plan
from pipelines.recipe import validate

Write = Callable[[Any], Path]


def run(recipe: Path, home: Path, *more: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "pipelines.cli", "run", str(recipe), "--home", str(home), *more]
    return subprocess.run(command, capture_output=True, text=True)


def finished(recipe: Path, home: Path, *more: str) -> dict[str, Any]:
    done = run(recipe, home, "--json", *more)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def records(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [record for record in journal.read(folder) if record["kind"] == kind]


def test_a_breach_stops_the_run_and_keeps_what_was_made(document: dict[str, Any], home: Path, write: Write) -> None:
    document["gates"] = [{"measure": "kl", "max": 0, "after": "stages.0"}]  # no cut is without a trace
    done = run(write(document), home, "--no-track")
    assert done.returncode == 3
    assert "error: gates.0: after 1 prune.width: kl ≤ 0 is not kept" in done.stderr and "Traceback" not in done.stderr
    assert "✗ gate after 1 prune.width" in done.stdout  # below the table of what there is
    (folder,) = home.glob("runs/*")
    found = report.load(folder)
    assert found is not None and [row.name for row in found.rows] == ["origin", "prune.width"]
    assert [(decision.kept, decision.action) for decision in found.gates] == [(False, "stop")]
    assert found.gates[0].evaluation == found.final.evaluation
    assert (Path(found.final.folder) / "manifest.json").is_file()
    assert records(folder, "end-run")[-1]["status"] == "failed"
    assert {record["step"] for record in records(folder, "child")} == {0, 1}


def test_a_bisection_finds_the_value_nearest_to_what_was_asked_twice_the_same(
    document: dict[str, Any], home: Path, tmp_path: Path, write: Write
) -> None:
    """Here the smallest cut that leaves so few parameters, which the plan knows: it must be that very one."""
    document["stages"][0]["ffn"] = 0.5
    limit = make_plan(validate(document), Home(tmp_path / "planned"), complete=True).steps[-1].facts.parameters
    document["stages"][0]["ffn"] = 0.1
    bisect = {"setting": "stages.0.ffn", "within": [0.7, 0.1], "probes": 3}
    document["gates"] = [{"measure": "parameters", "max": limit, "breach": {"bisect": bisect}}]
    recipe = write(document)
    first = finished(recipe, home)
    searched, passed = first["gates"]
    assert (searched["action"], searched["kept"], searched["setting"]) == ("bisect", False, "stages.0.ffn")
    assert searched["value"] == 0.5
    tried = [(probe["value"], probe["kept"]) for probe in searched["probes"]]
    assert tried == [(0.6, True), (0.5, True)]  # that 0.4 is too much the plan foresees
    assert (passed["action"], passed["kept"]) == ("go on", True)
    judged = {searched["evaluation"], *(probe["evaluation"] for probe in searched["probes"])}
    assert len(judged) == 3 and searched["probes"][-1]["evaluation"] == passed["evaluation"]
    assert passed["evaluation"] == first["rows"][-1]["evaluation"]
    assert len(searched["given_up"]) == 1 and not {*searched["given_up"]} & {row["evaluation"] for row in first["rows"]}
    assert [row["step"] for row in first["rows"]] == [0, 1, 2] and first["rows"][-1]["parameters"] == limit
    folder = Path(first["folder"])
    assert yaml.safe_load((folder / "as-run.yaml").read_text())["stages"][0]["ffn"] == 0.5
    assert yaml.safe_load((folder / "recipe.yaml").read_text())["stages"][0]["ffn"] == 0.1
    links = sorted((folder / "models").iterdir())
    assert [link.resolve() for link in links] == [Path(row["folder"]) for row in first["rows"]]
    assert report.load(folder) is not None
    (folder / "report.json").unlink()
    rebuilt = report.load(folder)  # as of a run that was killed
    assert rebuilt is not None and [row.fingerprint for row in rebuilt.rows] == [
        row["fingerprint"] for row in first["rows"]
    ]
    again = finished(recipe, home, "--no-track")
    assert again["gates"] == first["gates"] and records(Path(again["folder"]), "child") == []
    _tracked(home)


def _tracked(home: Path) -> None:
    """In MLflow stand the decision and the stages as they are in the result; what was given up is marked."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{home / 'mlflow.db'}")
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    found = client.search_runs(ids)
    roles = sorted(run.data.tags["pipeline.role"] for run in found)
    assert roles == ["pipeline", "stage", "stage", "superseded", "superseded"]
    (parent,) = [run for run in found if run.data.tags["pipeline.role"] == "pipeline"]
    assert parent.data.tags["gate.0"].startswith("parameters ≤") and "is kept" in parent.data.tags["gate.0"]
    assert "goes on with stages.0.ffn=0.5" in parent.data.tags["gate.0.bisect"]
    shares = {run.data.params.get("ffn") for run in found if run.data.tags["pipeline.role"] == "stage"}
    assert shares == {"0.5", None}


def test_a_stage_that_is_put_in_is_judged_again_once(
    document: dict[str, Any], home: Path, tmp_path: Path, write: Write
) -> None:
    prune, rtn = document["stages"]
    _, pruned, quantized = make_plan(validate(document), Home(tmp_path / "planned"), complete=True).steps
    limit = (pruned.facts.bytes + quantized.facts.bytes) // 2
    gate = {"measure": "bytes", "max": limit, "after": "stages.0", "breach": {"insert": rtn}}
    document |= {"stages": [prune], "gates": [gate]}
    result = finished(write(document), home, "--no-track")
    assert [row["name"] for row in result["rows"]] == ["origin", "prune.width", "quantize.rtn"]
    assert [(found["action"], found["step"], found["kept"]) for found in result["gates"]] == [
        ("insert", 1, False),
        ("go on", 2, True),
    ]
    document["gates"] = [{"measure": "kl", "max": 0, "after": "stages.0", "breach": {"insert": rtn}}]
    done = run(write(document), home, "--no-track")  # which no stage mends
    assert done.returncode == 3 and "gates.0: after 2 quantize.rtn: kl ≤ 0 is not kept" in done.stderr


@pytest.mark.parametrize("turned", [False, True])
def test_a_gate_that_stops_is_judged_wherever_it_is_listed(
    document: dict[str, Any], home: Path, write: Write, turned: bool
) -> None:
    prune, rtn = document["stages"]
    listed = [
        {"measure": "kl", "max": 0, "after": "stages.0", "breach": {"insert": rtn}},
        {"measure": "agreement", "min": 1, "after": "every"},
        {"measure": "bytes", "max": "1 GB", "after": "every"},
    ]
    document |= {"stages": [prune], "gates": listed[::-1] if turned else listed}
    done = run(write(document), home, "--no-track")
    assert done.returncode == 3 and "gates.1: after 1 prune.width: agreement ≥ 1 is not kept" in done.stderr
    (folder,) = home.glob("runs/*")
    found = report.load(folder)
    assert found is not None and [row.name for row in found.rows] == ["origin", "prune.width"]
    assert {(one.rule, one.action) for one in found.gates} == {("bytes ≤ 1 GB", "go on"), ("agreement ≥ 1", "stop")}


def test_what_is_searched_goes_before_what_is_put_in(
    document: dict[str, Any], home: Path, tmp_path: Path, write: Write
) -> None:
    """With the value that is found, the stage that would be put in is not needed."""
    prune, rtn = document["stages"]
    planned = validate(document | {"stages": [prune | {"ffn": 0.5}]})
    facts = make_plan(planned, Home(tmp_path / "planned"), complete=True).steps[-1].facts
    insert = {"measure": "bytes", "max": facts.bytes + 500, "breach": {"insert": rtn}}
    bisect = {"setting": "stages.0.ffn", "within": [0.7, 0.1], "probes": 3}
    search = {"measure": "parameters", "max": facts.parameters, "breach": {"bisect": bisect}}
    result = finished(
        write(document | {"stages": [prune | {"ffn": 0.1}], "gates": [insert, search]}), home, "--no-track"
    )
    assert [row["name"] for row in result["rows"]] == ["origin", "prune.width"]
    assert [(one["gate"], one["action"], one["kept"]) for one in result["gates"]] == [
        (1, "bisect", False),
        (0, "go on", True),
        (1, "go on", True),
    ]


def test_where_no_value_keeps_the_gate_the_run_stops(document: dict[str, Any], home: Path, write: Write) -> None:
    bisect = {"setting": "stages.0.ffn", "within": [0.1, 0.25], "probes": 2}
    gate = {"measure": "kl", "max": 0, "after": "stages.0", "breach": {"bisect": bisect}}
    stop = {"measure": "agreement", "min": 1, "after": "stages.0"}  # which is breached at the same step
    done = run(write(document | {"gates": [gate, stop]}), home, "--no-track")
    assert done.returncode == 3
    assert "no milder stages.0.ffn was found to keep it (tried: 0.1 ✗)" in done.stderr
    assert "gates.1: after 1 prune.width: agreement ≥ 1 is not kept" in done.stderr
    (folder,) = home.glob("runs/*")
    found = report.load(folder)
    assert found is not None and [(one.gate, one.kept) for one in found.gates] == [(0, False), (1, False)]
