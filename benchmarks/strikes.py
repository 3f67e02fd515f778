"""One round of the kill loop: a home of its own, a run, a strike that must hit, and what a user does after it."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import yaml
from aftermath import MARK, finished, marked
from form import Form
from servers import Servers

from pipelines import journal

SERVERS = ("mlflow", "prefect")
DEPLOYED = ("worker", "guard")
KINDS = ("stage", "flow", "mlflow", "worker", "prefect", "guard")
POLL_SECONDS = 0.05
GONE_SECONDS = 70.0  # a guard gives what it ends that long at most, and the loop a little longer


@dataclass(frozen=True)
class Struck:
    """A strike that hit, and how it went on."""

    what: str  # pid and job, for the reader
    before: frozenset[str]  # fingerprints of what was finished
    since: float  # at this time
    run: Path  # the run that went on and finished
    orphans: list[psutil.Process]


class Round:
    """One home, one strike."""

    def __init__(self, folder: Path, recipe: Path, servers: Servers, chance: random.Random) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.temporary = folder / "tmp"
        self.temporary.mkdir(parents=True)
        self.recipe = recipe
        self.servers = servers
        self.form = Form(servers.prefect, ("", ""))
        self.flow_run = ""  # of a deployment
        self.chance = chance
        self.environment = {
            **os.environ,
            **servers.environment,
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "ATTAR_HOME": str(self.home),
            "TMPDIR": str(self.temporary),
            MARK: str(folder),
        }

    def strike(self, kind: str, jobs: Sequence[float], pause: float) -> Struck | None:
        """Begin, strike at a random moment, go on; None where the strike hit nothing, as the run had ended.

        Args:
            kind: what is struck, of ``KINDS``.
            jobs: seconds that each job of an undisturbed run took: one of them is chosen, then a moment in it.
            pause: seconds for which a server is stopped.
        """
        process = self._deployed() if kind in DEPLOYED else self.start("run", str(self.recipe))
        self._wait_for_work(process, jobs)
        if kind in SERVERS:
            before, since, job = frozenset(finished(self.home)), time.time(), self._job()
            if self._over():
                process.wait()
                return None
            with self.servers.stopped(kind, pause):
                pass
            return Struck(f"{kind} stopped during {job}", before, since, self.finish(process), [])
        target = self._target(kind, process)
        job = self._job()
        if target is not None:
            with suppress(psutil.NoSuchProcess):
                target.kill()
        if kind in DEPLOYED and target is None:
            process.terminate()
        process.wait()
        orphans = self.wait_until_gone()
        if target is None or self._over():
            return None
        before, since = frozenset(finished(self.home)), time.time()
        what = f"pid {target.pid} killed during {job}"
        if kind not in DEPLOYED:
            return Struck(what, before, since, self.finish(self.start("run", str(self.recipe))), orphans)
        was = self.form.retry(self.flow_run)
        return Struck(f"{what}, {was} until the retry", before, since, self._retried(), orphans)

    def command(self, verb: str, *more: str) -> list[str]:
        return [sys.executable, "-P", "-m", "pipelines.cli", verb, *more]

    def start(self, verb: str, *more: str) -> "subprocess.Popen[bytes]":
        with open(self.folder / f"{verb}.log", "ab") as log:
            return subprocess.Popen(
                self.command(verb, *more),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment,
                start_new_session=True,
            )

    def ask(self, verb: str, *more: str) -> None:
        """Run a command to its end."""
        subprocess.run(self.command(verb, *more), env=self.environment, check=True, stdout=subprocess.DEVNULL)

    def finish(self, process: "subprocess.Popen[bytes]") -> Path:
        """Wait for a run to end well; its folder."""
        if process.wait() != 0:
            raise SystemExit(f"a run ended with {process.returncode}: see {self.folder}")
        return self._last()

    def wait_until_gone(self) -> list[psutil.Process]:
        """What carries the round's mark a while after the strike: nothing should."""
        deadline = time.monotonic() + GONE_SECONDS
        while (left := marked(str(self.folder))) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        return left

    def runs(self) -> list[Path]:
        """Folders of all runs, the last one last."""
        return sorted(path for path in self.home.glob("runs/*") if path.is_dir())

    def _last(self) -> Path:
        return self.runs()[-1]

    def _deployed(self) -> "subprocess.Popen[bytes]":
        """A worker, with a run of a deployment to carry out."""
        name = f"kill-loop-{self.folder.name}"  # a deployment belongs to one home
        offer = self.folder / "deployments.yaml"
        document = {"recipes": str(self.recipe.parent), "deployments": [{"name": name, "recipe": self.recipe.stem}]}
        offer.write_text(yaml.safe_dump(document))
        self.ask("deploy", str(offer))
        worker = self.start("worker")
        self.flow_run = self.form.submit(name, {})
        return worker

    def _retried(self) -> Path:
        """Another worker carries out the retry and is asked to end; the folder of the run."""
        worker = self.start("worker")
        state = self.form.wait(self.flow_run)["state_type"]
        worker.send_signal(signal.SIGTERM)
        if worker.wait() != 0 or state != "COMPLETED":
            raise SystemExit(f"the retry is {state}, its worker ended with {worker.returncode}: see {self.folder}")
        return self._last()

    def _wait_for_work(self, process: "subprocess.Popen[bytes]", jobs: Sequence[float]) -> None:
        """Until the run has begun a job, any of them, then for a random part of the seconds that this job takes."""
        (chosen,) = self.chance.choices(range(len(jobs)), weights=jobs)
        moment = self.chance.random() * jobs[chosen]
        while not self.runs() or len(self._begun()) <= chosen:
            if process.poll() is not None:
                raise SystemExit(f"it never began job {chosen + 1} and ended with {process.returncode}: {self.folder}")
            time.sleep(POLL_SECONDS)
        until = time.monotonic() + moment
        while time.monotonic() < until and len(self._begun()) == chosen + 1:  # faster than the undisturbed one: now
            time.sleep(POLL_SECONDS)

    def _target(self, kind: str, process: "subprocess.Popen[bytes]") -> psutil.Process | None:
        """Whom to kill; at the very end of a run there may be nobody."""
        while process.poll() is None and not self._over():
            if kind in ("flow", "guard"):  # ``attar worker`` becomes its guard
                return psutil.Process(process.pid)
            found = self._jobs() if kind == "stage" else _workers(process.pid)
            if found:
                return found[0]
            time.sleep(POLL_SECONDS)
        return None

    def _jobs(self) -> list[psutil.Process]:
        """Processes of jobs: those that write a log of one."""
        found = []
        for process in marked(str(self.folder)):
            with suppress(psutil.Error):
                handles = [Path(handle.path) for handle in process.open_files()]
                if any(path.name == "log.txt" and "jobs" in path.parts for path in handles):
                    found.append(process)
        return found

    def _over(self) -> bool:
        """Whether the run has ended by itself: a strike would have come too late."""
        ends = [record for record in journal.read(self._last()) if record["kind"] == "end-run"]
        return any(record["status"] == "finished" for record in ends)

    def _job(self) -> str:
        """The job that began last."""
        begun = self._begun()
        return f"{begun[-1]['label']} · {begun[-1]['what']}" if begun else "the beginning"

    def _begun(self) -> list[journal.Record]:
        """All jobs that the last run began."""
        return [record for record in journal.read(self._last()) if record["kind"] == "child"]


def _workers(guard: int) -> list[psutil.Process]:
    """The process of the worker below its guard."""
    with suppress(psutil.Error):
        return [child for child in psutil.Process(guard).children() if "pipelines.worker" in child.cmdline()]
    return []
