"""``attar serve``: Prefect, MLflow and a worker on this machine, for as long as somebody looks at them.

Everything lies in the home and listens on loopback. What dies is started again. Asked to end, the flows end first, so
that they can still say that they were cancelled; killed, all of it ends at once, and the next start sends the rest.
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from attar import slots
from attar.errors import BadInput, StageFailed
from pipelines import deployments_yaml, guard, mlflow_link, mlflow_pages, mlflow_server, prefect_server, serving
from pipelines.embedded import SILENT, configure
from pipelines.home import Home
from pipelines.mlflow_words import RUNS

POLL_SECONDS = 0.3
STEADY_SECONDS = 30.0  # what ran for longer is started again at once
PAUSE_SECONDS = 5.0  # before anything else is
Say = Callable[[str], None]


@dataclass
class Member:
    """One server or the worker: how to start it, and the process that runs."""

    name: str
    log: Path
    launch: Callable[[], "subprocess.Popen[bytes]"]
    process: "subprocess.Popen[bytes] | None" = None
    started: float = 0.0
    due: float | None = None  # when to start it again

    def start(self) -> None:
        self.process, self.started, self.due = self.launch(), time.monotonic(), None

    def end(self) -> None:
        """Politely, and for as long as it takes: those that run something have limits of their own."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait()


def serve(home: Home, deployments: Path, ports: tuple[int, int], say: Say) -> None:
    """Serve until Ctrl-C or SIGTERM.

    Args:
        home: its databases, its store and its runs are served.
        deployments: the file that ``attar deploy`` takes.
        ports: of Prefect and of MLflow.
        say: tells the reader one line.

    Raises:
        BadInput: before anything is started: a port that is taken, a home that is served, a wrong file.
        StageFailed: a server did not start, or the deployments were refused.
    """
    _check_environment()
    environment = _environment(home, ports)
    configure(home)  # Prefect reads the cron lines
    pool = deployments_yaml.load(deployments).content.pool.name
    with suppress(KeyboardInterrupt), ExitStack() as stack:
        serving.begin(home)
        listener = stack.enter_context(_listen("--prefect-port", ports[0]))
        _listen("--mlflow-port", ports[1]).close()
        prefect, mlflow, worker = members = _members(home, listener, ports, environment, pool)
        for member in (prefect, mlflow):
            stack.callback(member.end)
            member.start()
        say(f"starting; logs are in {home.logs}")
        _ready(prefect, ports[0], "/api/health")
        _ready(mlflow, ports[1], "/health")
        serving.tell(home, f"http://127.0.0.1:{ports[1]}")
        _deploy(home, deployments, environment)
        stack.callback(worker.end)
        worker.start()
        for line in _addresses(home, ports):
            say(line)
        try:
            _watch(members, say)
        finally:
            say("ending; what runs is cancelled, and goes on from there when it is run again")


def _check_environment() -> None:
    for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI"):
        if os.environ.get(name):
            raise BadInput(
                f"{name} names a server already, and attar serve starts its own; "
                "unset it, or start only a worker with: attar worker"
            )


def _listen(option: str, port: int) -> socket.socket:
    try:
        return socket.create_server(("127.0.0.1", port))
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BadInput(f"port {port} cannot be used ({reason}); choose another one with {option}") from None


def _environment(home: Home, ports: tuple[int, int]) -> dict[str, str]:
    """What the members have in common: everything in the home, nothing sent anywhere, no other server's settings."""
    return {
        **prefect_server.alone(),
        **SILENT,
        **prefect_server.directly(),
        "ATTAR_HOME": str(home.root),
        slots.FOLDER: str(slots.folder()),  # the worker has a temporary folder of its own
        "PREFECT_HOME": str(home.prefect),
        "PREFECT_API_URL": f"http://127.0.0.1:{ports[0]}/api",
        "PREFECT_UI_URL": f"http://127.0.0.1:{ports[0]}/v2",
    }


def _members(
    home: Home, listener: socket.socket, ports: tuple[int, int], environment: dict[str, str], pool: str
) -> tuple[Member, Member, Member]:
    for folder in (home.logs, home.prefect):
        folder.mkdir(parents=True, exist_ok=True)
    pages = {
        "PREFECT_UI_API_URL": environment["PREFECT_API_URL"],
        "PREFECT_UI_STATIC_DIRECTORY": str(home.prefect / "ui"),  # Prefect would write into its own package
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
    }
    served = environment | prefect_server.own_pages(ports[0]) | pages
    tracked = environment | {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{ports[1]}"}
    log = home.logs / "prefect.log"
    return (
        Member("prefect", log, lambda: prefect_server.launch(listener, "served", served, log)),
        _guarded("mlflow", mlflow_server.command(home, ports[1]), environment | mlflow_server.ENVIRONMENT, home),
        _guarded("worker", guard.worker(pool), tracked, home),
    )


def _guarded(name: str, command: list[str], environment: dict[str, str], home: Home) -> Member:
    """A member of several processes: its guard ends with this process, and all of them with the guard."""
    log = home.logs / f"{name}.log"

    def launch() -> "subprocess.Popen[bytes]":
        with open(log, "ab") as output:
            return subprocess.Popen(
                guard.arguments(os.getpid(), command),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    return Member(name, log, launch)


def _ready(member: Member, port: int, path: str) -> None:
    process = member.process
    if process is None or not prefect_server.wait(process, port, path):
        raise StageFailed(f"{member.name} did not start; see {member.log}")


def _deploy(home: Home, deployments: Path, environment: dict[str, str]) -> None:
    """In a process of its own: Prefect reads its settings once, at import."""
    command = [sys.executable, "-P", "-m", "pipelines.cli", "deploy", str(deployments), "--home", str(home.root)]
    command.append("--take-over")  # the server is this home's alone, which may have been moved
    done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        text = (done.stderr.strip().splitlines() or ["it said nothing"])[-1].removeprefix("error: ")
        raise (BadInput if done.returncode == BadInput.exit_code else StageFailed)(text)


def _addresses(home: Home, ports: tuple[int, int]) -> list[str]:
    for newest in sorted(home.runs.glob(f"*/{RUNS}"), reverse=True)[:1]:
        mlflow_pages.ensure(home, newest.parent)
    compared = mlflow_link.newest_comparison(home, f"http://127.0.0.1:{ports[1]}")
    return [
        "",
        f"  Prefect   http://127.0.0.1:{ports[0]}/v2/deployments",  # without /v2 the stages are edited as JSON
        f"  MLflow    http://127.0.0.1:{ports[1]}/?workflowType=machine_learning",
        *([f"  Compare   {compared}"] if compared else []),
        "",
        "Ctrl-C ends it",
    ]


def _watch(members: tuple[Member, ...], say: Say) -> None:
    """Start again what died; what died soon after its start, only after a while."""
    while True:
        time.sleep(POLL_SECONDS)
        for member in members:
            process, now = member.process, time.monotonic()
            if process is None or process.poll() is None:
                continue
            if member.due is None:
                pause = 0.0 if now - member.started > STEADY_SECONDS else PAUSE_SECONDS
                member.due = now + pause
                say(f"{member.name} ended with code {process.returncode} and is started again; see {member.log}")
            if now >= member.due:
                member.start()
