"""Attar's quantizers, on the same terms as the peers: ``python attar_gptq.py JOB.json``.

Timed is what a user waits for: opening the model, quantizing, writing the folder. The proofs that a run adds (the
saved folder opens in a fresh process and computes the same) have no counterpart among the peers and are outside.
"""

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

import stages
from attar.data import Corpus
from attar.events import Events
from attar.model import Model
from attar.store import Store
from attar.writer import Writer
from stages.base import Context


class Given(Corpus):
    """A corpus of nothing but the windows that every contender gets."""

    def __init__(self, ids: torch.Tensor) -> None:
        super().__init__([], [], "given", "given")
        self._ids = ids.numpy()

    def windows(self, *_: Any, **__: Any) -> Any:
        return self._ids


def main(job: dict[str, Any]) -> None:
    """Quantize ``job["model"]`` on the windows in ``job["windows"]``; leave result.json and weights.safetensors."""
    out = Path(job["out"])
    torch.set_num_threads(job["threads"])
    torch.use_deterministic_algorithms(True, warn_only=True)  # as a stage runs
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    ids = load_file(job["windows"])["calibration"]
    shape = {"windows": len(ids), "length": ids.shape[1]} if job["stage"] == "quantize.gptq" else {}
    given = {key: job[key] for key in ("stage", "bits", "group_size", "symmetric")}
    stage = stages.parse({**given, **shape, **job["settings"]})
    folder = out / "model"
    folder.mkdir()
    started = time.perf_counter()
    source = Model(Path(job["model"]))
    context = Context(
        origin=source,
        teacher=None,
        data=Given(ids),
        device="cpu",
        dtype="bfloat16",
        seed=0,
        state=out,
        store=Store(out / "store"),
        events=Events(out / "events.jsonl"),
        cancelled=lambda: False,
    )
    writer = Writer(folder, stage.plan(source.facts), tokenizer_from=source.folder)
    stage.apply(source, writer, context)
    writer.close()
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    used = {"version": f"{stage.stage} {stage.version}", "settings": stage.settings()}
    (out / "result.json").write_text(json.dumps({"seconds": seconds, "peak_memory_bytes": peak, **used}))

    packed = dict(Model(folder).materialize(torch.bfloat16).named_modules())
    names = Model(folder).facts.packed_modules
    save_file({f"{name}.weight": packed[name].dequantize() for name in names}, out / "weights.safetensors")


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
