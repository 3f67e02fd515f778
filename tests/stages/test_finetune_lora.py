"""finetune.lora: what is frozen stays to the bit, the adapter is part of the model for whoever opens it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from attar import lora
from attar.adapter import CONFIG, WEIGHTS
from attar.checkpoint import read_facts
from attar.errors import BadInput
from attar.facts import ModelFacts
from attar.model import Model
from attar.packed import PackedLinear
from attar.sources import folder_fingerprint
from attar.store import Artifact
from attar.testing import check_stage, run_on
from attar.tiny import tiny_model
from attar.writer import Writer
from stages import parse
from stages.base import Stage
from stages.finetune_lora import Lora
from stages.finetune_scales import Scales
from stages.quantize_rtn import RoundToNearest

SHORT: dict[str, Any] = {"train_tokens": 512, "batch": 4, "length": 32, "alpha": 0.5, "learning_rate": 5e-3}
Apply = Callable[..., Writer]
PATTERNS = ["q_proj", "layers.1.mlp.*"]


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model of a family with biases."""
    return tiny_model(tmp_path_factory.mktemp("dense") / "model", "qwen2")


@pytest.fixture
def quantized(dense: Path, apply_here: Apply) -> Path:
    return apply_here(RoundToNearest(group_size=16), dense).folder


@pytest.fixture(scope="module")
def adapted(dense: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A packed model with an adapter on some of its linears, through the whole contract."""
    folder = tmp_path_factory.mktemp("adapted")
    packed = run_on(RoundToNearest(group_size=16), dense, folder)
    return check_stage(Lora(**SHORT, target_modules=PATTERNS, use_rslora=True, lora_dropout=0.1), packed.folder)


def test_integers_stay_and_the_adapter_lies_beside_them(adapted: Artifact, quantized: Path) -> None:
    made, before = Model(adapted.folder), Model(quantized)
    assert all(torch.equal(made.tensor(name), before.tensor(name)) for name in before.names)
    new = [name for name in made.names if name not in before.names]
    assert len(new) == 2 * (4 + 3) and all(made.tensor(name).dtype == torch.bfloat16 for name in new)
    assert all(made.tensor(name).any() for name in new)
    with safe_open(adapted.folder / WEIGHTS, framework="pt") as file:
        assert sorted(file.keys()) == sorted(new)
    assert json.loads((adapted.folder / CONFIG).read_text())["use_rslora"] is True


def test_the_adapter_counts_as_bytes_and_as_identity(adapted: Artifact, tmp_path: Path) -> None:
    files = [path for path in adapted.folder.rglob("*") if path.is_file() and path.name != "manifest.json"]
    assert read_facts(adapted.folder).bytes == sum(path.stat().st_size for path in files)
    assert {CONFIG, WEIGHTS} <= set(adapted.manifest["files"])
    assert folder_fingerprint(adapted.folder, tmp_path) != folder_fingerprint(
        Path(adapted.manifest["source"]["folder"]), tmp_path
    )


def test_who_opens_it_gets_integers_and_adapter(adapted: Artifact, quantized: Path) -> None:
    ids = torch.arange(0, 64)[None]
    made = Model(adapted.folder).materialize(torch.float32)
    with torch.no_grad():
        with_adapter, without = made(ids).logits, Model(quantized).materialize(torch.float32)(ids).logits
        assert not torch.allclose(with_adapter, without, atol=1e-2)
        for name in lora.adapters(made):
            linear = made.get_submodule(name)
            assert isinstance(linear, PackedLinear)
            lora.detach(linear)
        assert torch.equal(made(ids).logits, without)


def test_a_later_stage_keeps_the_adapter_and_learns_around_it(adapted: Artifact, apply_here: Apply) -> None:
    before = Model(adapted.folder)
    stage = Scales(**{**SHORT, "alpha": 0.0}, scale_learning_rate=1e-3)
    after = Model(apply_here(stage, adapted.folder).folder)
    assert after.facts.adapter == before.facts.adapter and after.facts.adapter is not None
    for name in after.facts.adapter.tensors(after.facts.config):
        assert torch.equal(after.tensor(name), before.tensor(name))
    scales = "model.layers.0.self_attn.q_proj.scales"
    assert not torch.equal(after.tensor(scales), before.tensor(scales))


def test_a_dense_model_takes_the_adapter_up(dense: Path, tmp_path: Path) -> None:
    artifact = run_on(Lora(**SHORT, target_modules=["v_proj"]), dense, tmp_path / "home")
    made, before = Model(artifact.folder), Model(dense)
    assert made.facts.tensors() == before.facts.tensors() and not (artifact.folder / "adapter").exists()
    moved = [name for name in before.names if not torch.equal(made.tensor(name), before.tensor(name))]
    assert moved == [name for name in before.names if name.endswith("v_proj.weight")] and len(moved) == 4
    metrics = [json.loads(line) for line in (tmp_path / "home" / "events.jsonl").read_text().splitlines()]
    named = {event["name"]: event["value"] for event in metrics if event["kind"] == "metric"}
    assert named["lora/merge_difference"] < 1e-5 and 0 < named["lora/rounded_away"] < 0.5


@pytest.mark.parametrize("packed", [True, False])
def test_what_a_cache_of_top_tokens_misses_is_told_of_bf16_models_too(
    dense: Path, quantized: Path, tmp_path: Path, packed: bool
) -> None:
    """After the training, when the adapter is fp32 and what is frozen is not."""
    stage, home = Lora(**SHORT, cache="topk", top_k=256), tmp_path / "home"
    run_on(stage, quantized if packed else dense, home, dtype="bfloat16")
    told = [json.loads(line) for line in (home / "events.jsonl").read_text().splitlines()]
    assert [event["step"] for event in told if event.get("name") == "topk_bias"] == [0, stage.steps]


def facts(dense: Path, packed: bool = False) -> ModelFacts:
    found = read_facts(dense)
    return RoundToNearest(group_size=16).plan(found) if packed else found


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"r": 40}, r"r=40 is more than the rank of model.layers.0.self_attn.k_proj, which has 32"),
        ({"train_tokens": 128}, r"makes one step, in which only B learns.*more than 128 tokens"),
        ({"target_modules": ["up_prj"]}, r"'up_prj' matches no linear; did you mean 'up_proj'"),
        ({"target_modules": []}, r"target_modules=\[\]"),
    ],
    ids=str,
)
def test_what_cannot_be_asked_is_a_sentence(dense: Path, settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        parse({"stage": "finetune.lora", **SHORT, **settings}).plan(facts(dense))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"stage": "finetune.lora"}, "has an adapter of rank 8 already.*finetune.scales"),
        ({"stage": "distill.qad"}, "adapter beside its integers.*before finetune.lora"),
        ({"stage": "finetune.full"}, "packed integers"),
        ({"stage": "prune.width"}, "quantized already"),
        ({"stage": "quantize.gptq"}, "already quantized"),
    ],
    ids=lambda value: value["stage"] if isinstance(value, dict) else "",
)
def test_an_adapter_is_seen_by_every_plan_after_it(dense: Path, settings: dict[str, Any], sentence: str) -> None:
    stage: Stage = parse(settings)
    with pytest.raises(BadInput, match=sentence):
        stage.plan(Lora().plan(facts(dense, packed=True)))


def test_an_adapter_costs_bytes_beside_integers_and_none_in_weights(dense: Path) -> None:
    for packed in (False, True):
        before = facts(dense, packed)
        wide, narrow = (Lora(r=r).plan(before).bytes - before.bytes for r in (16, 8))
        assert (wide, narrow) == (0, 0) if not packed else wide == 2 * narrow > 0


def test_frozen_weights_cost_less_than_learning_ones(dense: Path) -> None:
    before = facts(dense)
    full = parse({"stage": "finetune.full"}).cost(before, before)
    found = Lora(r=1).cost(before, before)
    assert found.flops < full.flops and found.state < full.state / 10
