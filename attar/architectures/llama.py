"""Llama (SmolLM2 as well), Mistral, Qwen2 and Qwen3: gated FFN, grouped-query attention, RMSNorm, rotary positions."""

from collections.abc import Mapping
from typing import Any

from attar.architectures.family import Family, Linear, Norm

BEFORE = (Norm("input_layernorm"), Norm("post_attention_layernorm"))
QK_NORM = (Norm("self_attn.q_norm", "head"), Norm("self_attn.k_norm", "head"))


def separate(
    qkv_bias: bool | str = False, o_bias: bool | str = False, mlp_bias: bool | str = False
) -> tuple[tuple[Linear, ...], ...]:
    """The seven linears of a layer in which no two are fused."""
    return (
        (
            Linear("self_attn.q_proj", ("query",), "hidden", qkv_bias),
            Linear("self_attn.k_proj", ("key",), "hidden", qkv_bias),
            Linear("self_attn.v_proj", ("key",), "hidden", qkv_bias),
        ),
        (Linear("self_attn.o_proj", ("hidden",), "query", o_bias),),
        (
            Linear("mlp.gate_proj", ("ffn",), "hidden", mlp_bias),
            Linear("mlp.up_proj", ("ffn",), "hidden", mlp_bias),
        ),
        (Linear("mlp.down_proj", ("hidden",), "ffn", mlp_bias),),
    )


def upper_layers_slide(config: Mapping[str, Any]) -> list[str] | None:
    """Qwen: layers from ``max_window_layers`` on slide, where sliding is on."""
    if not config.get("use_sliding_window") or config.get("sliding_window") is None:
        return None
    full = config["max_window_layers"]
    return ["sliding_attention" if i >= full else "full_attention" for i in range(config["num_hidden_layers"])]


LLAMA = Family(
    linears=separate("attention_bias", "attention_bias", "mlp_bias"),
    norms=BEFORE,
    whole_heads=True,
)
MISTRAL = Family(
    linears=separate(),
    norms=BEFORE,
    defaults={"num_key_value_heads": 8, "sliding_window": 4096},
)
QWEN = {"num_key_value_heads": 32, "use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 28}
QWEN2 = Family(
    linears=separate(qkv_bias=True),
    norms=BEFORE,
    defaults=QWEN,
    layer_types=upper_layers_slide,
)
QWEN3 = Family(
    linears=separate("attention_bias", "attention_bias"),
    norms=QK_NORM + BEFORE,
    defaults={**QWEN, "head_dim": 128},
    layer_types=upper_layers_slide,
)
