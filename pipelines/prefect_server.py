"""The embedded Prefect server: on loopback, its database in the home, it ends with the run and never before it.

Prefect would start one itself, in the terminal's process group: Ctrl-C would then take the server away from under a
run that still has to say that it was cancelled, and a killed run would leave its server behind.
"""

import atexit
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Literal

from attar.errors import StageFailed
from pipelines.embedded import SILENT
from pipelines.home import Home

URL = "PREFECT_API_URL"
ASK_SECONDS = 20.0
OTHERS = ("PREFECT_SERVER_", "PREFECT_API_", "PREFECT_UI_")
_OWN: list["subprocess.Popen[bytes]"] = []  # the embedded server of this process


def embedded() -> bool:
    """Whether this process talks to a server of its own, which has no pages."""
    return bool(_OWN)


def gone() -> bool:
    """Whether the embedded server has died: nobody starts it again, so there is nothing to wait for."""
    return any(process.poll() is not None for process in _OWN)


def start(home: Home) -> None:
    """Prefect's API until this process ends: the server that the environment names, or one of its own."""
    if os.environ.get(URL):
        return
    home.prefect.mkdir(parents=True, exist_ok=True)
    log = home.prefect / "server.log"
    # The socket is made here, so that nobody else can take the port before the server has it.
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        environment = alone() | SILENT | {"PREFECT_UI_ENABLED": "0", "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL"}
        process = launch(listener, "embedded", environment | own_pages(port), log)
    # Not earlier: Prefect's threads send their last log lines while the interpreter shuts down.
    atexit.register(process.kill)
    if not wait(process, port, "/api/health"):
        raise StageFailed(f"the embedded Prefect server did not start; see {log}, or name a server in {URL}")
    for name, value in directly().items():
        os.environ[name] = value
    os.environ[URL] = f"http://127.0.0.1:{port}/api"
    _OWN.append(process)


def launch(
    listener: socket.socket, kind: Literal["embedded", "served"], environment: Mapping[str, str], log: Path
) -> "subprocess.Popen[bytes]":
    """Start a server on an open socket; it ends with this process."""
    handle = listener.fileno()
    with open(log, "ab") as output:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "pipelines.prefect_app", str(handle), str(os.getpid()), kind],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=[handle],
            start_new_session=True,
        )


def wait(process: "subprocess.Popen[bytes]", port: int, path: str) -> bool:
    """Ask until it answers: minutes on a busy machine, which is no reason to give up. False if it ended before."""
    while process.poll() is None:
        connection = HTTPConnection("127.0.0.1", port, timeout=ASK_SECONDS)
        try:
            connection.request("GET", path)
            if connection.getresponse().status == HTTPStatus.OK:
                return True
        except (OSError, HTTPException):
            pass
        finally:
            connection.close()
        time.sleep(0.1)
    return False


def alone() -> dict[str, str]:
    """This environment without what configures other servers of Prefect: a database of theirs, passwords, pages."""
    return {name: value for name, value in os.environ.items() if not name.startswith(OTHERS)}


def own_pages(port: int) -> dict[str, str]:
    """Settings by which a server tells browsers that only its own pages may read its answers."""
    names = ("127.0.0.1", "localhost")
    return {"PREFECT_SERVER_CORS_ALLOWED_ORIGINS": ",".join(f"http://{name}:{port}" for name in names)}


def directly() -> dict[str, str]:
    """Settings without which Prefect's client would ask a proxy for the way to this machine."""
    return {
        name: ",".join(filter(None, (os.environ.get(name), "127.0.0.1", "localhost")))
        for name in ("no_proxy", "NO_PROXY")
    }
