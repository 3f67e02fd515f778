"""Attention for training on a CPU: plain matmuls, and nothing of the size [tokens × tokens] kept for the backward.

Shape suffixes: B batch, H query heads, G key/value heads, T tokens, K width of a head, R = T · H / G query rows that
share keys.

torch's fused attention takes, in its bf16 backward on a CPU, twice the time of the matmuls it consists of. Here each
window is taken by itself, so that its scores stay in cache, and the backward computes the probabilities once more.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

NAME = "attar_training"
LONGEST = 1024  # tokens of a window: the fused kernel's tiles win beyond it


@contextmanager
def quick_attention(*models: nn.Module | None, length: int, device: str) -> Iterator[None]:
    """Within the block, models of transformers attend by :func:`attend` where that is faster and the same.

    Only for whole windows without padding: positions from 0, every token sees itself and what came before.
    """
    configs: list[Any] = [model.config for model in models if model is not None]
    windows = [getattr(config, "sliding_window", None) or length for config in configs]
    capped = any(getattr(config, "attn_logit_softcapping", None) for config in configs)
    if device != "cpu" or length > LONGEST or min(windows, default=length) < length or capped:
        yield
        return
    AttentionInterface.register(NAME, _of_transformers)
    before = [config._attn_implementation for config in configs]
    try:
        for config in configs:
            config._attn_implementation = NAME
        yield
    finally:
        for config, name in zip(configs, before, strict=True):
            config._attn_implementation = name


def attend(q_BHTK: Tensor, k_BGTK: Tensor, v_BGTK: Tensor, scale: float) -> Tensor:
    """Causal attention with grouped heads [B, H, T, K]; differentiable in all three."""
    batch, heads, length, width = q_BHTK.shape
    groups = k_BGTK.shape[1]
    # The queries of one group lie below each other, so that keys and values are never repeated.
    q_BGRK = q_BHTK.reshape(batch, groups, heads // groups * length, width)
    mask_RT = _mask(length, heads // groups, q_BHTK.dtype)
    mixed: Tensor = _Causal.apply(  # type: ignore[no-untyped-call]
        q_BGRK, k_BGTK.contiguous(), v_BGTK.contiguous(), mask_RT, scale
    )
    return mixed.view(batch, heads, length, width)


def _of_transformers(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    **_: Any,
) -> tuple[Tensor, None]:
    """The signature transformers calls; gives [B, T, H, K]."""
    return attend(query, key, value, scaling).transpose(1, 2).contiguous(), None


class _Causal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q_BGRK: Tensor, k_BGTK: Tensor, v_BGTK: Tensor, mask_RT: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        out_BGRK = torch.empty_like(q_BGRK)
        for q_GRK, k_GTK, v_GTK, out_GRK in zip(q_BGRK, k_BGTK, v_BGTK, out_BGRK, strict=True):
            torch.matmul(_probabilities(q_GRK, k_GTK, mask_RT, scale), v_GTK, out=out_GRK)
        ctx.save_for_backward(mask_RT, out_BGRK, q_BGRK, k_BGTK, v_BGTK)
        return out_BGRK

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        mask_RT, out_BGRK, *inputs = ctx.saved_tensors
        # Σ_t p_t (upper · v_t), which the softmax takes off every slope, is upper · out.
        means_BGR1 = torch.linalg.vecdot(*upstream, out_BGRK).unsqueeze(-1)
        grads = tuple(torch.empty_like(tensor) for tensor in inputs)
        for q, k, v, upper, mean, grad_q, grad_k, grad_v in zip(*inputs, *upstream, means_BGR1, *grads, strict=True):
            p_GRT = _probabilities(q, k, mask_RT, ctx.scale)
            torch.matmul(p_GRT.mT, upper, out=grad_v)
            slope_GRT = upper @ v.mT
            slope_GRT.sub_(mean).mul_(p_GRT).mul_(ctx.scale)
            torch.matmul(slope_GRT, k, out=grad_q)
            torch.matmul(slope_GRT.mT, q, out=grad_k)
        return *grads, None, None


def _probabilities(q_GRK: Tensor, k_GTK: Tensor, mask_RT: Tensor, scale: float) -> Tensor:
    scores_GRT = (q_GRK @ k_GTK.mT).mul_(scale).add_(mask_RT)
    return scores_GRT.softmax(-1)


@lru_cache(maxsize=4)
def _mask(length: int, sharing: int, dtype: torch.dtype) -> Tensor:
    """[R, T]: 0 where a query may look, minus infinity where it may not."""
    hidden = torch.full((length, length), float("-inf"), dtype=dtype).triu(1)
    return hidden.repeat(sharing, 1)
