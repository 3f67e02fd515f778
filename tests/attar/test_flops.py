"""FLOPs of a token: the formula beside torch's own counter, which counts the products that really run."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig

from attar.architectures import FAMILIES
from attar.checkpoint import read_facts
from attar.facts import ModelFacts
from attar.flops import flops_per_token
from attar.model import Model
from attar.tiny import tiny_model

LEFT = {None: ("use_sliding_window",), True: (), False: ()}  # out of a config beside the window
CONTEXT = 40  # beyond the sliding windows of the tiny models that have them


@torch.no_grad()
def counted(folder: Path) -> int:
    """FLOPs of the last of :data:`CONTEXT` tokens, the others' keys and values being kept."""
    model: Any = Model(folder).materialize(torch.float32)
    model.set_attn_implementation("eager")  # whose products the counter sees
    ids = torch.randint(0, 512, (1, CONTEXT), generator=torch.Generator().manual_seed(0))
    past = model(input_ids=ids[:, :-1], use_cache=True).past_key_values
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids[:, -1:], past_key_values=past, use_cache=True)
    counts = counter.get_flop_counts()
    rotary = {name for name in counts if name.rpartition(".")[2].startswith("rotary_emb")}  # angles of a position
    return int(sum(counts["Global"].values()) - sum(sum(counts[name].values()) for name in rotary))


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_formula_is_what_torch_counts(kind: str, tmp_path: Path) -> None:
    folder = tiny_model(tmp_path, kind, num_hidden_layers=2)
    assert flops_per_token(read_facts(folder), CONTEXT) == counted(folder)


@pytest.mark.parametrize("slides", [True, False, None])
@pytest.mark.parametrize("kind", FAMILIES)
def test_what_a_config_leaves_open_is_what_transformers_takes(kind: str, slides: bool | None) -> None:
    asked = {} if slides is None else {"use_sliding_window": slides}
    whole = AutoConfig.for_model(kind, **asked).to_dict()
    bare = {key: value for key, value in whole.items() if key not in ("sliding_window", "layer_types", *LEFT[slides])}
    context, seen = 10_000, []
    for index in range(whole[FAMILIES[kind].keys.layers]):
        of = whole.get("layer_types") or ["sliding_attention" if whole.get("sliding_window") else "full_attention"]
        seen.append(min(whole["sliding_window"], context) if of[index % len(of)] == "sliding_attention" else context)
    facts = ModelFacts(bare)
    attention = flops_per_token(facts, context) - flops_per_token(facts, 0)
    assert attention == 4 * facts.heads * facts.head_dim * sum(seen)


def test_fewer_channels_and_heads_are_fewer_operations(tmp_path: Path) -> None:
    narrow = tiny_model(tmp_path, intermediate_size=80, num_attention_heads=2, num_key_value_heads=1, head_dim=16)
    assert flops_per_token(read_facts(narrow), CONTEXT) == counted(narrow)


def test_a_published_model_by_hand() -> None:
    facts = ModelFacts(
        {
            "model_type": "llama",
            "hidden_size": 2048,
            "num_hidden_layers": 22,
            "num_attention_heads": 32,
            "num_key_value_heads": 4,
            "intermediate_size": 5632,
            "vocab_size": 32000,
            "tie_word_embeddings": False,
        }
    )
    linears = 22 * (2 * 2048 * 2048 + 2 * 2048 * 256 + 3 * 2048 * 5632)
    assert flops_per_token(facts, 512) == 2 * (linears + 2048 * 32000) + 22 * 4 * 2048 * 512
    quantized = facts.changed(quantization_config={"quant_method": "gptq", "bits": 4, "group_size": 128})
    assert flops_per_token(quantized, 512) == flops_per_token(facts, 512)  # the same products
