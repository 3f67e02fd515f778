"""Servers go away while runs go on: real ones, killed and started again."""

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import psutil
import pytest

from pipelines import journal, mlflow_link, sender, tracking
from pipelines.home import Home
from pipelines.journal import Journal
from pipelines.process import this_process
from pipelines.recipe import validate

Write = Callable[[Any], Path]


def pause() -> None:
    threading.Event().wait(0.02)


class MlflowServer:
    """MLflow on a port of its own, over a database that outlives it."""

    def __init__(self, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        words = ["server", "--workers=1", f"--port={self.port}", f"--backend-store-uri=sqlite:///{self.folder}/m.db"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *words, f"--artifacts-destination={self.folder}/artifacts"],
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_TRACKING_URI": ""},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        while True:
            assert self.process.poll() is None
            try:
                with urlopen(f"{self.url}/health"):
                    return
            except (URLError, ConnectionError):
                pause()

    def kill(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.process = None


@pytest.fixture
def mlflow_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MlflowServer]:
    server = MlflowServer(tmp_path)
    for name, value in {
        "MLFLOW_TRACKING_URI": server.url.replace("//", "//me:secret@"),
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sender, "FIRST_PAUSE", 0.1)
    server.start()
    yield server
    server.kill()


def test_mlflow_goes_away_in_the_middle_of_a_run(
    mlflow_server: MlflowServer, home: Path, document: dict[str, Any]
) -> None:
    """What is written meanwhile is there when it is back: no run twice, no record twice, none left running."""
    from mlflow.tracking import MlflowClient

    recipe, place = validate(document), Home(home)
    folder = place.runs / "r1"
    folder.mkdir(parents=True)
    written = Journal(folder, tracking.open_tracker(recipe, place, folder, True))
    written.write(
        "run",
        run="r1",
        name=recipe.name,
        recipe=recipe.model_dump(mode="json"),
        machine={},
        process=this_process(),
        flow_run="f",
    )
    facts = {"name": "x", "cached": False, "measured": False, "fingerprint": "abc", "folder": "", "inputs": {}}
    written.write("step", step=1, label="1 x", settings={"ffn": 0.25}, **facts)
    while journal.unsent(folder):
        pause()
    mlflow_server.kill()
    written.write("metrics", step=1, points=[["loss", 1 / (i + 1), i, 1e9 + i] for i in range(50)])
    while not (told := [record["text"] for record in journal.read(folder) if record["kind"] == "warning"]):
        pause()
    assert "the run goes on" in told[0] and "secret" not in told[0]
    written.write("end-step", step=1, status="finished")
    mlflow_server.start()
    written.write("end-run", status="finished", text="", files=[])
    written.close()
    assert journal.unsent(folder) == 0 and len(told) == 1
    client = MlflowClient(tracking_uri=mlflow_server.url)
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert sorted(run.info.run_name for run in runs) == ["1 x", "r1"]
    assert {run.info.status for run in runs} == {"FINISHED"}
    stage = next(run for run in runs if run.info.run_name == "1 x")
    assert len(client.get_metric_history(stage.info.run_id, "loss")) == 50
    address = mlflow_link.address(place, folder)
    assert address is not None and address.startswith(f"{mlflow_server.url}/#/experiments/") and "secret" not in address


def attar(recipe: Path, home: Path, environment: dict[str, str] | None = None) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "pipelines.cli", "run", str(recipe), "--home", str(home), "--no-track", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **(environment or {})},
        text=True,
        start_new_session=True,
    )


def wait_for_job(process: "subprocess.Popen[str]", home: Path, before: set[Path]) -> None:
    """Until a child process of a new run works."""
    while process.poll() is None:
        for run in set(home.glob("runs/*")) - before:
            if any(record["kind"] == "child" for record in journal.read(run)):
                return
        pause()
    raise AssertionError(process.communicate())


def server_of(process: "subprocess.Popen[str]") -> psutil.Process:
    children = psutil.Process(process.pid).children(recursive=True)
    return next(child for child in children if any(word.startswith("pipelines.prefect_") for word in child.cmdline()))


def test_a_run_that_dies_and_a_server_that_dies(document: dict[str, Any], write: Write, home: Path) -> None:
    """Killed: the next run goes on. Its Prefect server killed: it ends as ever. And Prefect is told of both later."""
    recipe = write(document)
    dies = attar(recipe, home)
    wait_for_job(dies, home, set())
    os.killpg(dies.pid, signal.SIGKILL)
    dies.communicate()

    before = set(home.glob("runs/*"))
    bereft = attar(recipe, home)
    wait_for_job(bereft, home, before)
    server_of(bereft).kill()
    said, complaints = bereft.communicate()
    assert bereft.returncode == 0, complaints
    assert "Traceback" not in complaints and '"rows"' in said
    run = next(iter(set(home.glob("runs/*")) - before))
    assert (run / "report.json").is_file() and journal.ended(journal.read(run))

    third = attar(recipe, home)
    assert third.communicate()[0] and third.returncode == 0
    with sqlite3.connect(home / "prefect" / "prefect.db") as database:
        states = [state for (state,) in database.execute("select state_type from flow_run order by start_time")]
    assert states == ["CRASHED", "COMPLETED", "COMPLETED"]


def test_a_server_that_hangs_does_not_hold_a_run(document: dict[str, Any], write: Write, home: Path) -> None:
    impatient = {"PREFECT_CLIENT_MAX_RETRIES": "1", "PREFECT_API_REQUEST_TIMEOUT": "5"}
    process = attar(write(document), home, impatient)
    wait_for_job(process, home, set())
    server = server_of(process)
    server.suspend()
    said, complaints = process.communicate()
    assert process.returncode == 0, complaints
    assert "Traceback" not in complaints and '"rows"' in said
    psutil.wait_procs([server])  # it ends with its run


class Locked(BaseHTTPRequestHandler):
    """A Prefect server that wants another password."""

    def do_GET(self) -> None:
        self.send_response(401)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def locked() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Locked) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield f"http://me:secret@127.0.0.1:{server.server_port}/api"
        server.shutdown()


@pytest.mark.parametrize("there", [False, True], ids=["away", "locked"])
def test_a_server_that_cannot_be_used_is_a_sentence_before_anything_is_computed(
    document: dict[str, Any], write: Write, home: Path, locked: str, there: bool
) -> None:
    address = locked if there else "http://me:secret@127.0.0.1:9/api"
    process = attar(write(document), home, {"PREFECT_API_URL": address})
    said, complaints = process.communicate()
    assert (process.returncode, said) == (2, ""), complaints
    assert complaints.startswith("error: the Prefect server http://127.0.0.1:") and "secret" not in complaints
    assert ("PREFECT_API_AUTH_STRING" in complaints) == there and len(complaints.splitlines()) == 1
    assert not home.exists()
