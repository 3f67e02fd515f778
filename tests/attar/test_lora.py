"""Laws of adapters: nothing at first, the same merged as beside, the same in a file, the same after an interruption."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from attar import lora
from attar.adapter import FOLDER, Adapter, choose_modules, read_adapter
from attar.architecture import linear_modules
from attar.checkpoint import read_facts
from attar.errors import BadInput, Cancelled
from attar.model import Model
from attar.optimizer import MasterAdamW
from attar.tiny import tiny_model
from attar.training import loss_of, train
from attar.training_settings import TrainingSettings

IDS = torch.arange(0, 96).view(3, 32)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A tiny model of a family with biases."""
    return Model(tiny_model(tmp_path_factory.mktemp("model"), "qwen2"))


def adapted(source: Model, patterns: tuple[str, ...] = ("*",), random: bool = False, dropout: float = 0.0) -> Any:
    """The model with an adapter that learns: untrained, or with a random B."""
    config = source.facts.config
    adapter = Adapter(4, 8.0, choose_modules(patterns, config, "test"), dropout=dropout)
    tensors = lora.fresh(adapter, config, seed=1)
    if random:
        generator = torch.Generator().manual_seed(2)
        tensors = {name: torch.randn(t.shape, generator=generator) * 0.1 for name, t in tensors.items()}
    model = source.materialize(torch.float32).requires_grad_(False)
    lora.attach(model, adapter, tensors.__getitem__, torch.float32, "cpu")
    for part in lora.adapters(model).values():
        part.train().requires_grad_(True)
    return model


@torch.no_grad()
def logits(model: nn.Module) -> torch.Tensor:
    found: torch.Tensor = model(input_ids=IDS).logits
    return found


def test_an_untrained_adapter_changes_nothing(source: Model) -> None:
    assert torch.equal(logits(adapted(source)), logits(source.materialize(torch.float32)))


def test_it_adds_the_scaled_product(source: Model) -> None:
    model = adapted(source, ("k_proj",), random=True)
    linear = model.get_submodule("model.layers.2.self_attn.k_proj")
    part = lora.adapters(model)["model.layers.2.self_attn.k_proj"]
    x = torch.randn(5, linear.in_features)
    weight = linear.weight + 8.0 / 4 * part.lora_B.weight @ part.lora_A.weight
    torch.testing.assert_close(linear(x), nn.functional.linear(x, weight, linear.bias))


def test_merged_equals_beside(source: Model) -> None:
    model = adapted(source, random=True)
    beside = logits(model)
    plain = logits(source.materialize(torch.float32))
    assert not torch.allclose(beside, plain, atol=0.1)
    with lora.switched_off(model):
        assert torch.equal(logits(model), plain)
    assert torch.equal(logits(model), beside)
    lora.merge(model)
    assert not lora.adapters(model)
    torch.testing.assert_close(logits(model), beside, rtol=1e-4, atol=1e-4)


def test_every_matrix_learns_from_the_second_step_and_nothing_frozen_ever(source: Model) -> None:
    model = adapted(source)
    learning = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert len(learning) == 2 * len(linear_modules(source.facts.config))
    optimizer = MasterAdamW(learning, dict.fromkeys(learning, 1e-3))
    for step in range(2):
        loss_of(model, None, IDS, TrainingSettings(alpha=0.0)).loss.backward()  # type: ignore[no-untyped-call]
        norms = optimizer.gradient_norms()
        assert all(norm > 0 for name, norm in norms.items() if "lora_B" in name)
        assert all((norm > 0) == (step > 0) for name, norm in norms.items() if "lora_A" in name)  # while B is zero
        assert all(p.grad is None for p in model.parameters() if not p.requires_grad)
        optimizer.step(1.0)


class Surroundings:
    """A context of a stage, as far as the loop looks."""

    def __init__(self, state: Path, stop_after: int = 10**9) -> None:
        self.device, self.seed, self.state = "cpu", 7, state
        self.teacher, self.data, self.torch_dtype = None, SimpleNamespace(), torch.float32
        self.steps, self.stop_after = 0, stop_after

    @property
    def cancelled(self) -> Callable[[], bool]:
        return lambda: self.steps >= self.stop_after

    def report(self, name: str, value: float, step: int | None = None) -> None: ...
    def log(self, text: str, level: str = "info") -> None: ...
    def progress(self, done: int, total: int, unit: str) -> None:
        self.steps += 1


def test_an_interrupted_training_with_dropout_ends_bit_for_bit_like_an_undisturbed_one(
    source: Model, tmp_path: Path
) -> None:
    windows = np.random.default_rng(0).integers(0, 512, (10, 16))
    settings = TrainingSettings(train_tokens=6 * 2 * 16, batch=2, length=16, learning_rate=1e-2, alpha=0.0)
    undisturbed, interrupted, plain = (adapted(source, dropout=d) for d in (0.3, 0.3, 0.0))
    train(undisturbed, None, windows, settings, Surroundings(tmp_path / "a"))
    with pytest.raises(Cancelled):
        train(interrupted, None, windows, settings, Surroundings(tmp_path / "b", stop_after=3))
    resumed = adapted(source, dropout=0.3)
    torch.rand(5)  # another process would have drawn other numbers
    train(resumed, None, windows, settings, Surroundings(tmp_path / "b"))
    train(plain, None, windows, settings, Surroundings(tmp_path / "c"))
    one, other, without = (lora.stored(model) for model in (undisturbed, resumed, plain))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not any(torch.equal(one[name], without[name]) for name in one)


@pytest.mark.parametrize(
    ("patterns", "count"),
    [
        (("*",), 28),
        (("q_proj",), 4),
        (("mlp.*",), 12),
        (("layers.3.*", "layers.3.mlp.*"), 7),
        (("*.0.self_attn.?_proj",), 4),
    ],
)
def test_patterns(source: Model, patterns: tuple[str, ...], count: int) -> None:
    found = choose_modules(patterns, source.facts.config, "test")
    assert len(found) == count and set(found) <= set(linear_modules(source.facts.config))


def test_a_pattern_that_matches_nothing_is_a_sentence(source: Model) -> None:
    with pytest.raises(BadInput, match=r"test: target_modules='q_prog' matches no linear; did you mean 'q_proj'"):
        choose_modules(["q_prog"], source.facts.config, "test")


@pytest.mark.parametrize("patterns", [("*",), ("layers.1.*",)])
def test_the_folder_says_what_the_adapter_is(source: Model, patterns: tuple[str, ...]) -> None:
    config = source.facts.config
    adapter = Adapter(4, 6.0, choose_modules(patterns, config, "test"), rslora=True, dropout=0.25)
    settings = json.loads(json.dumps(adapter.as_config(config)))
    assert (settings["target_modules"] == list(adapter.modules)) == (patterns != ("*",))
    assert read_adapter(settings, dict.fromkeys(adapter.tensors(config), "BF16"), config) == adapter
    assert adapter.scale == 6.0 / 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"use_dora": True}, "use_dora=True"),
        ({"peft_type": "IA3"}, "peft_type='IA3'"),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern"),
        ({"r": None}, "r=None"),
        ({}, "lm_head"),
    ],
    ids=str,
)
def test_what_is_no_plain_lora_is_refused(source: Model, change: dict[str, Any], words: str) -> None:
    config = source.facts.config
    adapter = Adapter(4, 8.0, choose_modules(["q_proj"], config, "test"))
    names = [*adapter.tensors(config), *([] if change else ["base_model.model.lm_head.lora_A.weight"])]
    with pytest.raises(BadInput, match=words):
        read_adapter({**adapter.as_config(config), **change}, dict.fromkeys(names, "BF16"), config)


def test_an_adapter_beside_a_dense_model_is_refused(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model")
    (folder / FOLDER).mkdir()
    (folder / FOLDER / "adapter_model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    with pytest.raises(BadInput, match="dense model and an adapter beside it; merge"):
        read_facts(folder)
