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
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException

from attar.errors import StageFailed
from attar.machine import die_with_parent
from pipelines.home import Home

URL = "PREFECT_API_URL"
ASK_SECONDS = 20.0
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
    with socket.create_server(("127.0.0.1", 0)) as listener, open(log, "ab") as output:
        port, handle = listener.getsockname()[1], listener.fileno()
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "pipelines.prefect_server", str(handle), str(os.getpid())],
            env={**os.environ, "PREFECT_UI_ENABLED": "0"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=[handle],
            start_new_session=True,
        )
    # Not earlier: Prefect's threads send their last log lines while the interpreter shuts down.
    atexit.register(process.kill)
    _wait(process, port, str(log))
    for name in ("no_proxy", "NO_PROXY"):  # Prefect's client would ask a proxy for the way to this machine
        os.environ[name] = ",".join(filter(None, (os.environ.get(name), "127.0.0.1")))
    os.environ[URL] = f"http://127.0.0.1:{port}/api"
    _OWN.append(process)


def _wait(process: "subprocess.Popen[bytes]", port: int, log: str) -> None:
    """Ask for its health until it answers: minutes on a busy machine, which is no reason to give up."""
    while process.poll() is None:
        connection = HTTPConnection("127.0.0.1", port, timeout=ASK_SECONDS)
        try:
            connection.request("GET", "/api/health")
            if connection.getresponse().status == HTTPStatus.OK:
                return
        except (OSError, HTTPException):
            time.sleep(0.1)
        finally:
            connection.close()
    raise StageFailed(f"the embedded Prefect server did not start; see {log}, or name a server in {URL}")


def main(handle: int, parent: int) -> None:
    """Serve on an open socket until killed, or until the process that started this one ends."""
    die_with_parent(parent)
    import uvicorn
    from prefect.server.api.server import create_app

    config = uvicorn.Config(create_app(ephemeral=True, final=True), log_level="error", lifespan="on")
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=handle)])


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
