"""A tiny random Llama with a real tokenizer: for the smoke recipe and for laws in tests, never for results."""

import json
from pathlib import Path
from typing import Any

import torch

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


def tiny_model(folder: Path, model_type: str = "llama", seed: int = 0, **config: Any) -> Path:
    """Write a random model of a supported family, with a byte-level BPE tokenizer, into ``folder``.

    Args:
        folder: created if missing.
        model_type: one of ``attar.architecture.FAMILIES``.
        seed: of the random weights.
        config: keys of ``config.json`` that differ from :data:`CONFIG`.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    settings = AutoConfig.for_model(model_type, **{**CONFIG, **config})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(settings, dtype=torch.bfloat16)
        # Zero biases and unit norms would hide errors of bookkeeping.
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(parameter, std=0.1)
            elif "norm" in name:
                torch.nn.init.normal_(parameter, mean=1.0, std=0.1)
    model.save_pretrained(folder)
    _tokenizer(settings.vocab_size).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<eos>"}) + "\n"
    )
    return folder


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
