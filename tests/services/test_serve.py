"""``attar serve`` itself: it comes up, answers only whom it should, mends itself, and leaves no process behind."""

import json
import os
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import psutil
import pytest

if TYPE_CHECKING:
    from tests.services.conftest import Served


def status(url: str, headers: dict[str, str], body: bytes | None = None) -> int:
    try:
        with urlopen(Request(url, body, {"Content-Type": "application/json"} | headers)) as answer:
            return int(answer.status)
    except HTTPError as error:
        return error.code


def refused(command: list[str], **variables: str) -> str:
    """The sentence with which a command ends that is bad input."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_", "ATTAR_"))}
    done = subprocess.run(command, env=kept | variables, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    return done.stderr


def test_it_says_where_everything_is(served: "Served") -> None:
    addresses = [word for word in served.said().split() if word.startswith("http://")]
    assert len(addresses) == 2
    for address in addresses:
        assert status(address, {"Accept": "text/html"}) == 200
    assert addresses[1].endswith("?workflowType=machine_learning")
    with urlopen(f"{served.prefect}/ui-settings") as settings:
        assert json.load(settings)["api_url"] == served.api


def test_everything_listens_on_loopback_only(served: "Served") -> None:
    family = [psutil.Process(served.process.pid), *served.processes()]
    listening = [c.laddr.ip for one in family for c in one.net_connections() if c.status == psutil.CONN_LISTEN]
    assert len(listening) >= 2
    assert set(listening) == {"127.0.0.1"}


@pytest.mark.parametrize("headers", [{"Origin": "http://evil.example"}, {"Host": "evil.example"}], ids=["page", "name"])
def test_a_page_of_another_site_starts_nothing(served: "Served", headers: dict[str, str]) -> None:
    deployment = served.deployment("recipe")["id"]
    before = len(served.flow_runs())
    assert status(f"{served.api}/deployments/{deployment}/create_flow_run", headers, b"{}") == 403
    assert status(f"{served.mlflow}/api/2.0/mlflow/experiments/create", headers, b'{"name": "evil"}') == 403
    assert len(served.flow_runs()) == before


def test_the_database_is_that_of_the_home_whatever_the_environment_says(served: "Served") -> None:
    assert "PREFECT_API_DATABASE_CONNECTION_URL" in served.of_others()
    assert served.flow_runs() is not None and (served.home / "prefect" / "prefect.db").is_file()
    assert not (served.folder / "others.db").exists()


def test_what_cannot_be_served_is_a_sentence(served: "Served", tmp_path: Path) -> None:
    other = [argument if argument != str(served.home) else str(tmp_path / "home") for argument in served.serving()]
    assert "already" in refused(served.serving())  # the same home
    assert "--prefect-port" in refused(other)
    assert not (tmp_path / "home" / "logs").exists()
    assert "PREFECT_API_URL" in refused(other, PREFECT_API_URL=served.api)
    missing = [argument if argument != str(served.file) else str(tmp_path / "none.yaml") for argument in other]
    assert "none.yaml" in refused(missing)


def test_a_worker_needs_a_server(served: "Served", tmp_path: Path) -> None:
    assert "PREFECT_API_URL" in refused([*served.command("worker")[:-1], str(tmp_path)])


def test_what_dies_is_started_again_and_ctrl_c_ends_all(another: "Callable[[], Served]") -> None:
    own = another()
    try:
        for part in ("pipelines.prefect_app", "mlflow server", "pipelines.worker"):
            (found,) = [one for one in own.processes() if part in line(one) and "pipelines.guard" not in line(one)]
            found.kill()
            name = {"pipelines.prefect_app": "prefect", "mlflow server": "mlflow"}.get(part, "worker")
            own.until(lambda name=name: f"{name} ended" in own.said())
        own.until(lambda: answers(own))
        run = own.submit("recipe", recipe="small")
        assert own.wait(run)["type"] == "COMPLETED"
        family = own.processes()
        own.process.send_signal(signal.SIGINT)
        assert own.process.wait() == 0
        assert not [one for one in family if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
    finally:
        own.end()


def test_nothing_stays_when_it_is_killed_in_the_middle_of_a_run(another: "Callable[[], Served]") -> None:
    own = another()
    try:
        run = own.submit("recipe", recipe="long")
        own.until(lambda: own.records(run, "child"))
        family = own.processes()
        assert any("pipelines.flow_process" in line(one) for one in family)
    finally:
        own.process.kill()
        own.process.wait()
    own.until(lambda: not [one for one in family if one.is_running()])
    for port in own.ports:
        socket.create_server(("127.0.0.1", port)).close()


def line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def answers(served: "Served") -> bool:
    try:
        return status(f"{served.api}/health", {}) == status(f"{served.mlflow}/health", {}) == 200
    except OSError:
        return False
