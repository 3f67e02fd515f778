"""Laws of cutting hidden channels, which touches every tensor of a model."""

from collections.abc import Callable
from math import sqrt
from pathlib import Path
from typing import Any

import pytest
import torch

from attar import architecture
from attar.checkpoint import read_facts
from attar.errors import BadInput
from attar.model import Model
from attar.narrowing import Residual
from attar.testing import check_stage
from attar.tiny import tiny_model
from attar.writer import Writer
from stages.base import Stage
from stages.prune_width import Width

Apply = Callable[[Stage, Path], Writer]
SMALL: dict[str, Any] = {"ffn": 0.0, "windows": 2, "length": 32, "multiple_of": 16}


def test_all_cuts_at_once_keep_the_contract() -> None:
    stage = Width(hidden=0.25, **{**SMALL, "ffn": 0.3}, attention=0.5, importance="taylor")
    artifact = check_stage(stage)
    facts = read_facts(artifact.folder)
    assert (facts.hidden, facts.ffn, facts.heads, facts.kv_heads, facts.head_dim) == (48, 128, 2, 1, 16)
    assert facts.config["tie_word_embeddings"]
    assert "lm_head.weight" not in facts.tensors()


@pytest.mark.parametrize("model_type", ["llama", "mistral", "phi3", "qwen2", "qwen3"])
def test_sliced_equals_masked(tmp_path: Path, apply_here: Apply, model_type: str) -> None:
    """Without compensation the result is the original that writes nothing to the lost channels.

    A norm over 48 of 64 channels divides by another mean; the masked model's weights and epsilon account for that.
    """
    folder = tiny_model(tmp_path / "model", model_type, attention_bias=model_type != "phi3", mlp_bias=True)
    stage = Width(hidden=0.25, compensate=False, importance="activation", **SMALL)
    out = apply_here(stage, folder)
    kept = torch.zeros(64, dtype=torch.bool)
    kept[out.notes["kept_hidden"]] = True
    assert kept.sum() == 48
    masked: Any = Model(folder).materialize(torch.float32)
    config = read_facts(folder).config
    norms = architecture.norms(config)
    for name, dims in architecture.axes(config).items():
        if dims[0] == ("hidden",) or name == architecture.family(config).embedding:
            tensor = masked.get_parameter(architecture.parameter(config, name)).data
            if name in norms:
                tensor *= sqrt(48 / 64)
            elif dims[0] == ("hidden",):
                tensor[~kept] = 0
            else:
                tensor[:, ~kept] = 0
    for module in masked.modules():
        if hasattr(module, "variance_epsilon") and module.weight.shape == (64,):
            module.variance_epsilon *= 48 / 64
    pruned = Model(out.folder).materialize(torch.float32)
    ids = torch.arange(60)[None]
    torch.testing.assert_close(pruned(input_ids=ids).logits, masked(input_ids=ids).logits, atol=1e-5, rtol=1e-5)


def test_heads_that_divide_only_the_result_are_no_obstacle(tmp_path: Path, apply_here: Apply) -> None:
    """A Llama's width is a multiple of its heads; 60 is none of the 8 before, and one of the 6 that are left."""
    folder = tiny_model(tmp_path / "model", num_attention_heads=8, num_key_value_heads=4, head_dim=8)
    stage = Width(hidden=0.06, attention=0.25, importance="magnitude", **{**SMALL, "multiple_of": 2})
    facts = read_facts(apply_here(stage, folder).folder)
    assert (facts.hidden, facts.heads, facts.head_dim) == (60, 6, 8)


def test_gains_restore_the_root_mean_square() -> None:
    """Behind a norm over what stays, times its gain, a channel has the size that it had behind the whole norm."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(256, 32, generator=generator) * torch.linspace(0.1, 4, 32)
    kept = torch.arange(12, 32)
    seen = Residual(length=64)
    seen("norm", x)
    gain = seen.gains(kept)["norm.weight"]
    whole = x[:, kept] / x.square().mean(1, keepdim=True).sqrt()
    narrow = x[:, kept] / x[:, kept].square().mean(1, keepdim=True).sqrt()
    assert 1 < gain <= sqrt(32 / 20)
    assert float((narrow * gain).square().mean()) == pytest.approx(float(whole.square().mean()), rel=1e-4)
    assert (narrow * gain - whole).square().sum() < 0.1 * (narrow - whole).square().sum()


@pytest.mark.parametrize(
    ("model_type", "settings", "words"),
    [
        ("llama", {"hidden": 0.9}, r"hidden=0\.9 leaves none of 64 hidden channels in steps of 16"),
        ("llama", {"hidden": 0.05}, r"hidden=0\.05 removes nothing of 64 hidden channels in steps of 16"),
        ("llama", {"hidden": 0.1, "multiple_of": 6}, r"in steps of 12 \(whole heads, and multiple_of=6: lower it\)"),
        ("gemma2", {"hidden": 0.5}, "root of its hidden width"),
        ("gpt2", {"hidden": 0.5}, "no head_dim"),
    ],
    ids=str,
)
def test_plan_refuses_in_a_sentence(tmp_path: Path, model_type: str, settings: dict[str, Any], words: str) -> None:
    facts = read_facts(tiny_model(tmp_path, model_type))
    if "multiple_of" in settings:
        facts = facts.changed(hidden_size=12)
    with pytest.raises(BadInput, match=words):
        Width(**{**SMALL, **settings}).plan(facts)
