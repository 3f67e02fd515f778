"""distill.qad: what was trained is what is stored, and it is closer to the teacher than rounding is."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from attar.architecture import FAMILIES, embeddings, head, linear_modules
from attar.checkpoint import read_facts
from attar.data import Corpus
from attar.errors import BadInput
from attar.facts import ModelFacts
from attar.model import Model
from attar.packed import PackedLinear
from attar.quality import Reference, measure_text
from attar.testing import check_stage
from attar.tiny import tiny_model
from attar.writer import Writer
from stages import parse
from stages.distill_qad import Qad
from stages.finetune_full import Full
from stages.quantize_rtn import RoundToNearest

SHORT: dict[str, Any] = {"train_tokens": 512, "batch": 4, "length": 32, "learning_rate": 3e-3}
FAST: dict[str, Any] = {**SHORT, "step_learning_rate": 0.4}
Apply = Callable[..., Writer]
NAME = "model.layers.2.mlp.up_proj"


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("dense") / "model", initializer_range=0.05)


def packed(model: Model, name: str = NAME) -> PackedLinear:
    module = model.materialize(torch.float32).get_submodule(name)
    assert isinstance(module, PackedLinear)
    return module


def events(made: Writer) -> str:
    return (made.folder.parent / "events.jsonl").read_text()


def metrics(made: Writer) -> dict[str, float]:
    told = [json.loads(line) for line in events(made).splitlines()]
    return {event["name"]: event["value"] for event in told if event["kind"] == "metric"}


def test_keeps_the_contract() -> None:
    check_stage(Qad(group_size=16, **FAST))


def test_it_beats_rounding_to_nearest_on_a_trained_model(dense: Path, corpus: Corpus, apply_here: Apply) -> None:
    training = {"batch": 8, "length": 64, "learning_rate": 3e-3}
    origin = Model(apply_here(Full(alpha=0.0, train_tokens=150 * 512, **training), dense).folder)
    ids = torch.from_numpy(corpus.windows("other", origin.tokenizer_file, 32, 64, seed=0))
    model = origin.materialize(torch.float32)
    quality, hidden = measure_text(model, ids, None)
    assert quality.perplexity < 200  # of a vocabulary of 512: it has learned something

    def kl(made: Writer) -> float:
        head = model.get_output_embeddings().weight.detach()  # type: ignore[operator]
        found = measure_text(Model(made.folder).materialize(torch.float32), ids, Reference(hidden, head))[0].kl
        assert found is not None
        return found

    format_of: dict[str, Any] = {"group_size": 64, "symmetric": True}
    nearest = kl(apply_here(RoundToNearest(**format_of), origin.folder))
    stage = Qad(**format_of, train_tokens=40 * 512, **{**training, "learning_rate": 3e-4})
    made = apply_here(stage, origin.folder)
    assert 0 < kl(made) < 0.8 * nearest
    assert 0 < metrics(made)["qad/integers_changed"] < 1


def test_a_quantized_model_goes_on_with_its_own_grid(dense: Path, apply_here: Apply) -> None:
    source = Model(apply_here(RoundToNearest(group_size=32), dense).folder)
    stage = Qad(scales="fixed", teacher="elsewhere", **FAST)
    assert stage.starts_as_source(source.facts) and not stage.starts_as_source(read_facts(dense))
    out = apply_here(stage, source.folder, teacher=dense)
    made = Model(out.folder)
    before, after = packed(source), packed(made)
    assert torch.equal(before.scales, after.scales) and torch.equal(before.zeros, after.zeros)
    assert 0 < float((before.codes != after.codes).float().mean()) < 1
    assert made.facts.tensors() == source.facts.tensors() and made.facts.quantization == source.facts.quantization
    found = metrics(out)
    assert found["qad/difference_from_training"] < 1e-6 and 0 < found["qad/integers_changed"] < 1


def test_without_a_learning_rate_nothing_changes(dense: Path, apply_here: Apply) -> None:
    source = Model(apply_here(RoundToNearest(group_size=32), dense).folder)
    stage = Qad(**{**SHORT, "learning_rate": 1e-30}, step_learning_rate=1e-30, scales="fixed")
    made = Model(apply_here(stage, source.folder, teacher=dense).folder)
    assert made.names == source.names
    for name in source.names:  # an embedding of zero moves by the rate itself
        torch.testing.assert_close(made.tensor(name), source.tensor(name), rtol=0, atol=1e-20)


def test_integers_that_stay_are_told(dense: Path, apply_here: Apply) -> None:
    source = Model(apply_here(RoundToNearest(group_size=32), dense).folder)
    gentle = Qad(**SHORT, scale_learning_rate=1e-4)
    made = apply_here(gentle, source.folder, teacher=dense)
    assert torch.equal(packed(source).codes, packed(Model(made.folder)).codes)
    assert "no weight left its place on the grid" in events(made)


@pytest.mark.parametrize("scales", ["fixed", "recomputed"])
def test_a_dense_result_lies_on_a_grid(dense: Path, apply_here: Apply, scales: str) -> None:
    stage = Qad(group_size=32, output="dense", scales=scales, alpha=0.5, **FAST)
    made = Model(apply_here(stage, dense).folder)
    assert made.facts.tensors() == read_facts(dense).tensors()
    groups = made.tensor(f"{NAME}.weight").view(-1, 32)
    assert max(len(group.unique()) for group in groups) <= 16
    assert len(made.tensor("model.embed_tokens.weight").unique()) > 16


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_what_learns(family: str, tmp_path: Path) -> None:
    facts = read_facts(tiny_model(tmp_path / "model", family, tie_word_embeddings=family == "llama"))
    weights = {f"{name}.weight" for name in linear_modules(facts.config)}
    around = embeddings(facts.config) | ({head(facts.config)})
    every, some = Qad(), Qad(norms=False, embeddings=False, scales="fixed")
    assert some.learning(facts) == weights
    assert Qad(norms=False, scales="fixed").learning(facts) == weights | around
    assert every.learning(facts) == facts.tensors().keys() | {f"{name}.scales" for name in linear_modules(facts.config)}


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"group_size": 128}, r"distill.qad: group_size=128 does not divide the 64 inputs"),
        ({"bits": 5}, r"distill.qad: bits=5 is not supported"),
        ({"scales": "learnt"}, r"scales='learnt'"),
    ],
    ids=str,
)
def test_what_cannot_be_asked_of_a_dense_model(dense: Path, settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        parse({"stage": "distill.qad", **settings}).plan(read_facts(dense))


@pytest.mark.parametrize(
    ("setting", "value", "found"), [("group_size", 16, 32), ("bits", 8, 4), ("symmetric", True, False)]
)
def test_another_grid_than_that_of_a_quantized_model(dense: Path, setting: str, value: Any, found: Any) -> None:
    source: ModelFacts = RoundToNearest(group_size=32).plan(read_facts(dense))
    with pytest.raises(BadInput, match=rf"{setting}={value} is not that of the incoming model.*{setting}={found}"):
        parse({"stage": "distill.qad", setting: value}).plan(source)
    assert Qad().plan(source).quantization == source.quantization
    left_open = Qad().plan(read_facts(dense)).quantization
    assert left_open is not None and (left_open.bits, left_open.group_size, left_open.symmetric) == (4, 64, False)


def test_a_dense_result_of_a_quantized_source_is_dense(dense: Path) -> None:
    source = RoundToNearest(group_size=32).plan(read_facts(dense))
    made = Qad(output="dense").plan(source)
    assert made.quantization is None and made.bytes > source.bytes
    assert len(linear_modules(made.config)) == 28
