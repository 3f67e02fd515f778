"""distill.logit: which layers stay, what is refused, and that the student nears its teacher."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from attar.checkpoint import read_facts
from attar.errors import BadInput
from attar.events import read
from attar.model import Model
from attar.testing import check_stage, run_on
from attar.tiny import tiny_model
from stages.distill_logit import Logit

SHORT: dict[str, Any] = {"train_tokens": 256, "batch": 4, "length": 32, "learning_rate": 1e-3}


def test_keeps_the_contract() -> None:
    made = check_stage(Logit(keep=3, **SHORT))
    assert read_facts(made.folder).layers == 3


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_every_family_is_carved(family: str, tmp_path: Path) -> None:
    source = tiny_model(tmp_path / "model", family, tie_word_embeddings=False)
    made = run_on(Logit(keep=[0, 3], **SHORT), source, tmp_path / "home")
    assert read_facts(made.folder).layers == 2


@pytest.mark.parametrize(
    ("keep", "layers", "kept"),
    [
        (28, 30, [i for i in range(30) if i not in (7, 22)]),
        (3, 5, [0, 2, 4]),
        (1, 4, [0]),
        (0.5, 4, [0, 3]),
        (0.9, 30, 27),
        ([1, 2], 4, [1, 2]),
    ],
)
def test_layers_are_kept_evenly_from_first_to_last(keep: Any, layers: int, kept: Any) -> None:
    found = Logit(keep=keep).kept(layers)
    assert found == kept or len(found) == kept
    assert found == sorted(set(found)) and found[0] == (keep[0] if isinstance(keep, list) else 0)


def test_carving_takes_the_very_layers(tmp_path: Path) -> None:
    """With a rate near nothing the student is the layers it was made of."""
    source = Model(tiny_model(tmp_path / "model"))
    stage = Logit(keep=[0, 2, 3], **{**SHORT, "learning_rate": 1e-7})
    made = Model(run_on(stage, source.folder, tmp_path / "home").folder)
    for new, old in enumerate([0, 2, 3]):
        name = "model.layers.{}.mlp.up_proj.weight"
        assert torch.allclose(made.tensor(name.format(new)), source.tensor(name.format(old)), atol=1e-5, rtol=1e-2)


def test_the_student_nears_its_teacher(tmp_path: Path) -> None:
    source = tiny_model(tmp_path / "model")
    run_on(Logit(keep=3, **{**SHORT, "train_tokens": 2048}), source, tmp_path / "home")
    events, _ = read(tmp_path / "home" / "events.jsonl")
    losses = [e["value"] for e in events if e["kind"] == "metric" and e["name"] == "loss"]
    assert len(losses) == 16 and sum(losses[-4:]) < 0.95 * sum(losses[:4])


def test_previous_keeps_the_shape(tmp_path: Path) -> None:
    facts = read_facts(tiny_model(tmp_path / "model"))
    assert Logit(student="previous").plan(facts) == facts


@pytest.mark.parametrize(
    ("keep", "reason"),
    [
        (5, "more layers than the 4"),
        (4, "keeps all 4 layers; student=previous"),
        ([0, 4], "names layer 4, the model ends with 3"),
        ([2, 1], "rising order"),
        ([1, 1], "once"),
    ],
)
def test_an_impossible_choice_of_layers_is_a_sentence(keep: Any, reason: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=reason):
        Logit(keep=keep).plan(read_facts(tiny_model(tmp_path / "model")))


@pytest.mark.parametrize("keep", [0, 1.0, 0.0, [], [-1], "3", True])
def test_keep_is_a_count_a_fraction_or_indices(keep: Any) -> None:
    with pytest.raises(ValidationError):
        Logit(keep=keep)


def test_quantized_models_are_refused(tmp_path: Path) -> None:
    facts = read_facts(tiny_model(tmp_path / "model"))
    packed = facts.changed(quantization_config={"quant_method": "gptq", "bits": 4, "group_size": 16})
    with pytest.raises(BadInput, match=r"packed integers.*finetune\.scales"):
        Logit().plan(packed)


def test_a_teacher_with_another_vocabulary_is_refused(tmp_path: Path) -> None:
    from attar.training import _require_same_tokens

    one, other = Model(tiny_model(tmp_path / "a")), Model(tiny_model(tmp_path / "b", vocab_size=640))
    _require_same_tokens(one, one)
    with pytest.raises(BadInput, match="tokenizer"):
        _require_same_tokens(one, other)
