"""Configs as they are published, and files as older versions wrote them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from attar import architecture
from attar.checkpoint import WEIGHTS, read_facts
from attar.facts import ModelFacts
from attar.model import Model
from attar.tiny import tiny_model


def llama(kind: str, hidden: int, layers: int, heads: int, kv_heads: int, ffn: int, vocabulary: int) -> dict[str, Any]:
    numbers = (hidden, layers, heads, kv_heads, ffn, vocabulary)
    keys = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size")
    return {"model_type": kind, **dict(zip((*keys, "vocab_size"), numbers, strict=True))}


PUBLISHED: dict[str, tuple[dict[str, Any], int]] = {
    "SmolLM2-135M": (llama("llama", 576, 30, 9, 3, 1536, 49152) | {"tie_word_embeddings": True}, 134_515_008),
    "TinyLlama-1.1B": (llama("llama", 2048, 22, 32, 4, 5632, 32000) | {"tie_word_embeddings": False}, 1_100_048_384),
    "Mistral-7B": (llama("mistral", 4096, 32, 32, 8, 14336, 32000), 7_241_732_096),
    "Qwen2.5-0.5B": (llama("qwen2", 896, 24, 14, 2, 4864, 151936) | {"tie_word_embeddings": True}, 494_032_768),
    "Qwen3-0.6B": (
        llama("qwen3", 1024, 28, 16, 8, 3072, 151936) | {"tie_word_embeddings": True, "head_dim": 128},
        596_049_920,
    ),
    "Gemma-2-2B": (llama("gemma2", 2304, 26, 8, 4, 9216, 256000) | {"head_dim": 256}, 2_614_341_888),
    "Gemma-3-1B": (llama("gemma3_text", 1152, 26, 4, 1, 6912, 262144) | {"head_dim": 256}, 999_885_952),
    "Phi-3-mini": (llama("phi3", 3072, 32, 32, 32, 8192, 32064), 3_821_079_552),
    "Pythia-70M": (
        {
            "model_type": "gpt_neox",
            "hidden_size": 512,
            "num_hidden_layers": 6,
            "num_attention_heads": 8,
            "intermediate_size": 2048,
            "vocab_size": 50304,
            "max_position_embeddings": 2048,
        },
        70_426_624,
    ),
    "OPT-125M": (
        {
            "model_type": "opt",
            "hidden_size": 768,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "ffn_dim": 3072,
            "vocab_size": 50272,
            "max_position_embeddings": 2048,
            "word_embed_proj_dim": 768,
        },
        125_239_296,
    ),
    "GPT-2": (
        {
            "model_type": "gpt2",
            "n_embd": 768,
            "n_layer": 12,
            "n_head": 12,
            "vocab_size": 50257,
            "n_positions": 1024,
            "n_ctx": 1024,
        },
        124_439_808,
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs_give_the_published_number_of_parameters(name: str) -> None:
    config, parameters = PUBLISHED[name]
    assert ModelFacts(config).parameters == parameters


def test_positions_count_as_embeddings() -> None:
    config, _ = PUBLISHED["GPT-2"]
    sizes = ModelFacts(config).weight_bytes()
    assert sizes["embeddings"] == 2 * 768 * (50257 + 1024) and sizes["head"] == 0
    assert sizes["rest"] == 2 * 2 * 768


def test_layers_keep_their_kind_where_a_config_leaves_it_open() -> None:
    gemma2, gemma3 = PUBLISHED["Gemma-2-2B"][0], PUBLISHED["Gemma-3-1B"][0] | {"sliding_window_pattern": 6}
    sliding, full = "sliding_attention", "full_attention"
    kept = architecture.with_layers(gemma2, [0, 2, 3], "prune.depth")
    assert kept == {"num_hidden_layers": 3, "layer_types": [sliding, sliding, full]}
    assert architecture.with_layers(gemma3, [4, 5], "prune.depth")["layer_types"] == [sliding, full]
    qwen = PUBLISHED["Qwen2.5-0.5B"][0]
    assert architecture.with_layers(qwen, [0, 23], "prune.depth") == {"num_hidden_layers": 2}
    slides = qwen | {"use_sliding_window": True, "sliding_window": 128, "max_window_layers": 20}
    assert architecture.with_layers(slides, [0, 23], "prune.depth")["layer_types"] == [full, sliding]


def test_another_width_is_written_out_whole() -> None:
    """What a config had left to be computed from the hidden width must stay when that changes."""
    narrower = architecture.resized(PUBLISHED["Phi-3-mini"][0], "prune.width", hidden=2048)
    assert narrower["hidden_size"] == 2048 and narrower["head_dim"] == 96 and narrower["intermediate_size"] == 8192
    assert architecture.resized(PUBLISHED["GPT-2"][0], "prune.width", ffn=1024, heads=12) == {
        "n_inner": 1024,
        "n_head": 12,
    }


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox"])
def test_files_of_older_versions_are_read(tmp_path: Path, family: str) -> None:
    """Names without the model's prefix, and masks that were stored once."""
    folder = tiny_model(tmp_path, family, num_hidden_layers=1)
    before = Model(folder).materialize(torch.float32)
    tensors = {name.removeprefix("transformer."): tensor for name, tensor in load_file(folder / WEIGHTS).items()}
    tensors[f"{architecture.layer(read_facts(folder).config, 0)}attn.bias"] = torch.ones(4, 4).tril().bool()
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    after = Model(folder).materialize(torch.float32)
    ids = torch.arange(20)[None]
    assert torch.equal(before(input_ids=ids).logits, after(input_ids=ids).logits)
