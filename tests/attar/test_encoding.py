"""What can be packed and what cannot, in sentences."""

from typing import Any

import pytest

from attar.encoding import packed_facts
from attar.errors import BadInput
from attar.facts import ModelFacts

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


def test_a_group_costs_its_codes_a_scale_and_a_zero_point() -> None:
    packed = pack(ModelFacts(SMOLLM2))
    body = sum(rows * columns for rows, columns in packed.packed_modules.values())
    norms = 30 * 2 * 576 * 2
    index = 4 * sum(columns for _, columns in packed.packed_modules.values())
    assert packed.weight_bytes()["body"] == body // 2 + body // 64 * 5 // 2 + norms + index
    assert packed.parameters == ModelFacts(SMOLLM2).parameters


def test_the_config_says_what_readers_ask_for() -> None:
    config = pack(ModelFacts(SMOLLM2), symmetric=True).config["quantization_config"]
    assert config["quant_method"] == config["checkpoint_format"] == "gptq"
    assert (config["bits"], config["group_size"], config["sym"], config["desc_act"]) == (4, 64, True, False)


@pytest.mark.parametrize(
    ("config", "settings", "sentence"),
    [
        ({}, {"bits": 3}, "quantize.x: bits=3 is not supported; possible: 4"),
        (
            {},
            {"group_size": 128},
            "group_size=128 does not divide the 576 inputs of self_attn.q_proj; .* fit: 16, 32, 64",
        ),
        ({"intermediate_size": 1496}, {}, "does not divide the 1496 inputs of mlp.down_proj; no size fits"),
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
