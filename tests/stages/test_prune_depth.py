"""Laws of removing layers, on tiny random models."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from attar.architecture import FAMILIES
from attar.checkpoint import WEIGHTS, read_facts
from attar.errors import BadInput
from attar.events import Events
from attar.model import Model, keep_layers
from attar.removal import angular_distance, block_influence, losses, shortened, turns
from attar.sources import folder_fingerprint
from attar.stream import LayerStream
from attar.testing import check_stage, job, run_on
from attar.tiny import tiny_model
from attar.writer import Writer
from stages.base import Stage
from stages.prune_depth import Depth

Apply = Callable[[Stage, Path], Writer]
IDS = np.random.default_rng(0).integers(0, 512, size=(3, 40))
SMALL: dict[str, Any] = {"windows": 2, "length": 32}


def test_keeps_the_contract() -> None:
    artifact = check_stage(Depth(layers=2, **SMALL))
    scores, gone = artifact.manifest["notes"]["layer_scores"], artifact.manifest["notes"]["removed_layers"]
    assert len(scores) == 4 and len(gone) == 2
    assert scores.index(min(scores)) in gone


def test_the_last_layers_may_go_twice(tmp_path: Path) -> None:
    """All that stays is the origin's, to the bit: that is no sign of a stage that handed back the origin."""
    origin, again, home = tiny_model(tmp_path / "origin"), Depth(layers=[2]), tmp_path / "home"
    once = run_on(Depth(layers=[3]), origin, home)
    told = job(again, once.folder, home / "text.txt", home, "again", "float32")
    told["origin"] = {"folder": str(origin), "fingerprint": folder_fingerprint(origin, home)}
    made = again.run(again.job(told), Events(home / "events.jsonl"))
    assert read_facts(made.folder).layers == 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny", num_hidden_layers=5)


def stream_of(folder: Path, layers: list[int] | None = None) -> LayerStream:
    return LayerStream(Model(folder), IDS, torch.float32, "cpu", layers)


@torch.no_grad()
def run_without(folder: Path, gone: set[int]) -> torch.Tensor:
    """Logits [windows, tokens, vocabulary] of the whole model in memory, some layers taken out."""
    model: Any = Model(folder).materialize(torch.float32)
    model.model.layers = torch.nn.ModuleList(layer for i, layer in enumerate(model.model.layers) if i not in gone)
    model.config.num_hidden_layers = len(model.model.layers)
    return model(input_ids=torch.from_numpy(IDS), use_cache=False).logits  # type: ignore[no-any-return]


@pytest.mark.parametrize(("gone_before", "span"), [((), 1), ((), 2), ((1,), 1)], ids=str)
def test_costs_are_those_of_models_without_the_layers(folder: Path, gone_before: tuple[int, ...], span: int) -> None:
    """One pass that branches gives what running every shortened model from its first token gives."""
    ids = torch.from_numpy(IDS)
    left = [i for i in range(5) if i not in gone_before]
    whole_stream = stream_of(folder)
    shortened(whole_stream, 1)
    stream = stream_of(folder, left)
    states = shortened(stream, span)
    assert list(states) == list(range(len(left) - span + 1))
    whole = run_without(folder, set())[:, :-1].flatten(0, 1)
    labels = ids[:, 1:].flatten()
    rises = losses(stream, states, ids, whole_stream.hidden, "loss")
    kls = losses(stream, states, ids, whole_stream.hidden, "kl")
    for place in states:
        short = run_without(folder, {*gone_before, *left[place : place + span]})[:, :-1].flatten(0, 1)
        rise = functional.cross_entropy(short, labels) - functional.cross_entropy(whole, labels)
        p, q = short.log_softmax(-1), whole.log_softmax(-1)
        assert rises[place] == pytest.approx(float(rise), abs=1e-5)
        assert kls[place] == pytest.approx(float((q.exp() * (q - p)).sum(-1).mean()), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("span", [1, 2])
def test_turns_are_those_of_the_residual_stream(folder: Path, span: int) -> None:
    model: Any = Model(folder).materialize(torch.float32)
    seen: list[torch.Tensor] = []
    for layer in model.model.layers:
        layer.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model.model.norm.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        model(input_ids=torch.from_numpy(IDS), use_cache=False)
    for distance in (block_influence, angular_distance):
        expected = [float(distance(a, b).mean()) for a, b in zip(seen, seen[span:], strict=False)]
        assert turns(stream_of(folder), span, distance) == pytest.approx(expected, abs=1e-5)
    x = torch.randn(7, 16)
    assert block_influence(x, 3 * x).abs().max() < 1e-6
    assert float(angular_distance(x, -x).mean()) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    "settings",
    [
        {"importance": "block_influence", "greedy": False},
        {"importance": "loss", "greedy": False},
        {"importance": "kl"},
        {"importance": "block_influence", "contiguous": True},
    ],
    ids=lambda s: "-".join(map(str, s.values())),
)
def test_layers_that_do_nothing_go_first(tmp_path: Path, apply_here: Apply, settings: dict[str, Any]) -> None:
    """Two layers that write nothing into the residual stream are found, and without them nothing changes."""
    folder = tiny_model(tmp_path / "model", num_hidden_layers=5)
    tensors = load_file(folder / WEIGHTS)
    for index in (2, 3):
        for name in ("self_attn.o_proj", "mlp.down_proj"):
            tensors[f"model.layers.{index}.{name}.weight"].zero_()
    save_file(tensors, folder / WEIGHTS)
    out = apply_here(Depth(layers=0.4, **settings, **SMALL), folder)
    assert out.notes["removed_layers"] == [2, 3]
    ids = torch.from_numpy(IDS)
    before, after = (Model(f).materialize(torch.float32)(input_ids=ids).logits for f in (folder, out.folder))
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_every_family_loses_layers(tmp_path: Path, apply_here: Apply, model_type: str) -> None:
    """What is saved is the model in memory without those layers: kinds of layers, positions, capped logits and all."""
    folder = tiny_model(tmp_path / "model", model_type)
    out = apply_here(Depth(layers=1, **SMALL), folder)
    made, model = Model(out.folder), Model(folder).materialize(torch.float32)
    keep_layers(model, made.facts.config, [i for i in range(4) if i not in out.notes["removed_layers"]])
    ids = torch.from_numpy(IDS)
    with torch.no_grad():
        expected, found = (m(input_ids=ids, use_cache=False).logits for m in (model, made.materialize(torch.float32)))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("spelled", [True, False])
def test_the_kinds_of_layers_stay_with_their_layers(tmp_path: Path, apply_here: Apply, spelled: bool) -> None:
    """Whether the config lists them or derives them from the places, which the removal moves."""
    kinds = ["full_attention", "full_attention", "sliding_attention", "sliding_attention"]
    more: dict[str, Any] = {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 2}
    folder = tiny_model(tmp_path / "model", "qwen2", **more)
    facts = read_facts(folder)
    assert facts.config["layer_types"] == kinds
    if not spelled:
        facts = facts.changed(layer_types=None)
        (folder / "config.json").write_text(json.dumps(dict(facts.config)))
    made = read_facts(apply_here(Depth(layers=[1, 3]), folder).folder)
    assert made.config["layer_types"] == ["full_attention", "sliding_attention"]
    assert made.layers == 2


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"layers": 4}, "leaves none of 4; at most 3"),
        ({"layers": 0.1}, "removes nothing of 4 layers"),
        ({"layers": [1, 4]}, "names layer 4, the model ends with 3"),
        ({"layers": [2, 1]}, "each layer once, in rising order"),
        ({"layers": [1], "contiguous": True}, "names the layers already"),
    ],
    ids=str,
)
def test_plan_refuses_in_a_sentence(folder: Path, settings: dict[str, Any], words: str) -> None:
    facts = read_facts(folder).changed(num_hidden_layers=4)
    with pytest.raises(BadInput, match=words):
        Depth(**settings).plan(facts)


def test_plan_refuses_a_quantized_model(folder: Path) -> None:
    packed = read_facts(folder).changed(quantization_config={"quant_method": "gptq", "bits": 4, "group_size": 64})
    with pytest.raises(BadInput, match="quantized already"):
        Depth().plan(packed)


def test_the_ends_of_a_model_are_warned_of(folder: Path) -> None:
    facts = read_facts(folder)
    assert len(Depth(layers=[0, 4]).warnings(facts)) == 2
    assert Depth(layers=[1, 3]).warnings(facts) == Depth(layers=2).warnings(facts) == []
