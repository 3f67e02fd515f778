"""``attar worker``: it waits for its server, outlasts it, is refused in one sentence, and ends when asked to."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path

import pytest

from pipelines import prefect_server

PASSWORD = "somebody:something"


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

    def workers(self) -> bytes:
        connection = HTTPConnection("127.0.0.1", self.port)
        connection.request("POST", "/api/work_pools/attar/workers/filter", "{}", {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.read() if answer.status == 200 else b""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path)
    yield made
    made.stop()


def start_worker(server: Server, output: Path, **more: str) -> subprocess.Popen[bytes]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    settings = {
        "PREFECT_API_URL": server.api,
        "PREFECT_HOME": str(server.folder / "worker"),
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        **more,
    }
    command = [sys.executable, "-m", "pipelines.cli", "worker"]
    with open(output, "wb") as file:
        return subprocess.Popen(command, env=kept | settings, stdout=file, stderr=file)


def test_a_worker_waits_for_its_server_and_outlasts_it(
    server: Server, tmp_path: Path, until: Callable[[Callable[[], object]], object]
) -> None:
    output = tmp_path / "worker.txt"
    worker = start_worker(server, output)
    try:
        until(lambda: "waiting for the Prefect server" in output.read_text())
        server.start()
        until(lambda: b"ONLINE" in server.workers())
        server.stop()
        until(lambda: "is away" in output.read_text())
        server.start()
        until(lambda: "is back" in output.read_text())
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
