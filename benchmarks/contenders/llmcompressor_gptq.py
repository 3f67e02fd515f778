"""llm-compressor's GPTQ, run in its own environment: ``python llmcompressor_gptq.py JOB.json``.

Timed is what a user waits for: opening the model, quantizing, writing the folder. The weights in fp32, by which every
contender's result is judged by one reader, are taken before they are compressed, outside the clock; the peak of memory
is that before they are taken.
"""

import json
import resource
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.quantization import GPTQModifier
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM


def main(job: dict[str, Any]) -> None:
    """Quantize ``job["model"]`` on the windows in ``job["windows"]``; leave result.json and weights.safetensors."""
    out = Path(job["out"])
    torch.set_num_threads(job["threads"])
    ids = load_file(job["windows"])["calibration"]
    settings = dict(job["settings"])
    weights = QuantizationArgs(
        num_bits=job["bits"],
        type="int",
        symmetric=job["symmetric"],
        strategy="group",
        group_size=job["group_size"],
        observer=settings["observer"],
    )
    started = time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.bfloat16)
    recipe = GPTQModifier(
        config_groups={"all": QuantizationScheme(targets=["Linear"], weights=weights)},
        ignore=["lm_head"],
        dampening_frac=settings["damping"],
        actorder=settings["actorder"],
    )
    rows = ids.tolist()
    data = Dataset.from_dict({"input_ids": rows, "attention_mask": [[1] * len(row) for row in rows]})
    oneshot(
        model=model,
        dataset=data,
        recipe=recipe,
        max_seq_length=ids.shape[1],
        num_calibration_samples=len(ids),
        batch_size=settings["batch"],
        shuffle_calibration_samples=False,
    )
    quantized, peak = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    found = {f"{n}.weight": _exact(module) for n, module in model.named_modules() if hasattr(module, "weight_scale")}
    save_file(found, out / "weights.safetensors")
    copied = time.perf_counter()
    model.save_pretrained(out / "model", save_compressed=True)
    seconds = time.perf_counter() - started - (copied - quantized)
    result = {"seconds": seconds, "peak_memory_bytes": peak, "version": version("llmcompressor")}
    (out / "result.json").write_text(json.dumps(result))


def _exact(module: torch.nn.Module) -> torch.Tensor:
    """The weight its integers and scales stand for, without the rounding to bf16 that the module keeps: fp32 [O, I]."""
    weight, scale = module.weight.detach().float(), module.weight_scale.detach().float()  # type: ignore[operator,union-attr]
    groups = getattr(module, "weight_g_idx", None)
    columns = weight.shape[1]
    if groups is None or bool((groups < 0).any()):
        groups = torch.arange(columns) // (columns // scale.shape[1])
    step = scale[:, groups.long()]
    levels = torch.round(weight / step)  # the weight is a whole number of steps already, up to that rounding
    return (levels * step).contiguous()


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
