"""What a model loses without some of its layers, found in passes that hold one layer at a time.

Shape suffixes: N windows, T tokens of a window, D hidden, C tokens of a chunk, V vocabulary.
"""

from collections import deque
from collections.abc import Callable, Mapping
from math import pi
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from attar.divergence import divergence
from attar.stream import LayerStream

CHUNK = 128  # tokens whose logits are in memory at once

Distance = Callable[[Tensor, Tensor], Tensor]
Tick = Callable[[], None]


def block_influence(entering: Tensor, leaving: Tensor) -> Tensor:
    """1 − cos(entering, leaving) over the last dimension (ShortGPT, arXiv 2403.03853, eq. 1); 0 where nothing turns."""
    return 1 - functional.cosine_similarity(entering.float(), leaving.float(), dim=-1)


def angular_distance(entering: Tensor, leaving: Tensor) -> Tensor:
    """arccos(cos(entering, leaving)) / π over the last dimension, in [0, 1] (arXiv 2403.17887, eq. 5)."""
    cosine = functional.cosine_similarity(entering.float(), leaving.float(), dim=-1)
    return cosine.clamp(-1, 1).arccos() / pi


@torch.no_grad()
def turns(stream: LayerStream, span: int, distance: Distance, tick: Tick = lambda: None) -> list[float]:
    """How far each run of ``span`` layers turns the residual stream: one pass, ``span`` + 1 copies of the states.

    Returns:
        For every first place, the mean over all tokens of ``distance`` between what enters and what leaves the run.
    """

    def mean(entering_NTD: Tensor) -> float:
        parts = [distance(entering_NTD[a:b], stream.hidden[a:b]).double().sum() for a, b in stream.batches]
        return float(torch.stack(parts).sum()) / stream.hidden[..., 0].numel()

    found: list[float] = []
    entries: deque[Tensor] = deque()
    for _ in stream:
        if len(entries) == span:
            found.append(mean(entries.popleft()))
        entries.append(stream.hidden.clone())
        tick()
    return [*found, mean(entries[0])]


@torch.no_grad()
def shortened(stream: LayerStream, span: int, tick: Tick = lambda: None) -> dict[int, Tensor]:
    """Hidden states [N, T, D] behind the last layer without the ``span`` layers from each place on, by that place.

    One pass: a shortened chain branches off the whole one where its gap begins and joins in behind the gap, so what
    lies before a gap is computed once for all, and each layer is read once. ``stream.hidden`` becomes the states of the
    whole chain. Memory: the states once for every gap.
    """
    without: dict[int, Tensor] = {}
    for place, layer in enumerate(stream):
        for start, hidden_NTD in without.items():
            if start + span <= place:
                for a, b in stream.batches:
                    hidden_NTD[a:b] = stream.forward(layer.module, layer.index, hidden_NTD[a:b])
        if place + span <= len(stream):
            without[place] = stream.hidden.clone()
        tick()
    return without


@torch.no_grad()
def losses(
    stream: LayerStream,
    states: Mapping[int, Tensor],
    ids_NT: Tensor,
    whole_NTD: Tensor,
    measure: Literal["loss", "kl"],
) -> dict[int, float]:
    """What each of ``states`` [N, T, D] costs beside the unpruned model's ``whole_NTD``, in nats per token.

    ``loss`` is the rise of the next-token loss, ``kl`` the mean KL(unpruned ‖ shortened). Logits exist for a few
    tokens at a time, and those of the unpruned model once for all states.
    """
    project = stream.head(stream.device, stream.dtype)
    totals = dict.fromkeys(states, 0.0)
    count, length = ids_NT.shape
    for window in range(count):
        for start in range(0, length - 1, CHUNK):
            piece = slice(start, min(start + CHUNK, length - 1))
            labels_C = ids_NT[window, piece.start + 1 : piece.stop + 1].to(stream.device)
            whole_CV = project(whole_NTD[window, piece]).float()
            for key, hidden_NTD in states.items():
                short_CV = project(hidden_NTD[window, piece]).float()
                if measure == "kl":
                    totals[key] += float(divergence(whole_CV, short_CV).double().sum())
                else:
                    rise_C = _surprise(short_CV, labels_C) - _surprise(whole_CV, labels_C)
                    totals[key] += float(rise_C.double().sum())
    return {key: total / (count * (length - 1)) for key, total in totals.items()}


def _surprise(logits_CV: Tensor, labels_C: Tensor) -> Tensor:
    return functional.cross_entropy(logits_CV, labels_C, reduction="none")
