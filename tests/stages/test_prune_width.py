"""Laws of width pruning on a tiny random Llama; what holds for every family is in test_families."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from attar.checkpoint import WEIGHTS, read_facts
from attar.errors import BadInput
from attar.model import Model
from attar.testing import check_stage, run_on
from attar.tiny import tiny_model
from stages.prune_width import Width, refit, top


def test_keeps_the_contract() -> None:
    check_stage(Width(ffn=0.3, attention=0.5, windows=4, length=64))


def test_refit_is_the_least_squares_solution() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(500, 12, generator=generator) @ torch.randn(12, 12, generator=generator)
    weight = torch.randn(5, 12, generator=generator)
    columns = torch.tensor([0, 2, 3, 5, 7, 8, 9, 11])
    target = x @ weight.T
    refitted = (x[:, columns] @ refit(weight, x.T @ x, columns).T - target).square().sum()
    sliced = (x[:, columns] @ weight[:, columns].T - target).square().sum()
    best = torch.linalg.lstsq(x[:, columns].double(), target.double()).solution
    optimum = (x[:, columns].double() @ best - target.double()).square().sum()
    assert optimum <= refitted <= 1.05 * optimum
    assert refitted < 0.7 * sliced


def test_top_keeps_the_largest_in_their_order() -> None:
    assert top(torch.tensor([3.0, 9.0, 1.0, 9.0]), 3).tolist() == [0, 1, 3]


def test_activation_and_magnitude_rank_planted_channels_apart(tmp_path: Path) -> None:
    """Half the channels fire loudly through small outgoing weights, half silently through large ones."""
    folder = tiny_model(tmp_path / "model")
    tensors = load_file(folder / WEIGHTS)
    loud = torch.zeros(192, dtype=torch.bool)
    loud[torch.randperm(192, generator=torch.Generator().manual_seed(0))[:96]] = True
    for layer in range(4):
        prefix = f"model.layers.{layer}.mlp."
        tensors[f"{prefix}up_proj.weight"][loud] *= 4
        tensors[f"{prefix}up_proj.weight"][~loud] *= 0.01
        tensors[f"{prefix}down_proj.weight"][:, ~loud] *= 100
    save_file(tensors, folder / WEIGHTS)
    for importance, kept in (("activation", loud), ("magnitude", ~loud)):
        stage = Width(ffn=0.5, importance=importance, compensate=False, multiple_of=32, windows=2, length=32)
        made = Model(run_on(stage, folder, tmp_path / importance).folder)
        for layer in range(4):
            name = f"model.layers.{layer}.mlp.up_proj.weight"
            assert torch.equal(made.tensor(name), tensors[name][kept]), (importance, layer)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"ffn": 0.9}, "leaves none of 192 channels"),
        ({"ffn": 0.0, "attention": 0.9}, "leaves none of 2 KV groups"),
        ({"ffn": 0.01}, "ffn=0.01 removes nothing of 192 channels"),
        ({"ffn": 0.0, "attention": 0.1}, "attention=0.1 removes nothing of 2 KV groups"),
    ],
)
def test_plan_refuses_in_a_sentence(tmp_path: Path, settings: dict[str, float], words: str) -> None:
    facts = read_facts(tiny_model(tmp_path))
    with pytest.raises(BadInput, match=words):
        Width(**settings).plan(facts)


def test_plan_refuses_a_quantized_model(tmp_path: Path) -> None:
    facts = read_facts(tiny_model(tmp_path))
    packed = facts.changed(quantization_config={"quant_method": "gptq", "bits": 4, "group_size": 64, "sym": False})
    with pytest.raises(BadInput, match="quantized already"):
        Width().plan(packed)
