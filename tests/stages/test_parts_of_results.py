"""Bytes by part and FLOPs of what the stages write: plain, narrower, packed, and packed with an adapter."""

from collections.abc import Callable
from math import prod
from pathlib import Path

import pytest

from attar.checkpoint import read_facts, stored_tensors
from attar.facts import BYTES, ModelFacts
from attar.flops import flops_per_token
from attar.parts import bits_per_weight, bits_quantized, bytes_by_part
from attar.tiny import tiny_model
from attar.writer import Writer
from stages.base import Stage
from stages.finetune_lora import Lora
from stages.prune_width import Width
from stages.quantize_gptq import Gptq
from stages.quantize_rtn import RoundToNearest

NARROW = Width(ffn=0.25, multiple_of=16, windows=4, length=32)
RTN = RoundToNearest(group_size=16)
CHAINS: dict[str, tuple[Stage, ...]] = {
    "pruned": (NARROW,),
    "rtn": (RTN,),
    "rtn of widths": (RoundToNearest(group_size=-1, bits=4, bits_of={"layers.0.*": 8, "*.down_proj": 3}),),
    "gptq": (NARROW, Gptq(group_size=16, windows=4, length=32)),
    "adapter": (RTN, Lora(train_tokens=128, batch=2, length=32)),
}


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with biases."""
    return tiny_model(tmp_path_factory.mktemp("dense") / "model", "qwen2")


@pytest.fixture(params=CHAINS)
def made(request: pytest.FixtureRequest, dense: Path, apply_here: Callable[..., Writer]) -> tuple[str, Path]:
    folder = dense
    for stage in CHAINS[request.param]:
        folder = apply_here(stage, folder, teacher=dense).folder
    return request.param, folder


def test_parts_are_all_that_lies_in_the_files(made: tuple[str, Path], dense: Path) -> None:
    name, folder = made
    facts, origin = read_facts(folder), read_facts(dense)
    parts, stored = bytes_by_part(facts), {n: BYTES[d] * prod(s) for n, (d, s) in stored_tensors(folder).items()}
    assert sum(parts.values()) - parts["files"] == sum(stored.values())
    assert sum(parts.values()) == facts.bytes and parts["other"] == 0
    assert bits_per_weight(facts) == 8 * sum(stored.values()) / facts.parameters
    assert parts["adapter"] == sum(size for tensor, size in stored.items() if "lora_" in tensor)
    assert (parts["adapter"] > 0) == (name == "adapter")
    metadata = ("qzeros", "scales", "g_idx")
    assert parts["quantization"] == sum(size for tensor, size in stored.items() if tensor.endswith(metadata))
    packed = sum(size for tensor, size in stored.items() if tensor.endswith((*metadata, "qweight")))
    weights = sum(map(prod, facts.packed_modules.values()))
    assert bits_quantized(facts) == (8 * packed / weights if weights else None)
    if name in ("pruned", "gptq"):
        assert _operations(facts) < _operations(origin)
    elif name != "adapter":  # packed weights multiply as often
        assert _operations(facts) == _operations(origin)
    else:
        adapted = sum(prod(shape) for tensor, (_, shape) in stored_tensors(folder).items() if "lora_" in tensor)
        assert _operations(facts) == _operations(origin) + 2 * adapted


def _operations(facts: ModelFacts) -> int:
    return flops_per_token(facts, 128)
