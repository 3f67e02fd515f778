"""What flow, tracking and child processes cost over the bare stages: ``python benchmarks/overhead.py --scratch FOLDER``

Each round runs a recipe twice, in two new homes whose model and text were prepared before: by ``attar run``, and as
bare stages, whose ``run`` is called in one process that has loaded torch already. What is measured is

    overhead = (wall of attar run - measuring - wall of the bare stages) / wall of the bare stages

with measuring from the start of its processes to their end; ``strict`` takes off only what measuring itself says that
it took, so that starting its processes counts as overhead; ``own`` compares with the seconds that the very stages of
that run took, so that a machine that was slower for some minutes does not count. Rounds begin in turn with the one and
with the other. Then the recipe runs again, with everything cached, and is planned. The exit code is 1 where a median
is over what is asked.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from pipelines import journal
from pipelines.child import QUIET
from pipelines.home import Home

HERE = Path(__file__).resolve()
RECIPE = HERE.parents[1] / "conf" / "quickstart.yaml"
RESULT = HERE.parent / "results" / "overhead.json"
MOST = {"overhead": 0.05, "cached_seconds": 20.0, "plan_seconds": 5.0}  # of the quickstart


def attar(verb: str, recipe: list[str], home: Path) -> tuple[float, dict[str, Any]]:
    """Wall seconds of a command, and the JSON it printed."""
    command = [sys.executable, "-P", "-m", "pipelines.cli", verb, *recipe, "--home", str(home), "--json"]
    began = time.monotonic()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return time.monotonic() - began, json.loads(done.stdout)


def bare(recipe: list[str], home: Path, threads: int) -> dict[str, Any]:
    """The stages alone, in a process of their own."""
    environment = {**os.environ, **QUIET, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    command = [sys.executable, str(HERE), "--bare", "--recipe", *recipe, "--scratch", str(home)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def run_bare(recipe: list[str], place: Path) -> dict[str, Any]:
    """In that process: plan, load torch, then call every stage and nothing else."""
    import warnings

    import torch
    import transformers

    import stages.run  # noqa: F401  (all that the first stage would import is here before the clock starts)
    from attar.events import Events
    from pipelines.execution import Execution
    from pipelines.journal import Journal, NullTracker
    from pipelines.plan import make_plan
    from pipelines.recipe import load

    warnings.simplefilter("ignore")
    home = Home.open(place)
    plan = make_plan(load(Path(recipe[0]), recipe[1:]), home, complete=True)
    run = home.new_run("bare")
    execution = Execution(plan, run, Journal(home.runs / run, NullTracker()))
    torch.set_num_threads(plan.machine.threads)
    assert transformers.AutoModelForCausalLM is not None  # transformers imports what is asked for only then
    seconds: dict[str, float] = {}
    for step in plan.steps:
        if step.stage is not None:
            began = time.monotonic()
            step.stage.run(execution.stage_spec(step), Events(None))
            seconds[step.label] = time.monotonic() - began
    return {"seconds": sum(seconds.values()), "stages": seconds}


def told(home: Path, run: str) -> dict[str, Any]:
    """What a run says of its times: each stage's own, and measuring's."""
    store, records = Home.open(home).store, journal.read(home / "runs" / run)
    own, measuring, strict, began = {}, 0.0, 0.0, 0.0
    for record in records:
        if record["kind"] == "child" and record["what"] == "measure":
            began = record["time"]
        if record["kind"] != "measured":
            continue
        row = record["row"]
        if began:
            evaluation = store.find("evaluation", row["evaluation"])
            assert evaluation is not None
            measuring += record["time"] - began
            strict += evaluation.manifest["seconds"]
            began = 0.0
        made = store.find("model", row["fingerprint"]) or store.find("dataset", row["fingerprint"])
        if row["step"] and made is not None:
            own[f"{row['step']} {row['name']}"] = made.manifest["seconds"] + made.manifest.get("proof_seconds", 0.0)
    return {"stages": own, "measuring": measuring, "measuring_strict": strict}


def one_round(recipe: list[str], scratch: Path, number: int, piped_first: bool) -> dict[str, Any]:
    """Both ways in new homes; the pipeline's home stays for what follows."""
    piped, plain = scratch / f"piped-{number}", scratch / f"bare-{number}"
    preparing, planned = 0.0, {}
    for home in (piped, plain):
        shutil.rmtree(home, ignore_errors=True)
        preparing, planned = attar("plan", recipe, home)
    found: dict[str, Any] = {"first": "attar run" if piped_first else "bare stages", "preparing": preparing}
    for turn in (piped_first, not piped_first):
        if turn:
            found["wall"], report = attar("run", recipe, piped)
            found |= told(piped, report["run"])
        else:
            found["bare"] = bare(recipe, plain, planned["machine"]["threads"])
    shutil.rmtree(plain)
    alone, own = found["bare"]["seconds"], sum(found["stages"].values())
    found["overhead"] = (found["wall"] - found["measuring"] - alone) / alone
    found["overhead_strict"] = (found["wall"] - found["measuring_strict"] - alone) / alone
    found["overhead_own"] = (found["wall"] - found["measuring"] - own) / own
    found["cached_seconds"], again = attar("run", recipe, piped)
    assert not any(r["kind"] == "child" for r in journal.read(piped / "runs" / again["run"])), "something ran again"
    found["plan_seconds"], _ = attar("plan", recipe, piped)
    shutil.rmtree(piped)
    return found


def show(rounds: list[dict[str, Any]]) -> None:
    """Ratios first."""
    names = ("overhead", "overhead_strict", "overhead_own", "cached_seconds", "plan_seconds")
    lines = ["| round | first | overhead | strict | own | all cached | plan |", "|---|---|---:|---:|---:|---:|---:|"]
    for number, one in enumerate([*rounds, {n: statistics.median(r[n] for r in rounds) for n in names}], start=1):
        cells = [str(number), one["first"]] if "first" in one else ["median", ""]
        cells += [f"{one[name]:+.1%}" for name in names[:3]] + [f"{one[name]:.1f} s" for name in names[3:]]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| seconds | attar run | bare |", "|---|---:|---:|"]
    last = rounds[-1]
    for label, seconds in last["bare"]["stages"].items():
        lines.append(f"| {label} | {last['stages'][label]:.1f} | {seconds:.1f} |")
    lines.append(f"| all stages | {sum(last['stages'].values()):.1f} | {last['bare']['seconds']:.1f} |")
    lines += [f"| measuring | {last['measuring']:.1f} | – |", f"| wall | {last['wall']:.1f} | – |"]
    print("\n".join([*lines, ""]))  # noqa: T201


def too_much(rounds: list[dict[str, Any]]) -> list[str]:
    """Medians over what is asked."""
    found = {name: statistics.median(one[name] for one in rounds) for name in MOST}
    return [
        f"{name}: the median {median:.3g} is over {MOST[name]:g}"
        for name, median in found.items()
        if not median <= MOST[name]
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", nargs="+", default=[str(RECIPE)], metavar="RECIPE [KEY=VALUE]")
    parser.add_argument("--scratch", type=Path, required=True, help="folder for the homes")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--first", choices=("run", "bare"), default="run", help="what the first round begins with")
    parser.add_argument("--result", type=Path, default=RESULT, help="where the figures go")
    parser.add_argument("--bare", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.bare:
        print(json.dumps(run_bare(arguments.recipe, arguments.scratch)))  # noqa: T201
        return 0
    scratch = arguments.scratch.absolute()
    rounds = [
        one_round(arguments.recipe, scratch, number, (arguments.first == "run") == (number % 2 == 0))
        for number in range(arguments.rounds)
    ]
    recipe = " ".join([Path(arguments.recipe[0]).name, *arguments.recipe[1:]])
    arguments.result.parent.mkdir(parents=True, exist_ok=True)
    arguments.result.write_text(json.dumps({"recipe": recipe, "asked": MOST, "rounds": rounds}, indent=1) + "\n")
    show(rounds)
    faults = too_much(rounds)
    print("\n".join(faults or [f"at most {limit:g} asked and kept: {name}" for name, limit in MOST.items()]))  # noqa: T201
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
