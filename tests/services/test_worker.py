"""``attar worker``: it waits for its server, outlasts it, is refused in one sentence, and ends when asked to."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from http import HTTPStatus
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import psutil
import pytest

from attar.errors import BadInput
from pipelines import journal, prefect_server
from pipelines.guard import POLL_SECONDS

PASSWORD = "somebody:something"
END = {"kind": "end-run", "status": "finished", "text": "", "files": [], "time": 2e9}


class Server:
    """A Prefect server that can go away and come back."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.folder = folder
        self.settings = settings
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port: int = listener.getsockname()[1]
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.port}/api"

    def start(self) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        settings = {"PREFECT_HOME": str(self.folder), "PREFECT_UI_ENABLED": "0", **self.settings}
        with socket.create_server(("127.0.0.1", self.port)) as listener:
            self.process = prefect_server.launch(listener, "embedded", kept | settings, self.folder / "log.txt")
        assert prefect_server.wait(self.process, self.port, "/api/health"), (self.folder / "log.txt").read_text()

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def ask(self, method: str, path: str, body: str = "") -> bytes:
        """The answer; nothing where there is no such thing. With SQLite a busy server has to be asked again."""
        while True:
            connection = HTTPConnection("127.0.0.1", self.port)
            connection.request(method, f"/api/{path}", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
            if answer.status != HTTPStatus.SERVICE_UNAVAILABLE:
                return text if answer.status < HTTPStatus.BAD_REQUEST else b""
            time.sleep(0.2)

    def workers(self, pool: str = "attar") -> bytes:
        return self.ask("POST", f"work_pools/{pool}/workers/filter", "{}")

    def state(self, run: str) -> str:
        """Type of a flow run's state."""
        return str(json.loads(self.ask("GET", f"flow_runs/{run}"))["state"]["type"])


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path)
    yield made
    made.stop()


def start_worker(server: Server, output: Path, *arguments: str, **more: str) -> subprocess.Popen[bytes]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    settings = {
        "PREFECT_API_URL": server.api,
        "PREFECT_HOME": str(server.folder / "worker"),
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        **more,
    }
    command = [sys.executable, "-m", "pipelines.cli", "worker", *arguments]
    with open(output, "wb") as file:
        return subprocess.Popen(command, env=kept | settings, stdout=file, stderr=file)


def test_a_worker_waits_for_its_server_and_outlasts_it(
    server: Server, tmp_path: Path, until: Callable[[Callable[[], object]], object]
) -> None:
    output, file = tmp_path / "worker.txt", tmp_path / "deployments.yaml"
    file.write_text("pool: {name: another}\ndeployments: [{name: recipe, recipe: small}]\n")
    worker = start_worker(server, output, str(file))
    try:
        until(lambda: "waiting for the Prefect server" in output.read_text())
        server.start()
        until(lambda: b"ONLINE" in server.workers("another"))
        server.stop()
        until(lambda: "is away" in output.read_text())
        server.start()
        until(lambda: "is back" in output.read_text())
        worker.send_signal(signal.SIGTERM)
        assert worker.wait() == 0, output.read_text()
    finally:
        worker.kill()
        worker.wait()


def test_a_worker_sends_what_waits_when_it_starts(
    server: Server, tmp_path: Path, until: Callable[[Callable[[], object]], object]
) -> None:
    """MLflow was away at the end of a run, and perhaps the worker, too; what cannot be sent is said, and no more."""
    output, home = tmp_path / "worker.txt", tmp_path / "home"
    begun = {"kind": "run", "name": "small", "machine": {}, "process": "", "flow_run": "", "time": 2e9}
    recipes = {"r1": {"model": "m", "stages": [], "track": {}}, "r2": {"model": "of no version", "stages": []}}
    for run, recipe in recipes.items():
        (home / "runs" / run).mkdir(parents=True)
        records = ({**begun, "run": run, "recipe": recipe}, END)
        (home / "runs" / run / "journal.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    server.start()
    worker = start_worker(server, output, "--home", str(home), MLFLOW_TRACKING_URI="")
    try:
        until(lambda: "attar sync: error: the run r2 could not be sent" in output.read_text())
        assert [journal.unsent(home / "runs" / run) for run in recipes] == [0, 2]
        until(lambda: b"ONLINE" in server.workers())
        worker.send_signal(signal.SIGTERM)
        assert worker.wait() == 0, output.read_text()
    finally:
        worker.kill()
        worker.wait()


def test_a_wrong_password_is_a_sentence(tmp_path: Path) -> None:
    server = Server(tmp_path, PREFECT_SERVER_API_AUTH_STRING=PASSWORD)
    server.start()
    output = tmp_path / "worker.txt"
    try:
        worker = start_worker(server, output, PREFECT_API_AUTH_STRING="somebody:wrong")
        assert worker.wait() == 2
    finally:
        server.stop()
    said = output.read_text()
    assert "PREFECT_API_AUTH_STRING" in said and "Traceback" not in said
    assert "wrong" not in said and PASSWORD not in said


class Restless(BaseHTTPRequestHandler):
    """A server that is well by its own account, and busy, gone or refusing when it is asked for more."""

    answers: ClassVar[list[int]] = []

    def do_GET(self) -> None:
        self._answer(HTTPStatus.OK if self.path.endswith("/health") else HTTPStatus.NOT_FOUND, b"true")

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if code := self.answers.pop(0):
            self._answer(code, b"[]")
        else:
            self.close_connection = True  # without a word

    def _answer(self, code: int, body: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(("last", "sentence"), [(200, ""), (404, "PREFECT_API_URL"), (401, "PREFECT_API_AUTH_STRING")])
def test_who_is_not_there_yet_is_waited_for_and_who_refuses_is_not(
    monkeypatch: pytest.MonkeyPatch, last: int, sentence: str
) -> None:
    from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    from pipelines import worker

    monkeypatch.setattr(worker, "ASK_SECONDS", 0.01)
    monkeypatch.setattr(Restless, "answers", [500, 0, 503, 429, last])
    with ThreadingHTTPServer(("127.0.0.1", 0), Restless) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/api"
        with temporary_settings({PREFECT_API_URL: address, PREFECT_CLIENT_MAX_RETRIES: 0}):
            with pytest.raises(BadInput, match=sentence) if sentence else nullcontext():
                asyncio.run(worker.wait_for_server())
        server.shutdown()
    assert Restless.answers == []


@pytest.mark.parametrize("begun", [False, True], ids=["in the middle", "its process has begun"])
def test_a_worker_that_is_stopped_while_it_starts_a_run_leaves_none_behind(
    server: Server, folder: Path, tmp_path: Path, until: Callable[[Callable[[], object]], object], begun: bool
) -> None:
    server.start()
    output, home = tmp_path / "worker.txt", tmp_path / "home"
    command = [sys.executable, "-m", "pipelines.cli", "deploy", str(folder / "deployments.yaml"), "--home", str(home)]
    subprocess.run(command, env={**os.environ, "PREFECT_API_URL": server.api}, check=True, capture_output=True)
    worker = start_worker(server, output)
    try:
        until(lambda: b"ONLINE" in server.workers())
        deployment = json.loads(server.ask("GET", "deployments/name/compress-recipe/recipe"))
        body = json.dumps({"parameters": deployment["parameters"], "state": {"type": "SCHEDULED"}})
        run = json.loads(server.ask("POST", f"deployments/{deployment['id']}/create_flow_run", body))["id"]
        while server.state(run) == "SCHEDULED":  # without a pause: it is soon not in the middle any more
            continue
        assert server.process is not None
        if begun:
            until(lambda: flows(worker))
        server.process.send_signal(signal.SIGSTOP)  # whatever the worker says next has no answer yet
        worker.send_signal(signal.SIGTERM)
        if begun:
            until(lambda: not flows(worker))
            for _ in range(10):  # it looks again, and stays until the server knows
                time.sleep(POLL_SECONDS)
        server.process.send_signal(signal.SIGCONT)
        assert worker.wait() == 0, output.read_text()
        assert server.state(run) in ("CRASHED", "CANCELLED"), output.read_text()
        assert not list(home.glob("runs/*"))
    finally:
        worker.kill()
        worker.wait()


def flows(worker: "subprocess.Popen[bytes]") -> list[psutil.Process]:
    """Processes of flow runs below a worker's guard."""
    found = []
    for process in psutil.Process(worker.pid).children(recursive=True):
        with suppress(psutil.Error):
            if "pipelines.flow_process" in process.cmdline():
                found.append(process)
    return found
