"""Eight runs at once over four recipes that share stages, as a team starts them: ``python benchmarks/side_by_side.py``

The services of ``docker/compose.yaml`` run as processes (see ``compose_services.py``): PostgreSQL, Prefect and MLflow
with passwords, one worker. Each recipe is submitted twice through Prefect's API. Then the journals and the events of
all jobs are read: every artifact has to be computed once, and one job at a time has to have the CPU. Exits with 1
otherwise.
"""

import argparse
import json
import os
import re
import secrets
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import compose_services
import yaml
from form import Form

from attar import events, machine

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "side_by_side.json"
TWICE = 2
# What each recipe changes in the smoke recipe, from its last stage to its second: the earlier stages are shared.
CHANGES: dict[str, dict[int, dict[str, Any]]] = {
    "smoke": {},
    "longer": {3: {"train_tokens": 4096}},
    "hastier": {2: {"windows": 4}},
    "narrower": {1: {"ffn": 0.5}},
}


@dataclass(frozen=True)
class Job:
    """One child process: what it was to make, and when it worked."""

    run: str
    makes: str
    computed: bool  # or another run had made it meanwhile
    spans: tuple[tuple[float, float], ...]  # when it worked, seconds since the epoch
    waits: Counter[str]  # by what it waited for


@dataclass(frozen=True)
class Counts:
    """What the eight runs did together."""

    runs: int
    finished: int
    artifacts_asked: int  # over all runs, one by one
    artifacts_needed: int  # different ones
    artifacts_computed: int
    computed_twice: int
    overlapping: int  # pairs of jobs that had the CPU at the same time
    jobs_that_waited: dict[str, int]

    @property
    def right(self) -> bool:
        once = self.artifacts_computed == self.artifacts_needed and not self.computed_twice
        return once and not self.overlapping and self.finished == self.runs


def write_recipes(folder: Path, text: Path) -> None:
    """The four recipes, and the deployments that ``attar deploy`` registers."""
    for name, changes in CHANGES.items():
        recipe = yaml.safe_load((ROOT / "conf" / "smoke.yaml").read_text())
        recipe |= {"name": name, "data": {"source": str(text)}}
        recipe["measure"]["speed"] = False  # timings of a machine that eight runs share say nothing
        for stage, settings in changes.items():
            recipe["stages"][stage] |= settings
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    form = {"name": "recipe", "form": "recipe", "recipe": "smoke"}
    pool = {"name": "attar", "limit": len(CHANGES) * TWICE}
    document = {"recipes": ".", "pool": pool, "deployments": [form]}
    (folder / "deployments.yaml").write_text(yaml.safe_dump(document, sort_keys=False))


def jobs(home: Path) -> Iterator[Job]:
    """All jobs of all runs in a home, from what they wrote down."""
    for file in sorted(home.glob("runs/*/jobs/*/spec.json")):
        told, _ = events.read(file.with_name("events.jsonl"))
        waits = Counter(_thing(event["text"]) for event in told if event["kind"] == "waiting" and event["text"])
        run = file.relative_to(home / "runs").parts[0]
        spans = tuple(_spans(told))
        done: dict[str, Any] = next((event["result"] for event in reversed(told) if event["kind"] == "done"), {})
        computed = done.get("new", bool(spans))  # a measurement does not say; it works where it computes
        yield Job(run, json.loads(file.read_text())["fingerprint"], computed, spans, waits)


def _spans(told: list[events.Event]) -> Iterator[tuple[float, float]]:
    """From the first sign of work to the last, between waits."""
    span: list[float] = []
    for event in told:
        if event["kind"] in ("progress", "metric"):
            span.append(event["time"])
        elif event["kind"] == "waiting" and span:
            yield span[0], span[-1]
            span = []
    if span:
        yield span[0], span[-1]


def _thing(text: str) -> str:
    """What was waited for: the CPU, or somebody else's artifact."""
    return "the CPU" if text.startswith("waiting for the CPU") else "an artifact"


def count(home: Path, states: list[str]) -> Counts:
    """What the runs in a home did; ``states`` are those of their flow runs."""
    found = list(jobs(home))
    made = Counter(job.makes for job in found if job.computed)
    spans = sorted(span for job in found for span in job.spans)
    reports = [json.loads(file.read_text())["rows"] for file in home.glob("runs/*/report.json")]
    asked = [row["evaluation"] for rows in reports for row in rows]
    asked += [row["fingerprint"] for rows in reports for row in rows if row["step"]]  # the origin is only measured
    return Counts(
        runs=len(states),
        finished=min(states.count("COMPLETED"), len(reports)),
        artifacts_asked=len(asked),
        artifacts_needed=len(set(asked)),
        artifacts_computed=len(made),
        computed_twice=sum(times - 1 for times in made.values()),
        overlapping=sum(first[1] > second[0] for first, second in pairwise(spans)),
        jobs_that_waited=dict(sum((Counter(set(job.waits)) for job in found), Counter())),
    )


def library_text(target: Path) -> Path:
    """Modules of Python's own library, as one text."""
    names = ("argparse.py", "ast.py", "datetime.py", "inspect.py", "tarfile.py", "typing.py", "turtle.py")
    library = Path(os.__file__).parent
    target.write_text("\n\n".join((library / name).read_text(encoding="utf-8") for name in names), encoding="utf-8")
    return target


def new_secrets() -> dict[str, str]:
    """A value for every secret of the compose file, with the characters that a URL would trip over."""
    names = sorted(set(re.findall(r"\$\{(\w+):\?", compose_services.FILE.read_text())))
    return {name: f"{secrets.token_urlsafe(12)}/@:%41#?&$" for name in names}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="keep everything that is written here, for a look afterwards")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="attar-side-by-side-") as temporary:
        folder = (asked.folder or Path(temporary)).absolute()
        conf = folder / "conf"
        conf.mkdir(parents=True)
        write_recipes(conf, library_text(folder / "library.txt"))
        passwords = new_secrets()
        with compose_services.running(folder, passwords, conf) as services:
            form = Form(services.url("prefect"), ("attar", passwords["ATTAR_PREFECT_PASSWORD"]))
            started = time.monotonic()
            runs = [form.submit("recipe", {"recipe": name}) for _ in range(TWICE) for name in CHANGES]
            ended = [form.wait(run) for run in runs]
            seconds = time.monotonic() - started
            counts = count(services.home, [run["state_type"] for run in ended])
    for run in ended:
        if run["state_type"] != "COMPLETED":
            print(f"{run['name']}: {run['state_name']}: {run['state'].get('message')}", file=sys.stderr)  # noqa: T201
    for name, value in asdict(counts).items():
        print(f"{name.replace('_', ' '):<20} {value}")  # noqa: T201
    print(f"{'seconds':<20} {seconds:.0f}")  # noqa: T201
    described = {"counts": asdict(counts), "seconds": round(seconds), "machine": machine.cpu_name()}
    RESULT.write_text(json.dumps(described, indent=1) + "\n")
    return 0 if counts.right else 1


if __name__ == "__main__":
    sys.exit(main())
