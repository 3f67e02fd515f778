"""Quality of a causal language model on fixed windows: perplexity, and its distance from the origin.

Logits exist only for a chunk of tokens at a time; the origin's are rebuilt from its last hidden states, which are
kept from its own measurement, so that the origin runs once however many models are compared with it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import exp, log

import torch
from torch import nn
from torch.nn import functional

from attar.model import softcap

CHUNK = 128  # tokens whose logits are in memory at once
BATCH_TOKENS = 4096


@dataclass(frozen=True)
class TextQuality:
    """Measures on one text. ``kl`` and ``agreement`` are None where the vocabularies differ."""

    perplexity: float  # exp of the mean next-token loss, first token of each window not scored
    nats: float  # summed loss over the scored tokens
    scored_tokens: int
    kl: float | None  # mean KL(origin ‖ model) in nats per token
    agreement: float | None  # share of scored tokens with the origin's top-1

    def bits_per_byte(self, scored_bytes: int) -> float:
        """Loss in bits per byte of text, comparable across tokenizers."""
        return self.nats / log(2) / scored_bytes


@dataclass(frozen=True)
class Reference:
    """What remains of the origin: last hidden states [n, t, H], its head [V, H], the cap of its logits."""

    hidden_NTH: torch.Tensor
    head_VH: torch.Tensor
    softcap: float | None = None


@torch.no_grad()
def last_hidden(model: nn.Module, ids_NT: torch.Tensor, progress: Callable[[int], None]) -> torch.Tensor:
    """Hidden states after the final norm [n, t, H], in the model's dtype, on the CPU."""
    rows = max(1, BATCH_TOKENS // ids_NT.shape[1])
    device = next(model.parameters()).device
    parts = []
    for start in range(0, len(ids_NT), rows):
        batch = ids_NT[start : start + rows].to(device)
        parts.append(model.base_model(input_ids=batch, use_cache=False).last_hidden_state.cpu())  # type: ignore[operator]
        progress(batch.numel())
    return torch.cat(parts)


@torch.no_grad()
def measure_text(
    model: nn.Module,
    ids_NT: torch.Tensor,
    reference: Reference | None,
    progress: Callable[[int], None] = lambda _: None,
) -> tuple[TextQuality, torch.Tensor]:
    """Quality on windows of token ids [n, t], and the model's own hidden states [n, t, H].

    ``reference`` None means that the model is the origin itself: KL 0, agreement 1.
    """
    hidden_NTH = last_hidden(model, ids_NT, progress)
    head_VH, cap = model.get_output_embeddings().weight, softcap(model)  # type: ignore[operator]
    device = head_VH.device
    h = hidden_NTH[:, :-1].flatten(0, 1)
    r = reference.hidden_NTH[:, :-1].flatten(0, 1) if reference else None
    targets = ids_NT[:, 1:].flatten()
    nats = kl = agreed = 0.0
    for start in range(0, len(h), CHUNK):
        piece = slice(start, start + CHUNK)
        p = _log_probabilities(h[piece].to(device), head_VH, cap)
        nats -= float(p.gather(1, targets[piece, None].to(device)).double().sum())
        if r is not None and reference is not None:
            q = _log_probabilities(r[piece].to(device), reference.head_VH, reference.softcap)
            kl += float(functional.kl_div(p, q, reduction="none", log_target=True).sum(-1).double().sum())
            agreed += float((p.argmax(-1) == q.argmax(-1)).sum())
    count = targets.numel()
    quality = TextQuality(
        perplexity=exp(min(nats / count, 700.0)),
        nats=nats,
        scored_tokens=count,
        kl=max(kl, 0.0) / count if reference else 0.0,
        agreement=agreed / count if reference else 1.0,
    )
    return quality, hidden_NTH


def _log_probabilities(hidden_CH: torch.Tensor, head_VH: torch.Tensor, cap: float | None) -> torch.Tensor:
    logits_CV = functional.linear(hidden_CH, head_VH).float()
    if cap:
        logits_CV = torch.tanh(logits_CV / cap) * cap
    return functional.log_softmax(logits_CV, dim=-1)
