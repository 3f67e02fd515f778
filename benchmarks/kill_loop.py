"""Kills runs at random moments and counts what is lost: ``python benchmarks/kill_loop.py --rounds 30 --folder DIR``.

Every round begins with a home of its own, strikes once, then goes on as a user would: the same command again, a retry
of the flow run, or, for a server that was away, nothing at all. The kinds take turns:

    stage    SIGKILL to the process of a stage or a measurement
    flow     SIGKILL to the process of the run, ``attar run``
    mlflow   the MLflow server stopped for some seconds
    worker   SIGKILL to a worker that carries out a run of a deployment
    prefect  the Prefect server stopped for some seconds
    guard    SIGKILL to the guard of such a worker

A strike that comes when the run has ended tests nothing: its round is repeated, and the loop fails where a round never
hits. Prefect and MLflow are served on loopback, by databases in the loop's folder. The recipe is the smoke recipe on
the text of Python's own library.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
from collections.abc import Mapping
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import yaml
from aftermath import COUNTED, Counts, Job, held, identities, left_over, marked, moved, recomputed, unclosed, weights
from servers import served
from strikes import KINDS, Round, Struck

from pipelines import journal

ROOT = Path(__file__).parents[1]
STAGES = 4
TRIES = 5  # of a round whose strike comes too late


def count(current: Round, struck: Struck, weight: str, reference: Mapping[Job, str]) -> Counts:
    """Everything that the round left behind."""
    counts = Counts()
    counts.add("orphans", struck.orphans)
    for folder in current.runs():
        records = journal.read(folder)
        counts.add("recomputed", recomputed(records, struck.before, struck.since, reference))
        counts.add("moved", moved(records, reference))
    counts.add("different", [struck.run.name] if weights(struck.run) != weight else [])
    current.ask("sync")
    counts.add("orphans", current.wait_until_gone())
    counts.add("orphans", held(current.home))
    counts.add("unclosed", unclosed(current.servers.mlflow, struck.run, STAGES))
    own = [folder.name for folder in current.runs()]
    counts.add("unclosed", [name for name in current.form.open() if any(run in name for run in own)])
    counts.add("temporary", left_over(current.home, current.temporary))
    return counts


def write_recipe(folder: Path) -> Path:
    """The smoke recipe on Python's own library, without the timing of tokens."""
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
    total, hits = Counts(), 0
    with served(folder / "servers") as servers:
        undisturbed = Round(folder / "undisturbed", recipe, servers, chance)
        run = undisturbed.finish(undisturbed.start("run", str(recipe)))
        records = journal.read(run)
        weight, reference = weights(run), identities(records)
        times = [record["time"] for record in records if record["kind"] in ("child", "end-run")]
        jobs = [after - before for before, after in pairwise(times)]
        for number in range(given.rounds):
            kind = given.kinds[number % len(given.kinds)]
            for attempt in range(TRIES):
                current = Round(folder / f"{number:03}-{kind}-{attempt}", recipe, servers, chance)
                try:
                    struck = current.strike(kind, jobs, given.pause)
                except BaseException:  # Ctrl-C, or a run that broke: what was begun is nobody else's to end
                    for process in marked(str(current.folder)):
                        process.kill()
                    raise
                if struck is not None:
                    break
                print(f"{number + 1:3} {kind:<8} came too late, once more", flush=True)  # noqa: T201
                shutil.rmtree(current.folder)
            if struck is None:
                continue
            hits += 1
            counts = count(current, struck, weight, reference)
            for name in COUNTED:
                setattr(total, name, getattr(total, name) + getattr(counts, name))
            total.notes += [f"round {number + 1} ({kind}): {note}" for note in counts.notes]
            there = len(struck.before & set(reference.values()))
            found = " · ".join(counts.notes) or "nothing lost"
            print(f"{number + 1:3} {kind:<8} {struck.what}: {there} results were there: {found}", flush=True)  # noqa: T201
            if not counts.total:  # a round without fault leaves nothing to look at
                shutil.rmtree(current.folder)
    print(f"struck {hits} of {given.rounds} rounds")  # noqa: T201
    told = {"rounds": given.rounds, "struck": hits, "seed": given.seed, **asdict(total)}
    print(json.dumps(told, indent=1))  # noqa: T201
    return 1 if total.total or hits < given.rounds else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
