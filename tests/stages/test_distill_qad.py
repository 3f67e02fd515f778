"""distill.qad: what was trained is what is stored, and it is closer to the teacher than rounding is."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from attar.architecture import linear_modules
from attar.checkpoint import read_facts
from attar.data import Corpus
from attar.errors import BadInput
from attar.facts import ModelFacts
from attar.model import Model
from attar.packed import PackedLinear
from attar.quality import Reference, measure_text
from attar.testing import check_stage
from attar.tiny import tiny_model
from stages import parse
from stages.distill_qad import Qad
from stages.finetune_full import Full
from stages.quantize_rtn import RoundToNearest

SHORT: dict[str, Any] = {"train_tokens": 512, "batch": 4, "length": 32, "learning_rate": 3e-3}
FAST: dict[str, Any] = {**SHORT, "step_learning_rate": 0.4}
NAME = "model.layers.2.mlp.up_proj"


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("dense") / "model", initializer_range=0.05)


def packed(model: Model, name: str = NAME) -> PackedLinear:
    module = model.materialize(torch.float32).get_submodule(name)
    assert isinstance(module, PackedLinear)
    return module


def metrics(folder: Path) -> dict[str, float]:
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    return {event["name"]: event["value"] for event in events if event["kind"] == "metric"}


def test_keeps_the_contract() -> None:
    check_stage(Qad(group_size=16, **FAST))


def test_it_beats_rounding_to_nearest_on_a_trained_model(
    dense: Path, corpus: Corpus, apply: Any, tmp_path: Path
) -> None:
    training = {"batch": 8, "length": 64, "learning_rate": 3e-3}
    origin: Model = apply(Full(alpha=0.0, train_tokens=150 * 512, **training), dense)
    ids = torch.from_numpy(corpus.windows("other", origin.tokenizer_file, 32, 64, seed=0))
    model = origin.materialize(torch.float32)
    quality, hidden = measure_text(model, ids, None)
    assert quality.perplexity < 200  # of a vocabulary of 512: it has learned something

    def kl(made: Model) -> float:
        head = model.get_output_embeddings().weight.detach()  # type: ignore[operator]
        found = measure_text(made.materialize(torch.float32), ids, Reference(hidden, head))[0].kl
        assert found is not None
        return found

    format_of: dict[str, Any] = {"group_size": 64, "symmetric": True}
    nearest = kl(apply(RoundToNearest(**format_of), origin.folder))
    learned = kl(apply(Qad(**format_of, train_tokens=40 * 512, **{**training, "learning_rate": 3e-4}), origin.folder))
    assert 0 < learned < 0.8 * nearest
    assert 0 < metrics(tmp_path)["qad/integers_changed"] < 1


def test_a_quantized_model_goes_on_with_its_own_grid(dense: Path, apply: Any, tmp_path: Path) -> None:
    source: Model = apply(RoundToNearest(group_size=32), dense)
    stage = Qad(scales="fixed", teacher="elsewhere", **FAST)
    assert stage.starts_as_source(source.facts) and not stage.starts_as_source(read_facts(dense))
    made: Model = apply(stage, source.folder, teacher=dense)
    before, after = packed(source), packed(made)
    assert torch.equal(before.scales, after.scales) and torch.equal(before.zeros, after.zeros)
    assert 0 < float((before.codes != after.codes).float().mean()) < 1
    assert made.facts.tensors() == source.facts.tensors() and made.facts.quantization == source.facts.quantization
    found = metrics(tmp_path)
    assert found["qad/difference_from_training"] < 1e-6 and 0 < found["qad/integers_changed"] < 1


def test_without_a_learning_rate_nothing_changes(dense: Path, apply: Any) -> None:
    source: Model = apply(RoundToNearest(group_size=32), dense)
    made: Model = apply(
        Qad(**{**SHORT, "learning_rate": 1e-30}, step_learning_rate=1e-30, scales="fixed"), source.folder, teacher=dense
    )
    assert made.names == source.names
    for name in source.names:  # an embedding of zero moves by the rate itself
        torch.testing.assert_close(made.tensor(name), source.tensor(name), rtol=0, atol=1e-20)


def test_integers_that_stay_are_told(dense: Path, apply: Any, tmp_path: Path) -> None:
    source: Model = apply(RoundToNearest(group_size=32), dense)
    gentle = Qad(**SHORT, scale_learning_rate=1e-4)
    made: Model = apply(gentle, source.folder, teacher=dense)
    assert torch.equal(packed(source).codes, packed(made).codes)
    assert "no weight left its place on the grid" in (tmp_path / "events.jsonl").read_text()


@pytest.mark.parametrize("scales", ["fixed", "recomputed"])
def test_a_dense_result_lies_on_a_grid(dense: Path, apply: Any, scales: str) -> None:
    made: Model = apply(Qad(group_size=32, output="dense", scales=scales, alpha=0.5, **FAST), dense)
    assert made.facts.tensors() == read_facts(dense).tensors()
    groups = made.tensor(f"{NAME}.weight").view(-1, 32)
    assert max(len(group.unique()) for group in groups) <= 16
    assert (
        len(made.tensor("lm_head.weight" if "lm_head.weight" in made.names else "model.embed_tokens.weight").unique())
        > 16
    )


def test_what_learns() -> None:
    linears = frozenset({"model.layers.0.mlp.up_proj"})
    every, some = Qad(), Qad(norms=False, embeddings=False, scales="fixed")
    names = ["model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.scales", "model.norm.weight"]
    names += ["model.layers.0.mlp.up_proj.bias", "model.embed_tokens.weight", "lm_head.weight"]
    assert [every.learns(name, linears) for name in names] == [True] * 6
    assert [some.learns(name, linears) for name in names] == [True] + [False] * 5


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
