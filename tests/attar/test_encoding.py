"""What can be packed and what cannot, in sentences."""

import re
from pathlib import Path
from typing import Any

import pytest

from attar.architecture import FAMILIES, layer, linears
from attar.checkpoint import read_facts
from attar.encoding import packed_facts
from attar.errors import BadInput
from attar.facts import BITS, ModelFacts
from attar.tiny import tiny_model

SMOLLM2 = {
    "model_type": "llama",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "head_dim": 64,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
    "dtype": "bfloat16",
}


def pack(facts: ModelFacts, **settings: Any) -> ModelFacts:
    return packed_facts(
        facts, "quantize.x", **{"bits": 4, "group_size": 64, "symmetric": False, "details": {}, **settings}
    )


@pytest.mark.parametrize("bits", BITS)
def test_a_group_costs_its_codes_a_scale_and_a_zero_point(bits: int) -> None:
    packed = pack(ModelFacts(SMOLLM2), bits=bits)
    body = sum(rows * columns for rows, columns in packed.packed_modules.values())
    norms = 30 * 2 * 576 * 2
    index = 4 * sum(columns for _, columns in packed.packed_modules.values())
    assert packed.weight_bytes()["body"] == body * bits // 8 + body // 64 * (16 + bits) // 8 + norms + index
    assert packed.parameters == ModelFacts(SMOLLM2).parameters


def test_a_group_size_of_minus_one_is_one_group_a_row() -> None:
    packed = pack(ModelFacts(SMOLLM2), group_size=-1)
    assert packed.tensors()["model.layers.3.mlp.down_proj.scales"].shape == (1, 576)
    assert packed.tensors()["model.layers.3.mlp.down_proj.qzeros"].shape == (1, 576 // 8)


def test_patterns_give_linears_bits_of_their_own_and_the_first_that_matches_decides() -> None:
    packed = pack(ModelFacts(SMOLLM2), bits_of={"layers.0.*": 8, "layers.29.*": 8, "*.down_proj": 3})
    quantization = packed.quantization
    assert quantization is not None
    for index in range(30):
        for name in linears(SMOLLM2):
            expected = 8 if index in (0, 29) else 3 if name == "mlp.down_proj" else 4
            assert quantization.bits_of(f"model.layers.{index}.{name}") == expected
    assert packed.tensors()["model.layers.7.mlp.down_proj.qweight"].shape == (1536 * 3 // 32, 576)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_patterns_name_the_layers_of_every_family_alike(tmp_path: Path, family: str) -> None:
    facts = read_facts(tiny_model(tmp_path, family, num_hidden_layers=11))
    last = list(linears(facts.config))[-1]
    packed = pack(facts, group_size=-1, symmetric=True, bits_of={"layers.1.*": 8, f"*.{last}": 2})
    quantization = packed.quantization
    assert quantization is not None
    for index in range(11):
        for name in linears(facts.config):
            expected = 8 if index == 1 else 2 if name == last else 4
            assert quantization.bits_of(layer(facts.config, index) + name) == expected


def test_the_rules_in_the_file_also_match_what_servers_merge() -> None:
    rules = pack(ModelFacts(SMOLLM2), bits_of={"*.self_attn.*": 8}).config["quantization_config"]["dynamic"]
    bits = {
        name: [rule["bits"] for pattern, rule in rules.items() if re.match(pattern, f"model.layers.12.{name}")]
        for name in ("self_attn.q_proj", "self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")
    }
    assert list(bits.values()) == [[8], [8], [8], [], []]
    assert "dynamic" not in pack(ModelFacts(SMOLLM2), bits_of={"*.down_proj": 4}).config["quantization_config"]


def test_the_config_says_what_readers_ask_for() -> None:
    config = pack(ModelFacts(SMOLLM2), symmetric=True).config["quantization_config"]
    assert config["quant_method"] == config["checkpoint_format"] == "gptq"
    assert (config["bits"], config["group_size"], config["sym"], config["desc_act"]) == (4, 64, True, False)


@pytest.mark.parametrize(
    ("config", "settings", "sentence"),
    [
        ({}, {"bits": 5}, "quantize.x: bits=5 is not supported; possible: 2, 3, 4, 8"),
        ({}, {"bits_of": {"*": 5}}, "quantize.x: bits=5 is not supported; possible: 2, 3, 4, 8"),
        (
            {},
            {"bits_of": {"*.down": 8}},
            r"bits_of='\*.down' matches no linear; their names are layers.N.self_attn.q_proj \(also .*\), N from 0",
        ),
        (
            {},
            {"bits_of": {"*.k_proj": 8}},
            "in layer 0, bits_of gives self_attn.q_proj 4 bits, self_attn.k_proj 8 bits.* give all of them the same",
        ),
        (
            {"head_dim": 16},
            {"bits": 3, "group_size": 16},
            "q_proj has 144 outputs; the packed format of 3 bits needs a multiple of 32",
        ),
        (
            {},
            {"group_size": 128},
            "group_size=128 does not divide the 576 inputs of self_attn.q_proj; .* fit: -1, 16, 32, 64",
        ),
        ({"intermediate_size": 1496}, {}, "does not divide the 1496 inputs of mlp.down_proj; sizes that fit: -1$"),
        ({}, {"group_size": 48}, "group_size=48 is not one that readers of the format know"),
        (
            {"num_key_value_heads": 3, "head_dim": 24},
            {"group_size": 16},
            "does not divide the 216 inputs of self_attn.o",
        ),
        (
            {"intermediate_size": 64, "num_key_value_heads": 1, "head_dim": 4, "num_attention_heads": 16},
            {},
            "4 outputs",
        ),
    ],
)
def test_what_does_not_fit_is_a_sentence(config: dict[str, Any], settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        pack(ModelFacts({**SMOLLM2, **config}), **settings)


def test_a_quantized_model_is_not_quantized_again() -> None:
    with pytest.raises(BadInput, match="already quantized to 4 bits"):
        pack(pack(ModelFacts(SMOLLM2)))
