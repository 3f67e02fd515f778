"""A process that knows nothing of Attar opens our files: plain transformers with GPTQModel, and GPTQModel itself."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from attar.data import DataSettings, open_corpus
from attar.events import Events
from attar.model import Model
from attar.packed import PackedLinear
from attar.store import Store
from attar.testing import write_text
from attar.tiny import tiny_model
from attar.writer import Writer
from stages.base import Context
from stages.quantize_gptq import Gptq
from stages.quantize_rtn import RoundToNearest

READER = """
import sys
from pathlib import Path
import torch
from gptqmodel import BACKEND, GPTQModel
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, GPTQConfig

assert not any(name.split(".")[0] in ("attar", "stages") for name in sys.modules)
ids = torch.arange(0, 512).view(4, 128)
for folder in map(Path, sys.argv[1:]):
    found = {}
    with torch.no_grad():
        if "mixed" in folder.name:
            exact = {"backend": BACKEND.GPTQ_TORCH, "dtype": torch.float16}  # the dtype in which it keeps the scales
            model = GPTQModel.load(str(folder), device="cpu", **exact).model
        else:
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)  # its own choice of kernel
            found["default"] = model(ids).logits.float()
            exact = GPTQConfig(bits=4, backend="torch")
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, quantization_config=exact)
            found["exact"] = model(ids).logits
        for name, module in model.named_modules():
            if hasattr(module, "dequantize_weight"):
                module.scales = module.scales.float()  # otherwise the product is rounded to fp16
                found[name] = module.dequantize_weight().t().contiguous()
    save_file(found, folder / "read.safetensors")
"""

SMALL = {"group_size": 32, "windows": 4, "length": 64}
CASES: dict[str, tuple[Gptq | RoundToNearest, str]] = {
    "gptq-asymmetric": (Gptq(**SMALL), "llama"),
    "with-biases": (RoundToNearest(group_size=64, symmetric=True), "qwen2"),
    "2-bits": (RoundToNearest(bits=2, group_size=16), "llama"),
    "2-bits-symmetric": (RoundToNearest(bits=2, group_size=32, symmetric=True), "llama"),
    "3-bits": (Gptq(bits=3, **SMALL), "llama"),
    "3-bits-symmetric": (RoundToNearest(bits=3, group_size=-1, symmetric=True), "llama"),
    "8-bits": (RoundToNearest(bits=8, group_size=64), "llama"),
    "8-bits-symmetric": (RoundToNearest(bits=8, group_size=-1, symmetric=True), "llama"),
    "mixed": (Gptq(bits_of={"layers.0.*": 8, "*.down_proj": 3, "*.self_attn.*": 2}, **SMALL), "llama"),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every case, quantized by us and read by one foreign process, which leaves what it found in each folder."""
    home = tmp_path_factory.mktemp("reader")
    text = write_text(home / "text.txt")
    origins = {family: Model(tiny_model(home / family, family, num_hidden_layers=2)) for family in ("llama", "qwen2")}
    made: dict[str, Path] = {}
    for name, (stage, family) in CASES.items():
        made[name] = home / name
        made[name].mkdir()
        source = origins[family]
        writer = Writer(made[name], stage.plan(source.facts), tokenizer_from=source.folder)
        context = Context(
            origin=source,
            teacher=None,
            data=open_corpus(DataSettings(source=str(text)), home / "data"),
            device="cpu",
            dtype="float32",
            seed=0,
            state=home,
            store=Store(home / "store"),
            events=Events(home / "events.jsonl"),
            cancelled=lambda: False,
        )
        stage.apply(source, writer, context)
        writer.close()
    environment = {**os.environ, "GPTQMODEL_CPU_WORKERS": "2", "HF_HUB_OFFLINE": "1", "TORCHDYNAMO_DISABLE": "1"}
    command = [sys.executable, "-c", READER, *map(str, made.values())]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=home)
    assert done.returncode == 0, done.stderr[-2000:]
    return made


def read(folders: dict[str, Path], case: str) -> tuple[Any, dict[str, torch.Tensor]]:
    """The model as Attar opens it, and what the foreign process found."""
    return Model(folders[case]).materialize(torch.float32), load_file(folders[case] / "read.safetensors")


@pytest.mark.parametrize("case", CASES)
def test_the_reader_finds_our_weights_bit_for_bit(folders: dict[str, Path], case: str) -> None:
    ours, found = read(folders, case)
    packed = {name: module for name, module in ours.named_modules() if isinstance(module, PackedLinear)}
    assert set(packed) == set(found) - {"default", "exact"} and len(packed) == 2 * 7
    for name, module in packed.items():
        assert torch.equal(found[name], module.dequantize(torch.float32)), name


@pytest.mark.parametrize("case", [case for case in CASES if case != "mixed"])
def test_the_reader_computes_our_function(folders: dict[str, Path], case: str) -> None:
    ours, found = read(folders, case)
    with torch.no_grad():
        expected = ours(input_ids=torch.arange(0, 512).view(4, 128)).logits.log_softmax(-1)
    for kernel in ("default", "exact"):
        seen = found[kernel].log_softmax(-1)
        divergence = (expected.exp() * (expected - seen)).sum(-1).mean()
        assert float(divergence) < 0.002, kernel
