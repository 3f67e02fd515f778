"""What the race and the sweep of GPTQ implementations share: the same windows, a process each, one judge.

Every contender runs alone in a process of its own, in the environment it asks for, with the same number of threads,
in bf16, on the same windows of token ids. Its result is judged by one reader (``judge.py``): the fp32 weights that its
integers stand for, put into the dense model.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from attar.data import DataSettings, open_corpus
from attar.data.windows import pack
from attar.model import Model
from attar.testing import write_text
from pipelines.home import Home
from pipelines.materials import open_model

HERE = Path(__file__).resolve().parent
SETTINGS = HERE / "peers" / "settings.json"
RESULTS = HERE / "results"
GPTQ = ("attar", "gptqmodel", "llmcompressor")
CONTENDERS = (*GPTQ, "rtn")


@dataclass(frozen=True)
class Track:
    """A model, the windows for it, and the format that all results have."""

    model: Path
    windows: Path
    bits: int
    group_size: int
    symmetric: bool
    threads: int


def open_folder(spec: str, home: Home) -> Path:
    """The folder of a model given as recipes give one; imported first where that is needed."""
    return Path(open_model(spec, "causal-lm", home, complete=True).ref.folder)


def write_windows(model: Path, home: Home, file: Path, calibration: int, scored: int, length: int) -> None:
    """Token ids int64: ``calibration`` [n, length], mixed from two sources, and the two texts that are scored.

    Calibration alternates between the docstrings of the libraries (their calibration part) and those of Python's own
    library. ``held-out`` are other modules of the first kind; nothing of the kind of ``other`` is calibrated on.
    """
    corpus = open_corpus(DataSettings(), home.corpus)
    tokenizer = Model(model).tokenizer_file
    half = -(-calibration // 2)
    first = torch.from_numpy(corpus.windows("calibration", tokenizer, half, length, seed=0))
    own = write_text(file.with_suffix(".txt")).read_text()
    second = torch.from_numpy(pack(own.split("\n\n"), tokenizer, half, length))
    if len(first) < half or len(second) < half:
        raise SystemExit(f"the texts hold fewer than {calibration} windows of {length} tokens; ask for fewer")
    found = {"calibration": torch.stack([first, second], dim=1).flatten(0, 1)[:calibration].contiguous()}
    for text in ("held-out", "other"):
        found[text] = torch.from_numpy(corpus.windows(text, tokenizer, scored, length, seed=0))  # type: ignore[arg-type]
    save_file(found, file)


def interpreter(contender: str, peers: Path) -> Path:
    """The Python that a contender runs in, or a sentence that says how to make it."""
    if contender in ("attar", "rtn"):
        return Path(sys.executable)
    found = peers.absolute() / contender / "bin" / "python"
    if not found.exists():
        raise SystemExit(f"{contender} has no environment at {found}; make one with: make bench-peers")
    return found


def run(contender: str, settings: dict[str, Any], track: Track, peers: Path, out: Path) -> dict[str, Any]:
    """Seconds, peak memory and quality of one contender; its files are left under ``out``."""
    out.mkdir(parents=True)
    for file in track.model.iterdir():  # nobody waits for a disk on which the model's pages have grown cold
        if file.is_file():
            file.read_bytes()
    job = {
        "model": str(track.model),
        "windows": str(track.windows),
        "out": str(out),
        "bits": track.bits,
        "group_size": track.group_size,
        "symmetric": track.symmetric,
        "threads": track.threads,
        "settings": settings,
    }
    if contender in ("attar", "rtn"):
        job["stage"] = "quantize.gptq" if contender == "attar" else "quantize.rtn"
    script = HERE / "contenders" / f"{'attar' if contender == 'rtn' else contender}_gptq.py"
    _child(interpreter(contender, peers), script, job, out)
    result: dict[str, Any] = json.loads((out / "result.json").read_text())
    quality = judge(track, out / "weights.safetensors", out)
    (out / "weights.safetensors").unlink()
    return {"contender": contender, "symmetric": track.symmetric, "settings": settings, **result, **quality}


def judge(track: Track, weights: Path | None, out: Path) -> dict[str, Any]:
    """Quality of the model with these weights; without any, of the model itself, whose states are kept for the KL."""
    reference = track.windows.with_suffix(".hidden.safetensors")
    job = {"model": str(track.model), "windows": str(track.windows), "threads": track.threads}
    job |= {"weights": str(weights) if weights else None, "hidden": str(reference), "out": str(out / "quality.json")}
    _child(Path(sys.executable), HERE / "judge.py", job, out)
    quality: dict[str, Any] = json.loads((out / "quality.json").read_text())
    return quality


def _child(python: Path, script: Path, job: dict[str, Any], out: Path) -> None:
    file = out / f"{script.stem}.json"
    file.write_text(json.dumps(job, indent=1))
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH" or python == Path(sys.executable)}
    environment |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(job["threads"]), "TOKENIZERS_PARALLELISM": "false"}
    with open(out / f"{script.stem}.log", "w") as log:
        command = [python, "-P", "-W", "ignore", script, file]
        # in its own folder: some leave logs where they are
        done = subprocess.run(command, env=environment, cwd=out, stdout=log, stderr=log)
    if done.returncode:
        tail = "\n".join((out / f"{script.stem}.log").read_text().splitlines()[-15:])
        raise SystemExit(f"{script.stem} failed, see {out}:\n{tail}")
