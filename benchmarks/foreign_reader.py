"""Does a program without Attar read a quantized folder as Attar does?  ``python benchmarks/foreign_reader.py FOLDER``

A fresh process opens FOLDER with plain transformers and GPTQModel, once with the exact kernel in fp32 and once as a
user would by default (bf16, GPTQModel's own choice of kernel). Printed are the number of weight matrices that differ
in any bit from Attar's, and KL and top-1 agreement of the next-token distributions on Python's language reference.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from attar.data import DataSettings, open_corpus
from attar.model import Model
from attar.packed import PackedLinear

READER = """
import sys
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPTQConfig

folder, exchange = sys.argv[1:]
ids = load_file(exchange)["ids"]
found = {}
with torch.no_grad():
    exact = GPTQConfig(bits=4, backend="torch")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, quantization_config=exact)
    found["exact"] = torch.cat([model(row[None]).logits for row in ids])
    for name, module in model.named_modules():
        if hasattr(module, "dequantize_weight"):
            module.scales = module.scales.float()  # otherwise the product is rounded to fp16
            found[name] = module.dequantize_weight().t().contiguous()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    found["default"] = torch.cat([model(row[None]).logits.float() for row in ids])
assert not any(name.split(".")[0] in ("attar", "stages") for name in sys.modules)
save_file(found, exchange)
"""


def distance(p_logits: torch.Tensor, q_logits: torch.Tensor) -> str:
    """KL(p ‖ q) in nats per token and how often both agree on the likeliest token."""
    p, q = p_logits.double().log_softmax(-1), q_logits.double().log_softmax(-1)
    kl = float((p.exp() * (p - q)).sum(-1).mean())
    return f"KL {kl:.2e} nats, agreement {float((p.argmax(-1) == q.argmax(-1)).double().mean()):.2%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--windows", type=int, default=4, help="windows of 256 tokens to compare on")
    arguments = parser.parse_args()
    ours = Model(arguments.folder)
    with tempfile.TemporaryDirectory() as scratch:
        exchange = Path(scratch) / "exchange.safetensors"
        corpus = open_corpus(DataSettings(), Path(scratch))
        ids = torch.from_numpy(corpus.windows("other", ours.tokenizer_file, arguments.windows, 256, seed=0))
        save_file({"ids": ids}, exchange)
        environment = {**os.environ, "GPTQMODEL_CPU_WORKERS": "2", "TORCHDYNAMO_DISABLE": "1", "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, "-P", "-W", "ignore", "-c", READER, str(arguments.folder), str(exchange)]
        subprocess.run(command, env=environment, check=True, capture_output=True)
        found = load_file(exchange)
    for dtype in (torch.float32, torch.bfloat16):
        model = ours.materialize(dtype)
        if dtype == torch.float32:
            packed = {n: m for n, m in model.named_modules() if isinstance(m, PackedLinear)}
            differ = sum(not torch.equal(found[name], module.dequantize()) for name, module in packed.items())
            print(f"{len(packed)} weight matrices, {differ} differ")  # noqa: T201
        with torch.no_grad():
            logits = torch.cat([model(input_ids=row[None]).logits.float() for row in ids])
        for kernel in ("exact", "default"):
            print(f"GPTQModel {kernel:<8} against Attar {str(dtype)[6:]:<9}: {distance(logits, found[kernel])}")  # noqa: T201


if __name__ == "__main__":
    main()
