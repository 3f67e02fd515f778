"""The commands of the compose file, against PostgreSQL: deploy, start a run as the form does, find it in MLflow."""

import json
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
from compose_services import Services
from form import Form

from tests.docker.conftest import BROWSED
from tests.spellings import spellings

USER = "attar"


@pytest.fixture(scope="session")
def form(services: Services, passwords: dict[str, str]) -> Form:
    return Form(services.url("prefect"), (USER, passwords["ATTAR_PREFECT_PASSWORD"]))


@pytest.fixture(scope="session")
def finished(form: Form, text: Path) -> dict[str, Any]:
    """A run of the smoke recipe, started through the API as the form does."""
    overrides = [f"data.source={text}", "measure.speed=false"]
    return form.wait(form.submit("recipe", {"recipe": "smoke", "overrides": overrides}))


@pytest.fixture(scope="session")
def mlflow(services: Services, passwords: dict[str, str]) -> httpx.Client:
    auth = (USER, passwords["ATTAR_MLFLOW_PASSWORD"])
    return httpx.Client(base_url=services.url("mlflow"), auth=auth, timeout=60, trust_env=False)


def _runs(mlflow: httpx.Client) -> list[dict[str, Any]]:
    experiments = mlflow.post("/api/2.0/mlflow/experiments/search", json={"max_results": 100}).json()["experiments"]
    body = {"experiment_ids": [found["experiment_id"] for found in experiments], "max_results": 100}
    runs: list[dict[str, Any]] = mlflow.post("/api/2.0/mlflow/runs/search", json=body).json()["runs"]
    return runs


def test_a_run_of_the_form_completes(finished: dict[str, Any], services: Services) -> None:
    assert finished["state_type"] == "COMPLETED", finished["state"].get("message")
    report = json.loads(next(services.home.glob("runs/*/report.json")).read_text())
    assert [row["cached"] for row in report["rows"]] == [False] * 5


def test_it_is_in_mlflow_with_its_stages_and_its_files(finished: dict[str, Any], mlflow: httpx.Client) -> None:
    runs = _runs(mlflow)
    tags = [{tag["key"]: tag["value"] for tag in run["data"]["tags"]} for run in runs]
    parents = [run for run, tag in zip(runs, tags, strict=True) if tag.get("prefect.flow_run_id") == finished["id"]]
    assert len(parents) == 1
    children = [tag for tag in tags if tag.get("mlflow.parentRunId") == parents[0]["info"]["run_id"]]
    assert len(children) == 4
    assert {run["info"]["status"] for run in runs} == {"FINISHED"}
    metrics = {metric["key"] for metric in parents[0]["data"]["metrics"]}
    assert "compression_ratio" in metrics
    listed = mlflow.get("/api/2.0/mlflow/artifacts/list", params={"run_id": parents[0]["info"]["run_id"]}).json()
    assert "report.json" in {file["path"] for file in listed["files"]}


def test_everything_is_in_postgresql(finished: dict[str, Any], services: Services) -> None:
    """Neither server fell back to a file of its own."""
    assert not list(services.scratch.rglob("*.db"))
    environment = services.environment("postgres")
    environment["PGPASSWORD"] = environment["POSTGRES_PASSWORD"]
    for database, table in (("prefect", "flow_run"), ("mlflow", "runs"), ("mlflow_auth", "users")):
        command = ["psql", "--host=127.0.0.1", "--username=postgres", f"--dbname={database}", "--tuples-only"]
        command.append(f"--command=SELECT count(*) FROM {table}")
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert int(done.stdout) >= 1, done.stderr


@pytest.mark.parametrize("auth", [None, (USER, "wrong"), ("admin", "password1234")])
def test_both_servers_refuse_whoever_has_no_password(services: Services, auth: tuple[str, str] | None) -> None:
    client = httpx.Client(auth=auth, trust_env=False)
    assert client.post(f"{services.url('prefect')}/api/flows/filter", json={}).status_code == 401
    listing = f"{services.url('mlflow')}/api/2.0/mlflow/experiments/search"
    assert client.post(listing, json={"max_results": 1}).status_code == 401


def test_the_databases_refuse_whoever_has_no_password(services: Services, passwords: dict[str, str]) -> None:
    environment = services.environment("postgres")
    for user, password in (("prefect", "wrong"), ("mlflow", passwords["ATTAR_PREFECT_DATABASE_PASSWORD"])):
        command = ["psql", "--host=127.0.0.1", f"--username={user}", f"--dbname={user}", "--command=SELECT 1"]
        done = subprocess.run(command, env={**environment, "PGPASSWORD": password}, capture_output=True, text=True)
        assert done.returncode != 0
        assert "password authentication failed" in done.stderr


def test_a_server_may_not_read_the_database_of_the_other(services: Services, passwords: dict[str, str]) -> None:
    environment = {**services.environment("postgres"), "PGPASSWORD": passwords["ATTAR_MLFLOW_DATABASE_PASSWORD"]}
    command = ["psql", "--host=127.0.0.1", "--username=mlflow", "--command=SELECT 1"]
    own = subprocess.run([*command, "--dbname=mlflow"], env=environment, capture_output=True, text=True)
    assert own.returncode == 0, own.stderr
    other = subprocess.run([*command, "--dbname=prefect"], env=environment, capture_output=True, text=True)
    assert other.returncode != 0
    assert "permission denied" in other.stderr


def test_mlflow_answers_only_to_its_names(services: Services, mlflow: httpx.Client) -> None:
    body = {"max_results": 1}
    assert mlflow.post("/api/2.0/mlflow/experiments/search", json=body).status_code == 200
    foreign = mlflow.post("/api/2.0/mlflow/experiments/search", json=body, headers={"Host": "evil.example"})
    assert foreign.status_code == 403


@pytest.mark.parametrize(("origin", "status"), [(BROWSED["ATTAR_MLFLOW_URL"], 200), ("https://evil.example", 403)])
def test_mlflow_serves_its_pages_where_the_team_sees_them(mlflow: httpx.Client, origin: str, status: int) -> None:
    """Its pages search by POST, which it refuses to pages of another origin than it was told."""
    listing, body = "/api/2.0/mlflow/experiments/search", {"max_results": 1}
    assert mlflow.post(listing, json=body, headers={"Origin": origin}).status_code == status


def test_deploying_again_changes_nothing(services: Services, form: Form) -> None:
    before = form.deployment("recipe")
    done = subprocess.run(
        services.described["deploy"]["command"],
        env=services.environment("deploy"),
        cwd=services.scratch / "image",
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    after = form.deployment("recipe")
    assert {key: value for key, value in after.items() if key != "last_polled"} == {
        key: value for key, value in before.items() if key != "last_polled"
    }


def test_no_password_is_written_down(finished: dict[str, Any], services: Services, passwords: dict[str, str]) -> None:
    """Neither in the databases, nor in logs, nor in anything that a run leaves behind."""
    environment = services.environment("postgres")
    environment["PGPASSWORD"] = environment["POSTGRES_PASSWORD"]
    command = ["pg_dumpall", "--host=127.0.0.1", "--username=postgres"]
    dump = subprocess.run(command, env=environment, capture_output=True)
    assert dump.returncode == 0, dump.stderr
    assert finished["id"].encode() in dump.stdout
    searched = {name: spellings([value]) for name, value in passwords.items()}
    assert not [name for name, spelt in searched.items() if any(spelling in dump.stdout for spelling in spelt)]
    for file in (path for path in services.scratch.rglob("*") if path.is_file()):
        content = file.read_bytes()
        assert not [name for name, spelt in searched.items() if any(spelling in content for spelling in spelt)], file
