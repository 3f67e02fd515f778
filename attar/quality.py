"""Quality of a causal language model on fixed windows: perplexity, calibration, and distance from the origin.

Logits exist only for a chunk of tokens at a time; the origin's are rebuilt from its last hidden states, which are
kept from its own measurement, so that the origin runs once however many models are compared with it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import exp, log

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from attar.calibration import calibration_error, confidently_wrong
from attar.model import softcap

CHUNK = 128  # tokens whose logits are in memory at once
BATCH_TOKENS = 4096


@dataclass(frozen=True)
class TokenScores:
    """Measures on every scored token, window after window [n · (t − 1)]."""

    loss: npt.NDArray[np.float64]  # nats
    confidence: npt.NDArray[np.float64]  # probability of the likeliest token
    right: npt.NDArray[np.bool_]  # whether that was the next one
    kl: npt.NDArray[np.float64] | None  # None where there is no reference to compare with
    agreed: npt.NDArray[np.float64] | None  # 1 where the origin's likeliest token is the same


@dataclass(frozen=True)
class TextQuality:
    """Measures on one text. ``kl`` and ``agreement`` are None where the vocabularies differ."""

    perplexity: float  # exp of the mean next-token loss, first token of each window not scored
    nats: float  # summed loss over the scored tokens
    scored_tokens: int
    kl: float | None  # mean KL(origin ‖ model) in nats per token
    agreement: float | None  # share of scored tokens with the origin's top-1
    calibration_error: float  # of the likeliest next token
    confidently_wrong: float  # share of scored tokens that the model was sure of and wrong about
    tokens: TokenScores = field(repr=False, compare=False)

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
    parts: dict[str, list[torch.Tensor]] = {name: [] for name in ("loss", "confidence", "right", "kl", "agreed")}
    for start in range(0, len(h), CHUNK):
        piece = slice(start, start + CHUNK)
        p = _log_probabilities(h[piece].to(device), head_VH, cap)
        wanted = targets[piece].to(device)
        sure, top = p.max(-1)
        parts["loss"].append(-p.gather(1, wanted[:, None])[:, 0].double())
        parts["confidence"].append(sure.double().exp())
        parts["right"].append(top == wanted)
        if r is not None and reference is not None:
            q = _log_probabilities(r[piece].to(device), reference.head_VH, reference.softcap)
            parts["kl"].append(functional.kl_div(p, q, reduction="none", log_target=True).sum(-1).double())
            parts["agreed"].append((top == q.argmax(-1)).double())
    found = {name: torch.cat(values).cpu().numpy() for name, values in parts.items() if values}
    tokens = TokenScores(found["loss"], found["confidence"], found["right"], found.get("kl"), found.get("agreed"))
    nats = float(tokens.loss.sum())
    quality = TextQuality(
        perplexity=exp(min(nats / targets.numel(), 700.0)),
        nats=nats,
        scored_tokens=targets.numel(),
        kl=0.0 if tokens.kl is None else max(float(tokens.kl.mean()), 0.0),
        agreement=1.0 if tokens.agreed is None else float(tokens.agreed.mean()),
        calibration_error=calibration_error(tokens.confidence, tokens.right),
        confidently_wrong=confidently_wrong(tokens.confidence, tokens.right),
        tokens=tokens,
    )
    return quality, hidden_NTH


def _log_probabilities(hidden_CH: torch.Tensor, head_VH: torch.Tensor, cap: float | None) -> torch.Tensor:
    logits_CV = functional.linear(hidden_CH, head_VH).float()
    if cap:
        logits_CV = torch.tanh(logits_CV / cap) * cap
    return functional.log_softmax(logits_CV, dim=-1)
