"""finetune.scales: integers stay to the bit, what surrounds them learns."""

from pathlib import Path
from typing import Any

import pytest
import torch

from attar.checkpoint import read_facts
from attar.errors import BadInput
from attar.model import Model
from attar.testing import check_stage, run_on
from attar.tiny import tiny_model
from stages.finetune_scales import Scales
from stages.quantize_rtn import RoundToNearest

SHORT: dict[str, Any] = {"train_tokens": 512, "batch": 4, "length": 32, "learning_rate": 3e-3, "alpha": 0.5}
FAST = {**SHORT, "scale_learning_rate": 1e-3}


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny packed model of a family with biases."""
    folder = tmp_path_factory.mktemp("quantized")
    dense = tiny_model(folder / "model", "qwen2")
    return run_on(RoundToNearest(group_size=16), dense, folder / "home").folder


def kind(name: str) -> str:
    if name.endswith(("qweight", "qzeros", "g_idx")):
        return "integers"
    if name.endswith("scales"):
        return "scales"
    if name.endswith("bias"):
        return "biases"
    return "embeddings" if "embed" in name or "lm_head" in name else "norms"


def moved(before: Path, after: Path) -> dict[str, list[bool]]:
    one, other = Model(before), Model(after)
    found: dict[str, list[bool]] = {}
    for name in one.names:
        found.setdefault(kind(name), []).append(not torch.equal(one.tensor(name), other.tensor(name)))
    return found


def test_keeps_the_contract(quantized: Path) -> None:
    check_stage(Scales(**FAST), quantized)


def test_integers_stay_and_the_rest_moves(quantized: Path, tmp_path: Path) -> None:
    found = moved(quantized, run_on(Scales(**FAST), quantized, tmp_path).folder)
    assert not any(found["integers"]) and not any(found["biases"])
    assert all(found["scales"]) and all(found["embeddings"]) and any(found["norms"])


@pytest.mark.parametrize("switch", ["scales", "norms", "embeddings"])
def test_each_kind_can_learn_alone(quantized: Path, tmp_path: Path, switch: str) -> None:
    alone: dict[str, Any] = {name: name == switch for name in ("scales", "norms", "embeddings")}
    found = moved(quantized, run_on(Scales(**FAST, **alone), quantized, tmp_path).folder)
    assert {name for name, some in found.items() if any(some)} == {switch}


def test_what_learns_is_named(quantized: Path) -> None:
    facts = read_facts(quantized)
    learning = Scales().learning(facts)
    assert {kind(name) for name in learning} == {"scales", "norms", "embeddings"}
    assert learning < facts.tensors().keys()
    assert {kind(name) for name in facts.tensors().keys() - learning} == {"integers", "biases"}
    assert {kind(name) for name in Scales(norms=False).learning(facts)} == {"scales", "embeddings"}


def test_dense_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"dense.*finetune\.full"):
        Scales().plan(read_facts(tiny_model(tmp_path / "model")))


def test_nothing_to_learn_is_refused(quantized: Path) -> None:
    with pytest.raises(BadInput, match="nothing would learn"):
        Scales(scales=False, norms=False, embeddings=False).plan(read_facts(quantized))
