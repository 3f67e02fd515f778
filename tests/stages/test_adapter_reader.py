"""A process that knows nothing of Attar puts our adapter on with peft: on a dense base, and on GPTQModel's layers."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from attar import lora
from attar.adapter import FOLDER
from attar.model import Model
from attar.tiny import tiny_model
from attar.writer import Writer
from stages.finetune_lora import Lora
from stages.quantize_rtn import RoundToNearest

READER = """
import sys
import torch
from peft import PeftModel
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, GPTQConfig

assert not any(name.split(".")[0] in ("attar", "stages") for name in sys.modules)
dense, packed, adapter, result = sys.argv[1:]
ids = torch.arange(0, 512).view(4, 128)
exact = {"dense": None, "packed": GPTQConfig(bits=4, backend="torch")}
found = {}
with torch.no_grad():
    for name, folder in (("dense", dense), ("packed", packed)):
        more = {"quantization_config": exact[name]} if exact[name] else {}
        base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **more)
        found[name] = PeftModel.from_pretrained(base, adapter)(input_ids=ids).logits
save_file(found, result)
"""


def test_peft_finds_our_adapter_and_our_function(apply_here: Callable[..., Writer], tmp_path: Path) -> None:
    dense = tiny_model(tmp_path / "dense", "qwen2")
    packed = Model(apply_here(RoundToNearest(group_size=32), dense).folder)
    settings: dict[str, Any] = {"train_tokens": 1024, "batch": 4, "length": 32, "learning_rate": 5e-3, "alpha": 0.0}
    stage = Lora(**settings, r=4, use_rslora=True, target_modules=["?_proj", "layers.0.*"])
    made = Model(apply_here(stage, packed.folder).folder)
    file = tmp_path / "read.safetensors"
    environment = {**os.environ, "GPTQMODEL_CPU_WORKERS": "2", "HF_HUB_OFFLINE": "1", "TORCHDYNAMO_DISABLE": "1"}
    folders = [dense, made.folder, made.folder / FOLDER, file]
    done = subprocess.run(
        [sys.executable, "-c", READER, *map(str, folders)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = load_file(file)

    ids = torch.arange(0, 512).view(4, 128)
    adapter = made.facts.adapter
    assert adapter is not None
    with_adapter = Model(dense).materialize(torch.float32)
    lora.attach(with_adapter, adapter, made.tensor, torch.float32, "cpu")
    with torch.no_grad():
        torch.testing.assert_close(found["dense"], with_adapter(ids).logits, rtol=1e-4, atol=1e-4)
        ours, without = made.materialize(torch.float32)(ids).logits, packed.materialize(torch.float32)(ids).logits
    assert divergence(ours, found["packed"]) < 0.002 < 0.05 < divergence(without, found["packed"])


def divergence(one: torch.Tensor, other: torch.Tensor) -> float:
    p, q = one.log_softmax(-1), other.log_softmax(-1)
    return float((p.exp() * (p - q)).sum(-1).mean())
