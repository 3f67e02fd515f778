"""``attar serve`` as a user starts it, on free ports and a home of its own, with small recipes to run."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import psutil
import pytest
import yaml

from attar.slots import FOLDER
from attar.tiny import tiny_model
from pipelines import journal

WORKER = "pipelines.worker"
FINAL = ("COMPLETED", "FAILED", "CANCELLED", "CRASHED")
DEPLOYMENTS = {
    "recipes": "recipes",
    "deployments": [
        {"name": "recipe", "recipe": "small"},
        {"name": "stages", "form": "stages", "recipe": "small"},
        {"name": "minutely", "recipe": "nightly", "schedule": {"cron": "* * * * *", "active": False}},
    ],
}


SECRET = {"TEACHER_TOKEN": "marked-secret-of-a-teacher"}  # which a worker has, and nobody may see


def environment() -> dict[str, str]:
    """That of a user who named no servers; the tests' own silence would empty the logs of runs.

    Only the slots stay those of the tests: they do not wait for runs of the user's.
    """
    theirs = ("PREFECT_", "MLFLOW_", "ATTAR_")
    mine = {name: value for name, value in os.environ.items() if name == FOLDER or not name.startswith(theirs)}
    return mine | SECRET


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def wait_for(done: Callable[[], Any]) -> Any:
    """What ``done`` returns once it is something; pytest's timeout is the limit."""
    while not (found := done()):
        time.sleep(0.2)
    return found


def call(url: str, body: Any = None, method: str | None = None, headers: dict[str, str] | None = None) -> Any:
    """One request, its answer as JSON; an HTTP error is an exception with its status.

    With SQLite a busy Prefect answers 503 when its database is locked; its own client asks again, and so does this.
    """
    data = None if body is None else json.dumps(body).encode()
    request = Request(url, data, {"Content-Type": "application/json"} | (headers or {}), method=method)
    while True:
        try:
            with urlopen(request) as answer:
                text = answer.read()
                return json.loads(text) if text else None
        except HTTPError as error:
            if error.code != HTTPStatus.SERVICE_UNAVAILABLE:
                raise
            time.sleep(1)


class Served:
    """A running ``attar serve``: its addresses, its home, and what a person does in its pages."""

    def __init__(self, folder: Path, home: Path) -> None:
        self.folder = folder
        self.home = home
        self.file = folder / "deployments.yaml"
        self.ports = (free_port(), free_port())
        self.prefect, self.mlflow = (f"http://127.0.0.1:{port}" for port in self.ports)
        self.api = f"{self.prefect}/api"
        self.output = folder / f"serve-{self.ports[0]}.txt"
        with open(self.output, "wb") as output:
            self.process = subprocess.Popen(
                self.serving(),
                env=environment() | self.of_others(),
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        wait_for(lambda: "Ctrl-C" in self.said() or self.process.poll() is not None)
        assert self.process.poll() is None, self.said() + self.logs()

    def of_others(self) -> dict[str, str]:
        """What the environment of somebody says who has another Prefect server: it is not the one that is served."""
        database = f"sqlite+aiosqlite:///{self.folder / 'others.db'}"
        return {"PREFECT_API_DATABASE_CONNECTION_URL": database, "PREFECT_SERVER_API_AUTH_STRING": "others:password"}

    def command(self, verb: str, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "pipelines.cli", verb, *arguments, "--home", str(self.home)]

    def serving(self) -> list[str]:
        ports = (f"--prefect-port={self.ports[0]}", f"--mlflow-port={self.ports[1]}")
        return self.command("serve", str(self.file), *ports)

    def attar(self, verb: str, *arguments: str) -> Any:
        """A command of somebody who names these servers; the JSON that it prints."""
        named = {"PREFECT_API_URL": self.api, "MLFLOW_TRACKING_URI": self.mlflow}
        command = self.command(verb, *arguments, "--json")
        done = subprocess.run(command, env=environment() | named, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def said(self) -> str:
        return self.output.read_text()

    def logs(self) -> str:
        return "\n".join(f"== {path.name}\n{path.read_text()[-3000:]}" for path in (self.home / "logs").glob("*"))

    def processes(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def flow_processes(self) -> list[psutil.Process]:
        """Of the flow runs, without what they started."""
        return [process for process in self.processes() if "pipelines.flow_process" in command_line(process)]

    def ask(self, path: str, body: Any = None, method: str | None = None) -> Any:
        """One request to Prefect's API, as its pages send it."""
        return call(f"{self.api}/{path}", body, method, {"Origin": self.prefect})

    def deployment(self, name: str) -> dict[str, Any]:
        flow = "compress-stages" if name == "stages" else "compress-recipe"
        found: dict[str, Any] = self.ask(f"deployments/name/{flow}/{name}")
        return found

    def submit(self, deployment: str, **parameters: Any) -> str:
        """What the form's button does: a flow run with these values over those that the form shows; its id."""
        known = self.deployment(deployment)
        values = known["parameters"] | parameters
        made = self.ask(f"deployments/{known['id']}/create_flow_run", {"parameters": values})
        return str(made["id"])

    def flow_run(self, run: str) -> dict[str, Any]:
        found: dict[str, Any] = self.ask(f"flow_runs/{run}")
        return found

    def flow_runs(self, **filters: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ask("flow_runs/filter", filters)
        return found

    def wait(self, run: str) -> dict[str, Any]:
        """The final state of a flow run."""

        def ended() -> dict[str, Any] | None:
            state: dict[str, Any] = self.flow_run(run)["state"]
            return state if state["type"] in FINAL else None

        state: dict[str, Any] = wait_for(ended)
        return state

    def worker(self) -> psutil.Process:
        """The worker's own process, without its guard."""
        (found,) = (one for one in self.processes() if command_line(one).partition(" -m ")[2].startswith(WORKER))
        return found

    def python(self, *arguments: str) -> None:
        """A program of somebody who names this Prefect server."""
        command, named = [sys.executable, *arguments], {"PREFECT_API_URL": self.api}
        done = subprocess.run(command, env=environment() | named, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    def set_state(self, run: str, kind: str, name: str) -> None:
        wanted = {"state": {"type": kind, "name": name}, "force": kind == "SCHEDULED"}
        self.ask(f"flow_runs/{run}/set_state", wanted)

    def until(self, done: Callable[[], Any]) -> Any:
        """Wait for something that has to come; its value."""
        return wait_for(done)

    def folders(self, flow_run: str) -> list[Path]:
        """Folders of the runs that a flow run had, the first one first: a retried one has several."""
        found = []
        for folder in sorted((self.home / "runs").glob("*")):
            begun = [record for record in journal.read(folder) if record["kind"] == "run"]
            if begun and begun[0]["flow_run"] == flow_run:
                found.append(folder)
        return found

    def records(self, flow_run: str, kind: str) -> list[dict[str, Any]]:
        """Records of one kind in the journals of a flow run."""
        return [record for path in self.folders(flow_run) for record in journal.read(path) if record["kind"] == kind]

    def computed(self, flow_run: str) -> list[str]:
        """Fingerprints of the artifacts that a flow run made itself, over all its attempts."""
        made = []
        for folder in self.folders(flow_run):
            records = list(journal.read(folder))
            steps = {record["step"]: record for record in records if record["kind"] == "step"}
            ended = {
                record["step"] for record in records if record["kind"] == "end-step" and record["status"] == "finished"
            }
            ran = {record["step"] for record in records if record["kind"] == "child" and record["what"] == "stage"}
            made += [steps[step]["fingerprint"] for step in sorted(ran & ended)]
        return made

    def tracked(self) -> dict[str, str]:
        """Status by name of every run that MLflow knows."""
        root = f"{self.mlflow}/api/2.0/mlflow"
        known = call(f"{root}/experiments/search", {"max_results": 100})["experiments"]
        ids = [experiment["experiment_id"] for experiment in known]
        runs = call(f"{root}/runs/search", {"experiment_ids": ids, "max_results": 1000}).get("runs", [])
        return {run["info"]["run_name"]: run["info"]["status"] for run in runs}

    def end(self) -> int:
        """Ctrl-C; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(2)
        return self.process.wait()


def command_line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A deployments file and its recipes."""
    root = tmp_path_factory.mktemp("served")
    library = Path(os.__file__).parent
    text = root / "library.txt"
    text.write_text("\n\n".join((library / name).read_text() for name in ("argparse.py", "ast.py", "typing.py")))
    recipe = {
        "name": "small",
        "model": str(tiny_model(root / "tiny")),
        "data": {"source": str(text)},
        "stages": [
            {"stage": "prune.width", "ffn": 0.25, "multiple_of": 16, "windows": 4, "length": 64},
            {"stage": "quantize.rtn", "group_size": 16},
        ],
        "measure": {"windows": 4, "length": 64, "speed": False},
    }
    # Its second stage takes minutes, for who wants to be in the middle of it.
    training = {"stage": "finetune.full", "train_tokens": 20_000_000, "batch": 4, "length": 64}
    long = recipe | {"name": "long", "stages": [recipe["stages"][0] | {"windows": 5}, training]}
    (root / "recipes").mkdir()
    for document in (recipe, long, recipe | {"name": "nightly"}):
        (root / "recipes" / f"{document['name']}.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    (root / "deployments.yaml").write_text(yaml.safe_dump(DEPLOYMENTS, sort_keys=False))
    return root


@pytest.fixture(scope="session")
def served(folder: Path) -> Iterator[Served]:
    """One ``attar serve`` for all tests of a process; what they leave running ends with it."""
    running = Served(folder, folder / "home")
    yield running
    assert running.end() == 0, running.said()


@pytest.fixture
def another(folder: Path, tmp_path: Path) -> Callable[[], Served]:
    """Starts one more, for a test that breaks it."""
    return lambda: Served(folder, tmp_path / "home")


@pytest.fixture
def until() -> Callable[[Callable[[], Any]], Any]:
    """Waits for something that has to come, and returns it."""
    return wait_for
