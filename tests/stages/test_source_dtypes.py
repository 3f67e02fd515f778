"""A source may be stored in any float: what comes out is bf16, and reopens as the function the stage had."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from attar.checkpoint import WEIGHTS, read_facts
from attar.testing import run_on
from attar.tiny import tiny_model
from stages.base import Stage
from stages.finetune_full import Full
from stages.prune_width import Width
from stages.quantize_gptq import Gptq
from stages.quantize_rtn import RoundToNearest

STAGES: dict[str, Stage] = {
    "prune": Width(ffn=0.3, windows=2, length=32),
    "rtn": RoundToNearest(),
    "gptq": Gptq(windows=2, length=32),
    "full": Full(alpha=0.0, train_tokens=64, batch=1, length=32, learning_rate=1e-3),
}


@pytest.mark.parametrize("name", STAGES)
@pytest.mark.parametrize("stored", [torch.float32, torch.float16])
@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
def test_any_float_goes_in_and_bf16_comes_out(tmp_path: Path, name: str, stored: torch.dtype, compute: str) -> None:
    folder = tiny_model(tmp_path / "model", "qwen2")
    generator = torch.Generator().manual_seed(0)
    tensors = load_file(folder / WEIGHTS)
    # More digits than bf16 holds.
    noisy = {
        n: (t.float() * (1 + 1e-3 * torch.randn(t.shape, generator=generator))).to(stored) for n, t in tensors.items()
    }
    save_file(noisy, folder / WEIGHTS)
    assert read_facts(folder).dtype == str(stored).removeprefix("torch.")
    artifact = run_on(STAGES[name], folder, tmp_path / "home", dtype=compute)
    assert read_facts(artifact.folder).dtype == "bfloat16"
