"""Bytes by part: nothing is missing and nothing counts twice, in every family."""

from math import prod
from pathlib import Path

import pytest

from attar import architecture
from attar.architectures import FAMILIES
from attar.checkpoint import read_facts, stored_tensors
from attar.facts import BYTES, ModelFacts
from attar.parts import BYTE_PARTS, bits_per_weight, bits_quantized, bytes_by_part
from attar.tiny import tiny_model

GPTQ = {"quant_method": "gptq", "checkpoint_format": "gptq", "bits": 4, "group_size": 64, "sym": False}
SMOL = {
    "model_type": "llama",
    "hidden_size": 576,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "intermediate_size": 1536,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", FAMILIES)
def test_parts_add_up_to_the_tensors_of_the_files(kind: str, tied: bool, tmp_path: Path) -> None:
    folder = tiny_model(tmp_path, kind, tie_word_embeddings=tied, num_hidden_layers=2)
    facts, stored = read_facts(folder), stored_tensors(folder)
    parts = bytes_by_part(facts)
    assert tuple(parts) == BYTE_PARTS and sum(parts.values()) == facts.bytes
    assert sum(parts.values()) - parts["files"] == sum(BYTES[dtype] * prod(shape) for dtype, shape in stored.values())
    assert parts["other"] == parts["quantization"] == parts["adapter"] == 0
    assert (parts["head"] == 0) == architecture.tied(facts.config)  # one that is the embedding counts there alone
    table = 2 * facts.vocabulary * facts.hidden
    positions = parts["embeddings"] - table
    assert (positions > 0) == (architecture.family(facts.config).positions is not None)
    assert parts["head"] in (0, table)
    assert bits_per_weight(facts) == 16 and bits_quantized(facts) is None


def test_halves_of_a_layer_are_told_apart() -> None:
    facts = ModelFacts(SMOL)
    parts = bytes_by_part(facts)
    assert parts["ffn"] == 2 * 30 * 3 * 576 * 1536
    assert parts["attention"] == 2 * 30 * (2 * 576 * 576 + 2 * 576 * 192)
    assert parts["norms"] == 2 * (2 * 30 + 1) * 576
    assert parts["embeddings"] == 2 * 49152 * 576 and parts["files"] == 0


def test_bits_of_packed_weights_are_those_of_the_format() -> None:
    """Of 4 bits in groups of 64: a 16-bit scale and a 4-bit zero point a group, a 32-bit index an input."""
    facts = ModelFacts(SMOL).changed(quantization_config=GPTQ)
    shapes = facts.packed_modules.values()
    weights, indices = sum(map(prod, shapes)), sum(columns for _, columns in shapes)
    assert bits_quantized(facts) == pytest.approx(4 + 20 / 64 + 32 * indices / weights)
    parts = bytes_by_part(facts)
    assert parts["attention"] + parts["ffn"] == weights // 2
    assert parts["quantization"] == weights // 64 * 20 // 8 + 4 * indices
    assert 4 < bits_per_weight(facts) < 16
