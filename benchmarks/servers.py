"""A Prefect and an MLflow server on loopback for benchmarks, which can be stopped for a while."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Literal

QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # its workers take two gigabytes
}


@dataclass
class Servers:
    """Both servers, and what a client's environment needs to find them."""

    prefect: str
    mlflow: str
    processes: dict[str, "subprocess.Popen[bytes]"]

    @property
    def environment(self) -> dict[str, str]:
        return {"PREFECT_API_URL": f"{self.prefect}/api", "MLFLOW_TRACKING_URI": self.mlflow}

    @contextmanager
    def stopped(self, name: Literal["prefect", "mlflow"] | str, seconds: float) -> Iterator[None]:
        """The server answers nobody for so long: what a client sees of a machine that has lost its network."""
        group = self.processes[name].pid
        os.killpg(group, signal.SIGSTOP)
        try:
            time.sleep(seconds)
            yield
        finally:
            os.killpg(group, signal.SIGCONT)


@contextmanager
def served(folder: Path) -> Iterator[Servers]:
    """Start both, their databases in ``folder``, and end them afterwards."""
    folder.mkdir(parents=True)
    ports = _free_port(), _free_port()
    environment = {**os.environ, **QUIET, "PREFECT_HOME": str(folder / "prefect"), "PREFECT_UI_ENABLED": "0"}
    environment.pop("PREFECT_API_URL", None)
    programs = {
        "prefect": ["prefect", "server", "start", "--host", "127.0.0.1", "--port", str(ports[0])],
        "mlflow": [
            *("mlflow", "server", "--workers", "1", "--host", "127.0.0.1", "--port", str(ports[1])),
            *("--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"),
            *("--default-artifact-root", str(folder / "artifacts")),
        ],
    }
    processes = {}
    try:
        for name, (program, *arguments) in programs.items():
            with open(folder / f"{name}.log", "ab") as log:
                processes[name] = subprocess.Popen(
                    [str(Path(sys.executable).with_name(program)), *arguments],
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
        for (name, path), port in zip({"prefect": "/api/health", "mlflow": "/health"}.items(), ports, strict=True):
            _wait(processes[name], port, path, folder / f"{name}.log")
        yield Servers(f"http://127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[1]}", processes)
    finally:
        for process in processes.values():
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _wait(process: "subprocess.Popen[bytes]", port: int, path: str, log: Path) -> None:
    while process.poll() is None:
        connection = HTTPConnection("127.0.0.1", port, timeout=20)
        try:
            connection.request("GET", path)
            if connection.getresponse().status == 200:
                return
        except (OSError, HTTPException):
            time.sleep(0.2)
        finally:
            connection.close()
    raise SystemExit(f"a server did not start: see {log}")
