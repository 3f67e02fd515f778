"""A process that knows nothing of Attar opens our files through plain transformers and GPTQModel."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from attar.model import Model
from attar.packed import PackedLinear
from attar.testing import run_on
from attar.tiny import tiny_model
from stages.base import Stage
from stages.quantize_gptq import Gptq
from stages.quantize_rtn import RoundToNearest

READER = """
import sys
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, GPTQConfig

assert not any(name.split(".")[0] in ("attar", "stages") for name in sys.modules)
folder, result = sys.argv[1:]
ids = torch.arange(0, 512).view(4, 128)
found = {}
with torch.no_grad():
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)  # the reader's own choice of kernel
    found["default"] = model(ids).logits.float()
    exact = GPTQConfig(bits=4, backend="torch")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, quantization_config=exact)
    found["torch"] = model(ids).logits
    for name, module in model.named_modules():
        if hasattr(module, "dequantize_weight"):
            module.scales = module.scales.float()  # otherwise the product is rounded to fp16
            found[name] = module.dequantize_weight().t().contiguous()
save_file(found, result)
"""


@pytest.mark.parametrize(
    ("stage", "family"),
    [
        (Gptq(group_size=32, windows=4, length=64), "llama"),
        (RoundToNearest(group_size=64, symmetric=True), "qwen2"),
    ],
    ids=["gptq-asymmetric-llama", "rtn-symmetric-qwen2-with-biases"],
)
def test_the_reader_finds_our_weights_and_our_function(tmp_path: Path, stage: Stage, family: str) -> None:
    artifact = run_on(stage, tiny_model(tmp_path / "model", family), tmp_path / "home")
    file = tmp_path / "read.safetensors"
    environment = {**os.environ, "GPTQMODEL_CPU_WORKERS": "2", "HF_HUB_OFFLINE": "1", "TORCHDYNAMO_DISABLE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", READER, str(artifact.folder), str(file)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = load_file(file)

    ours = Model(artifact.folder).materialize(torch.float32)
    packed = {name: module for name, module in ours.named_modules() if isinstance(module, PackedLinear)}
    assert set(packed) == set(found) - {"default", "torch"} and len(packed) == 4 * 7
    for name, module in packed.items():
        assert torch.equal(found[name], module.dequantize(torch.float32)), name

    with torch.no_grad():
        expected = ours(input_ids=torch.arange(0, 512).view(4, 128)).logits.log_softmax(-1)
    for kernel in ("default", "torch"):
        read = found[kernel].log_softmax(-1)
        divergence = (expected.exp() * (expected - read)).sum(-1).mean()
        assert float(divergence) < 0.002, kernel
