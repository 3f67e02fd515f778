"""GPT-2, OPT and GPT-NeoX (Pythia): LayerNorm with bias, plain FFN, as many key/value heads as heads.

Their configs have no ``head_dim``: transformers computes it as hidden width ÷ heads, so neither may change alone.
"""

from collections.abc import Mapping
from typing import Any

from attar.architectures.family import Family, Keys, Linear, Norm, Positions


def conv1d(name: str, outputs: tuple[Any, ...], inputs: Any) -> Linear:
    """GPT-2 stores its linears transposed."""
    return Linear(name, outputs, inputs, bias=True, transposed=True)


def cross_attention(config: Mapping[str, Any]) -> str | None:
    """A decoder that listens to an encoder is half a model."""
    return "add_cross_attention is on, so it is half of an encoder-decoder" if config["add_cross_attention"] else None


def unusual_opt(config: Mapping[str, Any]) -> str | None:
    """OPT-350m, and checkpoints older than its final norm."""
    if (config.get("word_embed_proj_dim") or config["hidden_size"]) != config["hidden_size"]:
        return "its embedding is narrower than its layers (project_in, project_out), as in opt-350m alone"
    usual = {"do_layer_norm_before": True, "_remove_final_layer_norm": False, "layer_norm_elementwise_affine": True}
    strange = [key for key, value in usual.items() if config.get(key, value) is not value]
    return f"{strange[0]}={config[strange[0]]!r} in config.json, which no OPT but the 350m has" if strange else None


GPT2 = Family(
    linears=(
        (conv1d("attn.c_attn", ("query", "key", "key"), "hidden"),),
        (conv1d("attn.c_proj", ("hidden",), "query"),),
        (conv1d("mlp.c_fc", ("ffn",), "hidden"),),
        (conv1d("mlp.c_proj", ("hidden",), "ffn"),),
    ),
    norms=(Norm("ln_1"), Norm("ln_2")),
    keys=Keys(
        layers="n_layer",
        hidden="n_embd",
        heads="n_head",
        kv_heads=None,
        head_dim=None,
        ffn="n_inner",
        positions="n_positions",
    ),
    layers="transformer.h",
    embedding="transformer.wte.weight",
    positions=Positions("transformer.wpe.weight"),
    final_norm="transformer.ln_f",
    norm_bias=True,
    defaults={"tie_word_embeddings": True, "n_positions": 1024, "add_cross_attention": False},
    ffn_factor=4,
    refuses=(cross_attention,),
    aliases=tuple((part, f"transformer.{part}") for part in ("h.", "wte.", "wpe.", "ln_f.")),
)

OPT = Family(
    linears=(
        (
            Linear("self_attn.q_proj", ("query",), "hidden", "enable_bias"),
            Linear("self_attn.k_proj", ("key",), "hidden", "enable_bias"),
            Linear("self_attn.v_proj", ("key",), "hidden", "enable_bias"),
        ),
        (Linear("self_attn.out_proj", ("hidden",), "query", "enable_bias"),),
        (Linear("fc1", ("ffn",), "hidden", "enable_bias"),),
        (Linear("fc2", ("hidden",), "ffn", "enable_bias"),),
    ),
    norms=(Norm("self_attn_layer_norm"), Norm("final_layer_norm")),
    keys=Keys(kv_heads=None, head_dim=None, ffn="ffn_dim", hidden_too=("word_embed_proj_dim",)),
    layers="model.decoder.layers",
    embedding="model.decoder.embed_tokens.weight",
    positions=Positions("model.decoder.embed_positions.weight", offset=2),
    final_norm="model.decoder.final_layer_norm",
    norm_bias=True,
    defaults={"tie_word_embeddings": True, "max_position_embeddings": 2048, "enable_bias": True},
    refuses=(unusual_opt,),
    aliases=(("decoder.", "model.decoder."),),
)

GPT_NEOX = Family(
    linears=(
        (Linear("attention.query_key_value", ("query", "key", "key"), "hidden", "attention_bias", interleaved=True),),
        (Linear("attention.dense", ("hidden",), "query", "attention_bias"),),
        (Linear("mlp.dense_h_to_4h", ("ffn",), "hidden", True),),
        (Linear("mlp.dense_4h_to_h", ("hidden",), "ffn", True),),
    ),
    norms=(Norm("input_layernorm"), Norm("post_attention_layernorm")),
    keys=Keys(kv_heads=None, head_dim=None),
    layers="gpt_neox.layers",
    embedding="gpt_neox.embed_in.weight",
    final_norm="gpt_neox.final_layer_norm",
    head="embed_out.weight",
    norm_bias=True,
    defaults={"attention_bias": True},
    whole_heads=True,
    aliases=(("lm_head.", "embed_out."),),
)
