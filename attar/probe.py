"""The probe: a few fixed tokens whose logits say whether two openings of a model are the same function."""

import numpy as np
import torch
from torch import nn

LENGTH = 64


def tokens(vocabulary: int) -> torch.Tensor:
    """Fixed pseudo-random token ids [1, 64], equal for all models of one vocabulary."""
    ids = np.random.default_rng(0).integers(0, vocabulary, size=(1, LENGTH))
    return torch.from_numpy(ids)


@torch.no_grad()
def logits(model: nn.Module, vocabulary: int) -> torch.Tensor:
    """fp32 logits [64, vocabulary] of a module on the probe, on the CPU."""
    device = next(model.parameters()).device
    out = model(input_ids=tokens(vocabulary).to(device), use_cache=False).logits
    result: torch.Tensor = out[0].float().cpu()
    return result
