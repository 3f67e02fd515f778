"""Laws of the attention that training uses: it is torch's, in value and in gradient."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from attar.attention import NAME, attend, quick_attention


@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (6, 2), (3, 1)])
def test_is_causal_attention(heads: int, groups: int) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v, upper = (
        torch.randn(2, n, 7, 5, generator=generator, dtype=torch.float64) for n in (heads, groups, groups, heads)
    )
    inputs = [t.requires_grad_() for t in (q, k, v)]
    found = attend(q, k, v, 0.3)
    expected = scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.3, enable_gqa=True)
    assert torch.allclose(found, expected, atol=1e-12)
    grads = zip(torch.autograd.grad(found, inputs, upper), torch.autograd.grad(expected, inputs, upper), strict=True)
    assert all(torch.allclose(one, other, atol=1e-12) for one, other in grads)


def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, vocab_size=64,
        num_attention_heads=4, num_key_value_heads=2,
    )  # fmt: skip
    return LlamaForCausalLM(config).double().eval()


def test_a_model_computes_the_same_with_it_and_is_left_as_it_was() -> None:
    model = llama()
    ids = torch.randint(64, (3, 20))
    before, expected = model.config._attn_implementation, model(input_ids=ids).logits
    with quick_attention(model, None, length=20, device="cpu"):
        assert model.config._attn_implementation == NAME
        found = model(input_ids=ids, use_cache=False).logits
    assert torch.allclose(found, expected, atol=1e-9)
    assert model.config._attn_implementation == before


def test_stays_away_where_it_is_not_the_same_or_not_faster() -> None:
    sliding = MistralForCausalLM(
        MistralConfig(hidden_size=32, num_hidden_layers=1, intermediate_size=48, vocab_size=64,
                      num_attention_heads=4, num_key_value_heads=2, sliding_window=8)
    )  # fmt: skip
    for model, length, device in ((sliding, 20, "cpu"), (llama(), 5000, "cpu"), (llama(), 20, "cuda")):
        with quick_attention(model, length=length, device=device):
            assert model.config._attn_implementation != NAME
    with quick_attention(sliding, length=8, device="cpu"):
        assert sliding.config._attn_implementation == NAME
