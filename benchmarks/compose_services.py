"""The services of ``docker/compose.yaml`` as processes of this machine, for tests and benchmarks without an engine.

Commands, environments, health checks and their order are those of the compose file as docker compose resolves it.
Replaced is what only containers have: names and ports of the network, mount points, and the entrypoint of PostgreSQL's
image, for which Debian's package stands in. Everything listens on free ports of loopback.
"""

import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from graphlib import TopologicalSorter
from pathlib import Path
from signal import SIGINT, SIGKILL, SIGTERM
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "docker" / "compose.yaml"
BIN = Path(sys.executable).parent
PORTS = {"postgres": 5432, "prefect": 4200, "mlflow": 5000}
WORKDIR = "/opt/attar"
HANG_SECONDS = 400.0  # nobody waits longer for a service; says nothing of how fast it should be
INHERITED = ("PYTHONPATH", "OMP_NUM_THREADS", "LANG", "LC_ALL")


def resolve(environment: Mapping[str, str], *more: Path) -> "subprocess.CompletedProcess[str]":
    """What docker compose makes of the file, as JSON on standard output; its complaint on standard error."""
    files = [argument for file in (FILE, *more) for argument in ("--file", str(file))]
    command = [str(BIN / "docker-compose"), "--env-file", os.devnull, *files, "config", "--format", "json"]
    surroundings = {"PATH": os.environ["PATH"], "HOME": tempfile.gettempdir(), **environment}
    return subprocess.run(command, env=surroundings, capture_output=True, text=True)


def postgres_folder() -> Path | None:
    """Where PostgreSQL's programs lie; Debian keeps them off the PATH."""
    found = shutil.which("initdb")
    places = [Path(found).parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return places[-1] if places else None


class Services:
    """The running services: their ports on loopback, the environment of each, and what they print."""

    def __init__(self, scratch: Path, secrets: Mapping[str, str], conf: Path = ROOT / "conf") -> None:
        done = resolve({**secrets, "ATTAR_CONF": str(conf)})
        if done.returncode:
            raise RuntimeError(f"{FILE} cannot be resolved: {done.stderr.strip()}")
        self.described: dict[str, Any] = _unescaped(json.loads(done.stdout))["services"]
        self.scratch = scratch
        self.secrets = tuple(secrets.values())
        self.ports = dict(zip(PORTS, _free_ports(len(PORTS)), strict=True))
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._databases: list[Path] = []
        folder = postgres_folder()
        if folder is None:
            raise RuntimeError("PostgreSQL is not installed; on Debian: apt-get install postgresql")
        self.postgres = folder

    @property
    def home(self) -> Path:
        """The home folder that the worker computes in."""
        return self._place("worker", "/data")

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}"

    def log(self, name: str) -> Path:
        return self.scratch / "logs" / f"{name}.log"

    def environment(self, name: str) -> dict[str, str]:
        """A service's environment, with the addresses and folders of this machine."""
        described = self.described[name].get("environment") or {}
        temporary = self._place(name, "/tmp")
        return {
            **{key: os.environ[key] for key in INHERITED if key in os.environ},
            "PATH": f"{BIN}:{self.postgres}:{os.environ['PATH']}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUNBUFFERED": "1",
            "TMPDIR": str(temporary),
            **{key: self._local(name, key, str(value)) for key, value in described.items()},
            **({"PGPORT": str(self.ports[name])} if name == "postgres" else {}),
        }

    def start(self) -> None:
        """Start all, each when what it depends on is well."""
        needs = {name: set(found.get("depends_on") or ()) for name, found in self.described.items()}
        for name in TopologicalSorter(needs).static_order():
            for other, need in (self.described[name].get("depends_on") or {}).items():
                self._await(other, need["condition"])
            self.launch(name)
        for name, described in self.described.items():
            if "healthcheck" in described:
                self._await(name, "service_healthy")

    def launch(self, name: str) -> None:
        """Start one service, whatever it depends on."""
        command = [self._local(name, "", word) for word in self.described[name]["command"]]
        if name == "postgres":
            self._launch_postgres(command)
        else:
            self._spawn(name, command, self._workdir())

    def healthy(self, name: str) -> bool:
        """Whether the service's own health check passes."""
        test = [self._local(name, "", word) for word in self.described[name]["healthcheck"]["test"]]
        if test[0] != "CMD":
            raise RuntimeError(f"{name}: a health check is a list that begins with CMD, not {test[0]}")
        done = subprocess.run(test[1:], env=self.environment(name), cwd=self._workdir(), capture_output=True)
        return done.returncode == 0

    def stop(self) -> None:
        """End all, the last one first, as docker compose does: by its signal, and after its grace for good."""
        for name in reversed(self.processes):
            self.end(name)
        for folder in self._databases:
            shutil.rmtree(folder, ignore_errors=True)

    def end(self, name: str) -> None:
        process = self.processes[name]
        if process.poll() is None:
            process.send_signal(SIGINT if self.described[name].get("stop_signal") == "SIGINT" else SIGTERM)
            try:
                process.wait(90)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, SIGKILL)
                process.wait()

    def _await(self, name: str, condition: str) -> None:
        process, deadline = self.processes[name], time.monotonic() + HANG_SECONDS
        while time.monotonic() < deadline:
            code = process.poll()
            if condition == "service_completed_successfully" and code == 0:
                return
            if code is not None:
                raise RuntimeError(f"{name} ended with {code}:\n{_tail(self.log(name))}")
            if condition == "service_healthy" and self.healthy(name):
                return
            time.sleep(0.5)
        raise RuntimeError(f"{name} is not well:\n{_tail(self.log(name))}")

    def _spawn(self, name: str, command: list[str], cwd: Path, **more: Any) -> None:
        log = self.log(name)
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "ab") as output:
            self.processes[name] = subprocess.Popen(
                command,
                env=self.environment(name),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                **more,
            )

    def _launch_postgres(self, command: list[str]) -> None:
        """What the image's entrypoint does: initdb, the server, then the scripts of the init folder."""
        owner: dict[str, Any] = {"user": "postgres", "group": "postgres", "extra_groups": []} if not os.getuid() else {}
        environment = self.environment("postgres")
        data = Path(tempfile.mkdtemp(prefix="attar-postgres-"))  # the scratch folder may be closed to its user
        self._databases.append(data)
        password = data.with_suffix(".password")
        password.write_text(environment["POSTGRES_PASSWORD"])
        if owner:
            shutil.chown(data, "postgres")
            shutil.chown(password, "postgres")
        create = ["initdb", f"--pgdata={data}", "--username=postgres", f"--pwfile={password}", "--no-sync"]
        create += shlex.split(environment["POSTGRES_INITDB_ARGS"])
        subprocess.run(create, env=environment, cwd=data, check=True, stdout=subprocess.DEVNULL, **owner)
        password.unlink()
        # nothing here has to survive a power cut
        command += ["-D", str(data), "-k", str(data), "-h", "127.0.0.1", "-c", "fsync=off"]
        self._spawn("postgres", command, data, **owner)
        while subprocess.run(["pg_isready", f"--host={data}"], env=environment, stdout=subprocess.DEVNULL).returncode:
            if self.processes["postgres"].poll() is not None:
                raise RuntimeError(f"postgres did not start:\n{_tail(self.log('postgres'))}")
            time.sleep(0.1)
        environment["PGPASSWORD"] = environment["POSTGRES_PASSWORD"]
        for mount in self.described["postgres"]["volumes"]:
            if mount["target"].startswith("/docker-entrypoint-initdb.d/"):
                script = ["psql", "-v", "ON_ERROR_STOP=1", "--no-psqlrc", "--quiet", f"--host={data}"]
                script += ["--username=postgres", "--dbname=postgres", f"--file={mount['source']}"]
                subprocess.run(script, env=environment, cwd=data, check=True)

    def _workdir(self) -> Path:
        """The images' working folder: what they copy and mount there, as links."""
        place = self.scratch / "image"
        place.mkdir(parents=True, exist_ok=True)
        mounts = {mount["target"]: mount["source"] for mount in self.described["worker"]["volumes"]}
        for name, source in (("docker", ROOT / "docker"), ("conf", Path(mounts[f"{WORKDIR}/conf"]))):
            if not (place / name).exists():
                (place / name).symlink_to(source)
        return place

    def _local(self, name: str, key: str, text: str) -> str:
        """A value or an argument as it is on this machine; what holds a secret is left alone."""
        if any(secret in text for secret in self.secrets):
            return text
        if key.endswith("HOST"):
            return "127.0.0.1"
        for host, port in PORTS.items():
            here = f"127.0.0.1:{self.ports[host]}"
            if key.endswith("PORT") and text == str(port):
                return str(self.ports[host])
            for written in (f"{host}:{port}", f"127.0.0.1:{port}", f"localhost:{port}"):
                text = text.replace(written, here)
        if text == WORKDIR or text.startswith(f"{WORKDIR}/"):
            return str(self._workdir()) + text.removeprefix(WORKDIR)
        return str(self._place(name, text)) if text.startswith("/") else text

    def _place(self, name: str, path: str) -> Path:
        """A path of a container: in the folder of a volume that services share, or in one of the service's own."""
        for mount in self.described[name].get("volumes", []):
            if mount["type"] == "volume" and f"{path}/".startswith(f"{mount['target']}/"):
                place = self.scratch / "volumes" / str(mount["source"])
                place.mkdir(parents=True, exist_ok=True)
                return place / path.removeprefix(str(mount["target"])).lstrip("/")
        place = self.scratch / "containers" / name / path.lstrip("/")
        (self.scratch / "containers" / name / "tmp").mkdir(parents=True, exist_ok=True)
        return place


@contextmanager
def running(scratch: Path, secrets: Mapping[str, str], conf: Path = ROOT / "conf") -> Iterator[Services]:
    """All services, started and well; ended afterwards."""
    services = Services(scratch, secrets, conf)
    with ExitStack() as stack:
        stack.callback(services.stop)
        services.start()
        yield services


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports: list[int] = [found.getsockname()[1] for found in sockets]
    for found in sockets:
        found.close()
    return ports


def _unescaped(value: Any) -> Any:
    """Compose prints a dollar twice, so that its output can be read by compose again."""
    if isinstance(value, dict):
        return {key: _unescaped(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_unescaped(entry) for entry in value]
    return value.replace("$$", "$") if isinstance(value, str) else value


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-20:]) if log.is_file() else ""
