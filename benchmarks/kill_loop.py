"""Kills runs at random moments and counts what is lost: ``python benchmarks/kill_loop.py --rounds 30 --folder DIR``.

Every round begins with a home of its own, strikes once, then goes on as a user would: the same command again, or, for
a server that was away, nothing at all. The kinds take turns:

    stage    SIGKILL to the process of a stage or a measurement
    flow     SIGKILL to the process of the run, ``attar run``
    worker   SIGKILL to a worker that carries out a run of a deployment
    mlflow   the MLflow server stopped for some seconds
    prefect  the Prefect server stopped for some seconds

Prefect and MLflow are served on loopback, by databases in the loop's folder. The recipe is the smoke recipe on the
text of Python's own library.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import psutil
import yaml
from aftermath import MARK, Counts, finished, held, left_over, marked, recomputed, unclosed, weights
from form import Form
from servers import Servers, served

ROOT = Path(__file__).parents[1]
KINDS = ("stage", "flow", "mlflow", "worker", "prefect")
STAGES = 4
COUNTED = ("recomputed", "different", "unclosed", "orphans", "temporary")


class Round:
    """One home, one strike, and the count afterwards."""

    def __init__(self, folder: Path, recipe: Path, servers: Servers, chance: random.Random) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.temporary = folder / "tmp"
        self.temporary.mkdir(parents=True)
        self.recipe = recipe
        self.servers = servers
        self.chance = chance
        self.environment = {
            **os.environ,
            **servers.environment,
            "ATTAR_HOME": str(self.home),
            "TMPDIR": str(self.temporary),
            MARK: str(folder),
        }

    def command(self, verb: str, *more: str) -> list[str]:
        return [sys.executable, "-P", "-m", "pipelines.cli", verb, *more]

    def start(self, verb: str, *more: str) -> "subprocess.Popen[bytes]":
        log = open(self.folder / f"{verb}.log", "ab")  # noqa: SIM115 (the process keeps it)
        with log:
            return subprocess.Popen(
                self.command(verb, *more),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment,
                start_new_session=True,
            )

    def run(self) -> "subprocess.Popen[bytes]":
        return self.start("run", str(self.recipe))

    def finish(self, process: "subprocess.Popen[bytes]") -> Path:
        """Wait for a run to end well; its folder."""
        if process.wait() != 0:
            raise SystemExit(f"a run ended with {process.returncode}: see {self.folder}")
        return max(path for path in (self.home / "runs").iterdir() if path.is_dir())

    def wait_for_work(self, begun: float) -> None:
        """Until the run has begun its first step, then for a random part of an undisturbed run's time."""
        while not list(self.home.glob("runs/*/jobs/*")):
            time.sleep(0.1)
        time.sleep(self.chance.random() * begun)

    def jobs(self) -> list[psutil.Process]:
        """Processes of jobs: those that write the events of this home."""
        found = []
        for process in marked(str(self.folder)):
            try:
                handles = process.open_files()
            except psutil.Error:
                continue
            if any(handle.path.endswith("/log.txt") and "/jobs/" in handle.path for handle in handles):
                found.append(process)
        return found

    def kill_job(self, run: "subprocess.Popen[bytes]") -> None:
        """SIGKILL to a job as soon as there is one; at the very end of a run there may be none."""
        while run.poll() is None:
            for process in self.jobs():
                process.kill()
                return
            time.sleep(0.05)

    def wait_until_gone(self) -> list[psutil.Process]:
        """What carries the round's mark a while after the strike: nothing should."""
        for _ in range(200):
            if not (left := marked(str(self.folder))):
                return []
            time.sleep(0.1)
        return left


def strike(kind: str, current: Round, seconds: float, pause: float) -> tuple[set[str], Path, list[psutil.Process]]:
    """Begin, strike, go on. What was finished before going on, the run that finished, processes that outlived."""
    if kind == "worker":
        offer = current.recipe.with_name("deployments.yaml")
        subprocess.run(
            current.command("deploy", str(offer), "--take-over"),  # from the round before, which had another home
            env=current.environment,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        worker = current.start("worker")
        Form(current.servers.prefect, ("", "")).submit("kill-loop", {})
        current.wait_for_work(seconds)
        worker.kill()
        worker.wait()
        orphans = current.wait_until_gone()
        before = finished(current.home)
        return before, current.finish(current.run()), orphans
    run = current.run()
    current.wait_for_work(seconds)
    if kind in ("mlflow", "prefect"):
        before = finished(current.home)
        with current.servers.stopped(kind, pause):
            pass
        return set(), current.finish(run), []
    if kind == "flow":
        run.kill()
    else:
        current.kill_job(run)
    run.wait()
    orphans = current.wait_until_gone()
    before = finished(current.home)
    return before, current.finish(current.run()), orphans


def count(current: Round, before: set[str], run: Path, reference: str, orphans: Sequence[psutil.Process]) -> Counts:
    """Everything that the round left behind."""
    counts = Counts()
    counts.add("orphans", orphans)
    counts.add("recomputed", recomputed(run, before))
    counts.add("different", [run.name] if weights(run) != reference else [])
    subprocess.run(current.command("sync"), env=current.environment, check=True, stdout=subprocess.DEVNULL)
    counts.add("orphans", current.wait_until_gone())
    counts.add("orphans", held(current.home))
    counts.add("unclosed", unclosed(current.servers.mlflow, run, STAGES))
    counts.add("temporary", left_over(current.home, current.temporary))
    return counts


def write_recipe(folder: Path) -> Path:
    """The smoke recipe on Python's own library, without the timing of tokens, and a deployment of it."""
    library = Path(os.__file__).parent
    names = ("argparse.py", "ast.py", "datetime.py", "inspect.py", "tarfile.py", "typing.py", "turtle.py")
    text = folder / "library.txt"
    text.write_text("\n\n".join((library / name).read_text(encoding="utf-8") for name in names), encoding="utf-8")
    document = yaml.safe_load((ROOT / "conf" / "smoke.yaml").read_text())
    document["data"] = {"source": str(text)}
    document["measure"] |= {"speed": False}
    for index in (0, 3):  # long enough to be struck in the middle
        document["stages"][index]["train_tokens"] = 16_384
    recipe = folder / "smoke.yaml"
    recipe.write_text(yaml.safe_dump(document, sort_keys=False))
    offer = {"recipes": ".", "deployments": [{"name": "kill-loop", "recipe": "smoke"}]}
    (folder / "deployments.yaml").write_text(yaml.safe_dump(offer))
    return recipe


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, required=True, help="an empty folder; keeps what went wrong")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--pause", type=float, default=20.0, help="seconds for which a server is stopped")
    given = parser.parse_args()
    folder = given.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        parser.error(f"{folder} is not empty")
    chance = random.Random(given.seed)
    recipe = write_recipe(folder)
    total = Counts()
    with served(folder / "servers") as servers:
        undisturbed = Round(folder / "undisturbed", recipe, servers, chance)
        began = time.monotonic()
        reference = weights(undisturbed.finish(undisturbed.run()))
        seconds = 0.8 * (time.monotonic() - began)
        for number in range(given.rounds):
            kind = given.kinds[number % len(given.kinds)]
            current = Round(folder / f"{number:03}-{kind}", recipe, servers, chance)
            before, run, orphans = strike(kind, current, seconds, given.pause)
            counts = count(current, before, run, reference, orphans)
            for name in COUNTED:
                setattr(total, name, getattr(total, name) + getattr(counts, name))
            total.notes += [f"round {number} ({kind}): {note}" for note in counts.notes]
            found = " · ".join(counts.notes) or "nothing lost"
            print(f"{number + 1:3} {kind:<8} {len(before)} were finished: {found}", flush=True)  # noqa: T201
            if not counts.total:
                clear(current.folder)
    print(json.dumps({"rounds": given.rounds, "seed": given.seed, **asdict(total)}, indent=1))  # noqa: T201
    return 1 if total.total else 0


def clear(folder: Path) -> None:
    """A round without fault leaves nothing to look at."""
    import shutil

    shutil.rmtree(folder)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
