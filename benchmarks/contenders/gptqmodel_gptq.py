"""GPTQModel's own GPTQ, run in its own environment: ``python gptqmodel_gptq.py JOB.json``.

Timed is what a user waits for: opening the model, quantizing, writing the folder. Its packer in C++, which the first
run on a machine compiles for minutes, is there before the clock starts. Afterwards, untimed, the folder is opened again
and its weights are written out in fp32, so that every contender's result is judged by one reader.
"""

import json
import os
import resource
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")  # fewer processors than its pools ask for stop it
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")

import torch
from gptqmodel import BACKEND, GPTQModel, QuantizeConfig
from gptqmodel.utils.cpp import load_pack_block_extension
from safetensors.torch import load_file, save_file


def main(job: dict[str, Any]) -> None:
    """Quantize ``job["model"]`` on the windows in ``job["windows"]``; leave result.json and weights.safetensors."""
    out = Path(job["out"])
    torch.set_num_threads(job["threads"])
    ids = load_file(job["windows"])["calibration"]
    settings = dict(job["settings"])
    batch = settings.pop("batch")
    if load_pack_block_extension() is None:
        print("no compiler, or none that works: GPTQModel packs in Python, which is slower")  # noqa: T201
    started = time.perf_counter()
    config = QuantizeConfig(
        bits=job["bits"], group_size=job["group_size"], sym=job["symmetric"], offload_to_disk=False, **settings
    )
    model = GPTQModel.load(job["model"], config, device="cpu", dtype=torch.bfloat16)
    calibration = [{"input_ids": row.tolist(), "attention_mask": [1] * len(row)} for row in ids]
    model.quantize(calibration, batch_size=batch)
    model.save(str(out / "model"))
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    found = {"seconds": seconds, "peak_memory_bytes": peak, "version": version("gptqmodel")}
    (out / "result.json").write_text(json.dumps(found))

    # fp16 is what the scales are stored in, and would be rounded from in any other dtype
    read = GPTQModel.load(str(out / "model"), backend=BACKEND.GPTQ_TORCH, device="cpu", dtype=torch.float16).model
    weights = {}
    for name, module in read.named_modules():
        if hasattr(module, "dequantize_weight"):
            module.scales = module.scales.float()  # otherwise the product is rounded to fp16
            weights[f"{name}.weight"] = module.dequantize_weight().t().contiguous()
    save_file(weights, out / "weights.safetensors")


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
