"""distill.logit: which layers stay, what is refused, and that the student nears its teacher."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from attar.checkpoint import read_facts
from attar.errors import BadInput
from attar.events import read
from attar.model import Model, fresh
from attar.shape import Shape
from attar.testing import check_stage, run_on
from attar.tiny import tiny_model
from stages import parse
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


def test_a_fresh_student_keeps_the_contract() -> None:
    made = check_stage(Logit(student="fresh", shape=Shape(layers=2, hidden=32, ffn=64, heads=2, kv_heads=1), **SHORT))
    facts = read_facts(made.folder)
    sizes = (facts.layers, facts.hidden, facts.ffn, facts.heads, facts.kv_heads, facts.head_dim)
    assert sizes == (2, 32, 64, 2, 1, 16)


def test_a_fresh_student_is_drawn_from_the_seed_of_the_stage(tmp_path: Path) -> None:
    facts = Logit(student="fresh", shape=Shape(hidden=32)).plan(read_facts(tiny_model(tmp_path / "model")))
    drawn = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        drawn.append(fresh(facts.config, torch.bfloat16, "cpu").state_dict())
    one, same, other = drawn
    assert all(torch.equal(one[name], same[name]) for name in one)
    name = "model.layers.0.mlp.up_proj.weight"
    assert not torch.equal(one[name], other[name]) and one[name].dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ({"heads": 6, "kv_heads": 4}, "6 heads cannot share 4 kv_heads; possible kv_heads: 1, 2, 3, 6"),
        ({"head_dim": 5}, "head_dim=5 is odd"),
    ],
)
def test_an_impossible_shape_is_a_sentence(shape: dict[str, int], reason: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=reason):
        Logit(student="fresh", shape=Shape(**shape)).plan(read_facts(tiny_model(tmp_path / "model")))


def test_a_shape_is_for_fresh_students_and_a_choice_of_layers_for_carved_ones() -> None:
    with pytest.raises(BadInput, match=r"distill\.logit: shape belongs to student=fresh, and student is previous"):
        parse({"stage": "distill.logit", "student": "previous", "shape": {"layers": 2}})
    for student in ("previous", "fresh", "org/another"):
        with pytest.raises(BadInput, match=rf"keep=3 belongs to student=carved, and student is {student}"):
            parse({"stage": "distill.logit", "student": student, "keep": 3})


def test_a_cached_teacher_teaches_as_the_online_one_and_takes_what_was_planned(tmp_path: Path) -> None:
    source, curves = tiny_model(tmp_path / "model"), []
    for cache in ("none", "hidden"):
        stage = Logit(keep=3, cache=cache, **SHORT)
        run_on(stage, source, tmp_path / cache)
        events, _ = read(tmp_path / cache / "events.jsonl")
        curves.append([e["value"] for e in events if e["kind"] == "metric" and e["name"] == "loss"])
    assert curves[1] == pytest.approx(curves[0], rel=1e-4)
    (made,) = (tmp_path / "hidden" / "store" / "teacher-cache").iterdir()
    held = sum(path.stat().st_size for path in made.glob("shard-*"))
    planned = stage.cost(read_facts(source), read_facts(source)).cache
    assert 2 * planned <= held <= 2 * planned + 10_000  # plans count in bf16, this test computes in fp32


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
    with pytest.raises(BadInput, match=r"tokenizer.*generate\.responses.*distill\.response"):
        _require_same_tokens(one, other)
