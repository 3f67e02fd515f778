"""Laws of the two quantizers on a tiny random Llama; what holds for every family is in test_families."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer

from attar.architecture import linears
from attar.checkpoint import read_facts
from attar.errors import BadInput
from attar.facts import ModelFacts
from attar.grid import find_grid, round_to, values
from attar.model import Model
from attar.packed import PackedLinear
from attar.testing import check_stage, run_on
from attar.tiny import tiny_model
from attar.writer import Writer
from stages import parse
from stages.base import Stage
from stages.quantize_gptq import Gptq
from stages.quantize_rtn import RoundToNearest

GPTQ = Gptq(group_size=32, windows=8, length=64)
RTN = RoundToNearest(group_size=32)


@pytest.mark.parametrize("stage", [GPTQ, RTN], ids=["gptq", "rtn"])
def test_keeps_the_contract(stage: Stage) -> None:
    check_stage(stage)


def test_a_mixture_of_widths_is_planned_made_and_goes_through_a_module_unchanged(tmp_path: Path) -> None:
    stage = RoundToNearest(group_size=-1, bits=4, bits_of={"layers.0.*": 8, "*.down_proj": 3, "*.o_proj": 2})
    artifact = run_on(stage, tiny_model(tmp_path / "model"), tmp_path / "home")
    source = Model(artifact.folder)
    module = source.materialize(torch.float32)
    found = {name: linear.bits for name, linear in module.named_modules() if isinstance(linear, PackedLinear)}
    assert found == {
        f"model.layers.{i}.{name}": 8 if i == 0 else {"mlp.down_proj": 3, "self_attn.o_proj": 2}.get(name, 4)
        for i in range(4)
        for name in linears(source.facts.config)
    }
    (tmp_path / "again").mkdir()
    writer = Writer(tmp_path / "again", source.facts, tokenizer_from=source.folder)
    writer.module(module)
    writer.close()
    again = Model(tmp_path / "again")
    assert all(torch.equal(again.tensor(name), source.tensor(name)) for name in source.names)


def test_gptq_rounds_every_linear_to_the_bits_of_its_pattern(tmp_path: Path) -> None:
    widths = (8, 3, 2, 4)
    bits_of: dict[str, Any] = {f"layers.{i}.*": bits for i, bits in enumerate(widths) if bits != 4}
    stage = Gptq(group_size=32, windows=8, length=64, bits_of=bits_of)
    made = Model(run_on(stage, tiny_model(tmp_path / "model"), tmp_path / "home").folder).materialize(torch.float32)
    for index, bits in enumerate(widths):
        for name in ("self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj"):
            linear = made.get_submodule(f"model.layers.{index}.{name}")
            assert isinstance(linear, PackedLinear)
            assert 2**bits // 2 < int(linear.codes.max()) < 2**bits, (index, name)


@pytest.mark.parametrize(
    "changes",
    [
        {"damping": 0.5},
        {"act_order": False},
        {"mse": False},
        {"symmetric": True},
        {"bits": 3},
        {"group_size": 16},
        {"windows": 2},
        {"length": 32},
    ],
    ids=str,
)
def test_every_setting_of_gptq_reaches_the_integers(
    tmp_path: Path, apply_here: Callable[..., Writer], changes: dict[str, Any]
) -> None:
    folder = tiny_model(tmp_path / "model", num_hidden_layers=1)
    made = [apply_here(stage, folder) for stage in (GPTQ, Gptq(**GPTQ.model_dump(exclude_unset=True) | changes))]
    one, other = (Model(out.folder).tensor("model.layers.0.mlp.down_proj.qweight") for out in made)
    assert one.shape != other.shape or not torch.equal(one, other)


def test_the_order_of_patterns_is_part_of_the_name() -> None:
    """The first one that matches decides, so in another order they make another model."""
    patterns: dict[str, Any] = {"layers.0.*": 8, "*.down_proj": 3}
    turned = dict(reversed(patterns.items()))
    one, same, other = (
        RoundToNearest(bits_of=bits_of).fingerprint({"source": "x"}, "float32", 0)
        for bits_of in (patterns, dict(patterns), turned)
    )
    assert one == same != other


def test_rtn_is_rounding_to_nearest(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model")
    artifact = run_on(RoundToNearest(group_size=32, mse=False), folder, tmp_path / "home")
    name = "model.layers.2.mlp.up_proj"
    packed = Model(artifact.folder).materialize(torch.float32).get_submodule(name)
    assert isinstance(packed, PackedLinear)
    weight = Model(folder).tensor(f"{name}.weight").float()
    grid = find_grid(weight, 4, 32, symmetric=False, mse=False)
    assert torch.equal(packed.dequantize(), values(round_to(weight, grid), grid))


def test_gptq_keeps_the_function_better_than_rtn_and_says_so(tmp_path: Path) -> None:
    folder, home = tiny_model(tmp_path / "model"), tmp_path / "home"
    artifacts = {
        stage.stage: run_on(stage, folder, home, fingerprint=stage.stage)
        for stage in (Gptq(group_size=32, windows=32, length=64), RTN)
    }
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = torch.tensor(tokenizer.encode((home / "text.txt").read_text()).ids[:2048]).view(-1, 64)
    with torch.no_grad():
        origin = Model(folder).materialize(torch.float32)(input_ids=ids).logits.log_softmax(-1)
        lost = {}
        for name, artifact in artifacts.items():
            logits = Model(artifact.folder).materialize(torch.float32)(input_ids=ids).logits.log_softmax(-1)
            lost[name] = float((origin.exp() * (origin - logits)).sum(-1).mean())
    assert 0 < lost["quantize.gptq"] < 0.9 * lost["quantize.rtn"]

    events = [json.loads(line) for line in (home / "events.jsonl").read_text().splitlines()]
    ratios = [event["value"] for event in events if event.get("name") == "gptq/error_ratio"]
    assert len(ratios) == 4 and all(0 < ratio < 1 for ratio in ratios)
    assert [event["done"] for event in events if event.get("unit") == "layers"] == [1, 2, 3, 4] * 2


@pytest.mark.parametrize("name", ["quantize.gptq", "quantize.rtn"])
@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"bits": 5}, "bits=5: Input should be 2, 3, 4 or 8"),
        ({"bits_of": {"*.down_proj": 6}}, "bits_of.*.down_proj=6: Input should be 2, 3, 4 or 8"),
        ({"bits_of": {"*.v_proj": 8}}, "bits_of gives self_attn.q_proj 4 bits, self_attn.k_proj 4 bits, self_attn.v"),
        (
            {"group_size": 128},
            "group_size=128 does not divide the 64 inputs of self_attn.q_proj; sizes that fit: -1, 16, 32",
        ),
        ({"group_size": 8}, "group_size=8 is not one that readers of the format know; sizes that fit: -1, 16, 32"),
        ({"group_size": -2}, "group_size=-2: Input should be greater than or equal to -1"),
        ({"group_sise": 32}, "unknown setting 'group_sise'; did you mean 'group_size'?"),
        ({"group_size": "32"}, "group_size='32': Input should be a valid integer"),
    ],
)
def test_what_cannot_be_asked_is_a_sentence(
    tmp_path: Path, name: str, settings: dict[str, object], sentence: str
) -> None:
    facts = read_facts(tiny_model(tmp_path))
    with pytest.raises(BadInput) as error:
        parse({"stage": name, **settings}).plan(facts)
    assert sentence in str(error.value) and name in str(error.value)


def test_costs_grow_with_the_model_and_the_calibration(tmp_path: Path) -> None:
    facts = read_facts(tiny_model(tmp_path))
    wider = ModelFacts({**facts.config, "intermediate_size": 1920, "num_hidden_layers": 8})
    for stage in (GPTQ, RTN):
        assert stage.cost(wider, wider).flops > stage.cost(facts, facts).flops
    assert Gptq(windows=640).cost(facts, facts).flops > 5 * Gptq(windows=64).cost(facts, facts).flops
    assert Gptq(windows=64).tokens() == {"calibration": (64, 512)}
