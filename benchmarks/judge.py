"""Judges a race's result: perplexity, KL and agreement of a model with the weights of a contender. ``judge.py JOB``"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from attar.model import Model
from attar.quality import Reference, measure_text

TEXTS = ("held-out", "other")


def main(job: dict[str, Any]) -> None:
    """Put ``job["weights"]`` (fp32, by parameter name) into ``job["model"]`` and measure it in bf16 on both texts."""
    torch.set_num_threads(job["threads"])
    model = Model(Path(job["model"])).materialize(torch.bfloat16)
    windows, hidden = load_file(job["windows"]), Path(job["hidden"])
    states: dict[str, torch.Tensor] = {}
    kept: dict[str, torch.Tensor] = {}
    if job["weights"]:
        weights = {name: tensor.bfloat16() for name, tensor in load_file(job["weights"]).items()}
        linears = {f"{n}.weight" for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)} - {
            "lm_head.weight"
        }
        if set(weights) != linears:
            raise SystemExit(f"the contender quantized other linears: {sorted(set(weights) ^ linears)[:3]} …")
        model.load_state_dict(weights, strict=False)
        kept = load_file(hidden)
    result: dict[str, dict[str, float | None]] = {"perplexity": {}, "kl": {}, "agreement": {}}
    head = model.get_output_embeddings().weight.detach()  # type: ignore[operator]
    for text in TEXTS:
        reference = Reference(kept[text], head) if kept else None
        quality, states[text] = measure_text(model, windows[text], reference)
        for measure in result:
            result[measure][text] = getattr(quality, measure)
    if not job["weights"]:
        save_file(states, hidden)
    Path(job["out"]).write_text(json.dumps(result))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
