"""A tiny random model with a real tokenizer: for the smoke recipe and for laws in tests, never for results."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch

from attar.architectures import FAMILIES

CONFIG: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 192,
    "vocab_size": 512,
    "max_position_embeddings": 512,
    "initializer_range": 0.1,
    "tie_word_embeddings": True,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
# What else a family needs to be tiny: windows that slide within a test's, a scale of attention that fits the heads.
FAMILY: dict[str, dict[str, Any]] = {
    "gemma2": {"sliding_window": 16, "query_pre_attn_scalar": 16, "final_logit_softcapping": 1.0},
    "gemma3_text": {"sliding_window": 16, "query_pre_attn_scalar": 16, "sliding_window_pattern": 2},
    "opt": {"init_std": 0.1, "dropout": 0.0},
}


def tiny_model(folder: Path, model_type: str = "llama", seed: int = 0, **config: Any) -> Path:
    """Write a random model of a supported family, with a byte-level BPE tokenizer, into ``folder``.

    Args:
        folder: created if missing.
        model_type: one of ``attar.architecture.FAMILIES``.
        seed: of the random weights.
        config: keys of ``config.json`` that differ from :data:`CONFIG`, as Llama calls them or the family itself.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    family = FAMILIES[model_type]
    settings = AutoConfig.for_model(
        model_type, **_named(model_type, {**CONFIG, **FAMILY.get(model_type, {}), **config})
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(settings, dtype=torch.bfloat16)
        # Zero biases and unit norms would hide errors of bookkeeping.
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(parameter, std=0.1)
            elif parameter.ndim == 1:
                torch.nn.init.normal_(parameter, mean=1.0 - family.norm_offset, std=0.1)
    model.save_pretrained(folder)
    _tokenizer(settings.vocab_size).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<eos>"}) + "\n"
    )
    return folder


def _named(model_type: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Llama's config keys as the family calls them, without those it does not have."""
    ours, theirs = vars(FAMILIES["llama"].keys), vars(FAMILIES[model_type].keys)
    names = {key: theirs[number] for number, key in ours.items() if isinstance(key, str)}
    return {names.get(key, key): value for key, value in config.items() if names.get(key, key) is not None}


@cache
def _tokenizer(vocabulary: int) -> Any:
    """Byte-level BPE trained on Python's own help texts."""
    from pydoc_data.topics import topics

    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(topics.values(), trainer)
    return tokenizer
