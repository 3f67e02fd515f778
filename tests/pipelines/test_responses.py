"""A recipe with a dataset in it, from plan to MLflow, its teacher behind a server with a key."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pipelines import journal, report
from pipelines.home import Home
from pipelines.plan import Plan, make_plan
from pipelines.recipe import validate

if TYPE_CHECKING:
    from tests.conftest import Teacher

SECRET = "sk-very-secret-0123456789"
STUDENT = {"stage": "distill.response", "keep": 3, "train_tokens": 2048, "batch": 1, "length": 512}


def answered_by(server: "Teacher") -> dict[str, Any]:
    endpoint = {"url": server.url, "model": "m", "terms_accepted": True, "key_variable": "TEACHER_KEY", "pause": 0.01}
    endpoint["price_per_million_tokens"] = {"prompt": 1.0, "answer": 1.0}
    return {"stage": "generate.responses", "endpoint": endpoint, "count": 20}


def test_a_run_makes_a_dataset_learns_from_it_and_keeps_the_key_to_itself(
    teacher_server: "Teacher", document: dict[str, Any], write: Callable[[Any], Path], home: Path
) -> None:
    teacher_server.moods.extend([429, 500, "hang-up"])
    recipe = write(document | {"stages": [answered_by(teacher_server), STUDENT]})
    command = [sys.executable, "-m", "pipelines.cli", "run", str(recipe), "--home", str(home), "--json"]
    environment = os.environ | {"TEACHER_KEY": SECRET}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    origin, dataset, student = result["rows"]
    folder = Path(result["folder"])

    assert set(teacher_server.keys) == {f"Bearer {SECRET}"} and len(teacher_server.bodies) == 23
    assert SECRET not in done.stdout + done.stderr
    for path in home.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path

    lines = (Path(dataset["folder"]) / "responses.jsonl").read_text().splitlines()
    assert dataset["pairs"] == len(lines) == 20
    assert (dataset["tokens"], dataset["price"]) == (20 * 22, pytest.approx(20 * 22 / 1e6))
    assert dataset["perplexity_other"] == origin["perplexity_other"] and dataset["retained"] == 1
    assert student["parameters"] < origin["parameters"] and student["pairs"] is None
    assert (folder / "datasets" / "1-generate.responses").resolve() == Path(dataset["folder"])
    ran = [(r["step"], r["what"]) for r in journal.read(folder) if r["kind"] == "child"]
    assert ran == [(0, "measure"), (1, "stage"), (2, "stage"), (2, "measure")]
    manifest = json.loads((Path(student["folder"]) / "manifest.json").read_text())
    assert manifest["inputs"]["responses"] == dataset["fingerprint"]

    loaded = report.load(folder)
    assert loaded is not None and loaded.final.name == "distill.response"
    assert "| 1 generate.responses | 20 pairs | 440 tokens | – |" in report.markdown(loaded)
    assert {run["name"]: run["metrics"] for run in tracked(home)} == {
        "1 generate.responses": {"pairs", "tokens", "price", "seconds", "peak_memory_bytes"},
        "2 distill.response": {"retained", "kl", "seconds"},
    }

    environment.pop("TEACHER_KEY")  # what is in the store is asked of nobody
    command[3] = "plan"
    again = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert again.returncode == 0, again.stderr
    steps = json.loads(again.stdout)["steps"]
    assert [(step["makes"], step["cached"], step["measured"]) for step in steps] == [
        ("model", True, True),
        ("dataset", True, True),
        ("model", True, True),
    ]
    assert [step["fingerprint"] for step in steps] == [row["fingerprint"] for row in result["rows"]]


def tracked(home: Path) -> list[dict[str, Any]]:
    """Name and some metrics of the stages' runs in MLflow."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{home / 'mlflow.db'}")
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    watched = {"pairs", "tokens", "price", "seconds", "peak_memory_bytes", "retained", "kl"}
    return [
        {
            "name": run.info.run_name,
            "metrics": {k.removeprefix("stage/") for k in run.data.metrics}
            & watched - ({"peak_memory_bytes"} if "stage/retained" in run.data.metrics else set()),
        }
        for run in runs
        if run.data.tags["pipeline.role"] == "stage"
    ]


def plan_of(document: dict[str, Any], home: Path, stages: list[dict[str, Any]]) -> Plan:
    return make_plan(validate(document | {"stages": stages}), Home(home), complete=True)


def test_a_dataset_does_not_depend_on_the_model_that_passes(document: dict[str, Any], home: Path) -> None:
    prune, generate = document["stages"][0], {"stage": "generate.responses", "count": 5}
    alone = plan_of(document, home, [generate, STUDENT])
    after = plan_of(document, home, [prune, generate, STUDENT])
    own = plan_of(document, home, [prune, generate | {"teacher": "previous"}, STUDENT])
    assert alone.steps[1].made == after.steps[2].made != own.steps[2].made
    assert after.steps[2].model == after.steps[1].model and after.steps[2].evaluation == after.steps[1].evaluation
    assert alone.steps[2].model != after.steps[3].model
    assert after.steps[3].responses == after.steps[2].dataset
    assert not after.steps[2].cached and after.steps[2].measured


def test_prompts_made_from_the_text_depend_on_what_its_documents_are_called(
    document: dict[str, Any], home: Path, tmp_path: Path, text: Path
) -> None:
    """The prompts that are drawn, and what they ask about, follow the names; nothing that only reads the text does."""
    renamed = tmp_path / "renamed.txt"
    renamed.write_bytes(text.read_bytes())
    moved = tmp_path / "elsewhere" / text.name
    moved.parent.mkdir()
    moved.write_bytes(text.read_bytes())
    stages = [document["stages"][0], {"stage": "generate.responses", "count": 5}]
    one, other, same = (plan_of(document | {"data": {"source": str(f)}}, home, stages) for f in (text, renamed, moved))
    assert one.steps[2].made == same.steps[2].made != other.steps[2].made
    assert one.steps[1].made == other.steps[1].made
    given = tmp_path / "prompts.txt"
    given.write_text("Why?")
    stages[1] = stages[1] | {"prompts": str(given)}
    one, other = (plan_of(document | {"data": {"source": str(f)}}, home, stages) for f in (text, renamed))
    assert one.steps[2].made == other.steps[2].made


def test_the_answers_go_into_the_name_of_what_learns_from_them(document: dict[str, Any], home: Path) -> None:
    def names(count: int) -> list[str]:
        plan = plan_of(document, home, [{"stage": "generate.responses", "count": count}, STUDENT])
        return [step.made.fingerprint for step in plan.steps[1:]]

    assert names(5) == names(5)
    assert not set(names(5)) & set(names(6))


def test_a_teacher_of_answers_may_have_any_tokenizer(document: dict[str, Any], home: Path, tmp_path: Path) -> None:
    from attar.tiny import tiny_model

    teacher = tiny_model(tmp_path / "teacher", vocab_size=640)
    generate = {"stage": "generate.responses", "count": 5, "teacher": str(teacher)}
    assert plan_of(document, home, [generate, STUDENT]).steps[1].teacher is not None
