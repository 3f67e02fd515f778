"""finetune.full: every tensor of a dense model may move, its shape never does."""

from pathlib import Path
from typing import Any

import pytest
import torch

from attar.checkpoint import read_facts
from attar.errors import BadInput
from attar.model import Model
from attar.testing import check_stage, run_on
from attar.tiny import tiny_model
from stages.finetune_full import Full

SHORT: dict[str, Any] = {"train_tokens": 256, "batch": 4, "length": 32, "learning_rate": 1e-3}


def test_keeps_the_contract() -> None:
    check_stage(Full(alpha=0.5, **SHORT))


def test_every_matrix_moves_and_no_shape_changes(tmp_path: Path) -> None:
    source = Model(tiny_model(tmp_path / "model", tie_word_embeddings=False))
    made = Model(run_on(Full(alpha=0.0, **SHORT), source.folder, tmp_path / "home").folder)
    assert made.facts.tensors() == source.facts.tensors()
    still = [name for name in source.names if torch.equal(made.tensor(name), source.tensor(name))]
    assert not [name for name in still if not name.endswith("norm.weight")]


def test_no_teacher_is_needed_for_cross_entropy_alone() -> None:
    assert Full(alpha=0.0).teacher_spec() is None
    assert Full(alpha=0.5).teacher_spec() == "origin"
    assert Full(teacher="previous").teacher_spec() == "previous"


def test_save_interval_is_not_part_of_the_fingerprint() -> None:
    inputs = {"source": "x"}
    prints = {Full(save_every=n).fingerprint(inputs, "bfloat16", 0) for n in (1, 25, 100)}
    assert len(prints) == 1
    assert Full(alpha=0.5).fingerprint(inputs, "bfloat16", 0) not in prints


def test_a_teacher_costs_compute_and_memory(tmp_path: Path) -> None:
    facts = read_facts(tiny_model(tmp_path / "model"))
    with_teacher, without = Full(alpha=0.5).cost(facts, facts), Full(alpha=0.0).cost(facts, facts)
    assert with_teacher.flops > without.flops and with_teacher.memory > without.memory


def test_quantized_models_are_refused(tmp_path: Path) -> None:
    facts = read_facts(tiny_model(tmp_path / "model"))
    packed = facts.changed(quantization_config={"quant_method": "gptq", "bits": 4, "group_size": 16})
    with pytest.raises(BadInput, match=r"packed integers.*use finetune\.scales"):
        Full().plan(packed)
