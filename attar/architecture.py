"""What Attar knows of model families: which tensors a config implies and which part of a layer each one is.

Everything here is arithmetic on ``config.json``; nothing imports torch.
"""

from dataclasses import dataclass
from typing import Any, Mapping

from attar.errors import BadInput, nearest


@dataclass(frozen=True)
class Family:
    """A family of decoders with gated FFN, grouped-query attention and the module names of Llama."""

    qkv_bias: bool = False  # Qwen2 has biases on q, k and v only
    qk_norm: bool = False  # Qwen3 normalises every head of q and k
    # What transformers takes where a config does not say: None means hidden ÷ heads, and as many as there are heads.
    head_dim: int | None = None
    kv_heads: int | None = None


FAMILIES: dict[str, Family] = {
    "llama": Family(),
    "mistral": Family(kv_heads=8),
    "qwen2": Family(qkv_bias=True, kv_heads=32),
    "qwen3": Family(qk_norm=True, head_dim=128, kv_heads=32),
}

LAYERS = "model.layers"
EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
FINAL_NORM = "model.norm.weight"
ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
FFN = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")

REQUIRED = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")


def family(config: Mapping[str, Any]) -> Family:
    """The family of a config, or a sentence that lists the known ones."""
    kind = str(config.get("model_type"))
    if kind not in FAMILIES:
        raise BadInput(f"model_type {kind!r} in config.json is not supported; {nearest(kind, FAMILIES)}")
    missing = [key for key in REQUIRED if not isinstance(config.get(key), int)]
    if missing:
        raise BadInput(f"config.json of a {kind} model lacks the number {missing[0]!r}")
    return FAMILIES[kind]


def head_dim(config: Mapping[str, Any]) -> int:
    """Width of one attention head."""
    default = family(config).head_dim or config["hidden_size"] // config["num_attention_heads"]
    return int(config.get("head_dim") or default)


def kv_heads(config: Mapping[str, Any]) -> int:
    """Number of key/value heads; equals the number of heads where attention is not grouped."""
    absent = family(config).kv_heads if "num_key_value_heads" not in config else None
    return int(config.get("num_key_value_heads") or absent or config["num_attention_heads"])


def linears(config: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Names within a layer → (out features, in features) of the layer's seven linear modules."""
    hidden, ffn, dim = config["hidden_size"], config["intermediate_size"], head_dim(config)
    query, key = config["num_attention_heads"] * dim, kv_heads(config) * dim
    shapes = (
        (query, hidden),
        (key, hidden),
        (key, hidden),
        (hidden, query),
        (ffn, hidden),
        (ffn, hidden),
        (hidden, ffn),
    )
    return dict(zip(ATTENTION + FFN, shapes, strict=True))


def shared_inputs(config: Mapping[str, Any]) -> tuple[tuple[str, ...], ...]:
    """The linears of a layer by the input they share, in the order in which a layer runs them."""
    family(config)
    return (ATTENTION[:3], ATTENTION[3:], FFN[:2], FFN[2:])


def tensors(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names → shapes of all dense tensors that a checkpoint of this config holds."""
    kind = family(config)
    hidden, vocabulary, dim = config["hidden_size"], config["vocab_size"], head_dim(config)
    shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (vocabulary, hidden)}
    for index in range(config["num_hidden_layers"]):
        prefix = f"{LAYERS}.{index}."
        for name, (rows, columns) in linears(config).items():
            shapes[f"{prefix}{name}.weight"] = (rows, columns)
            attention_bias = bool(config.get("attention_bias")) and name in ATTENTION
            if attention_bias or (kind.qkv_bias and name in ATTENTION[:3]) or (config.get("mlp_bias") and name in FFN):
                shapes[f"{prefix}{name}.bias"] = (rows,)
        if kind.qk_norm:
            shapes[f"{prefix}self_attn.q_norm.weight"] = shapes[f"{prefix}self_attn.k_norm.weight"] = (dim,)
        shapes[f"{prefix}input_layernorm.weight"] = (hidden,)
        shapes[f"{prefix}post_attention_layernorm.weight"] = (hidden,)
    shapes[FINAL_NORM] = (hidden,)
    if not config.get("tie_word_embeddings"):
        shapes[HEAD] = (vocabulary, hidden)
    return shapes


def require_full_attention(config: Mapping[str, Any], length: int, stage: str) -> None:
    """Refuse calibration windows longer than the window a model attends over: they are computed with full attention."""
    window = config.get("sliding_window", 4096 if config.get("model_type") == "mistral" else None)
    if window and config.get("use_sliding_window", True) and length > window:
        raise BadInput(
            f"{stage}: length={length} is longer than the {window} tokens that the model's attention slides over; "
            f"the longest calibration window is {window}"
        )
