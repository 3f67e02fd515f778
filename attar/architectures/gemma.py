"""Gemma 2 and Gemma 3 (text): norms before and after both halves of a layer, windows that slide in some layers.

The embedding is multiplied by the square root of the hidden width, norms scale by 1 + weight, and logits may be
squashed: ``cap · tanh(logits / cap)``.
"""

from collections.abc import Mapping
from typing import Any

from attar.architectures.family import Family, Norm
from attar.architectures.llama import QK_NORM, separate

AROUND = (
    Norm("input_layernorm"),
    Norm("post_attention_layernorm"),
    Norm("pre_feedforward_layernorm"),
    Norm("post_feedforward_layernorm"),
)


def bidirectional(config: Mapping[str, Any]) -> str | None:
    """Gemma as an encoder predicts no next token."""
    if config.get("use_bidirectional_attention"):
        return "use_bidirectional_attention is on, and Attar handles models that predict the next token"
    return None


def every(pattern: int, config: Mapping[str, Any]) -> list[str]:
    """All layers slide but every ``pattern``-th."""
    layers = config["num_hidden_layers"]
    return ["sliding_attention" if (i + 1) % pattern else "full_attention" for i in range(layers)]


DEFAULTS = {
    "num_key_value_heads": 4,
    "head_dim": 256,
    "tie_word_embeddings": True,
    "sliding_window": 4096,
}
GEMMA2 = Family(
    linears=separate("attention_bias", "attention_bias"),
    norms=AROUND,
    norm_offset=1.0,
    defaults={**DEFAULTS, "final_logit_softcapping": 30.0},
    refuses=(bidirectional,),
    layer_types=lambda config: every(2, config),
    whole_heads=True,
)
GEMMA3 = Family(
    linears=separate("attention_bias", "attention_bias"),
    norms=QK_NORM + AROUND,
    norm_offset=1.0,
    defaults=DEFAULTS,
    refuses=(bidirectional,),
    layer_types=lambda config: every(config.get("sliding_window_pattern", 6), config),
    whole_heads=True,
)
