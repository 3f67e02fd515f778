"""Cuts tensors to the parts of a model's dimensions that stay, whatever a family fuses or stores transposed."""

from collections.abc import Mapping
from typing import Any

import torch

from attar import architecture
from attar.architecture import Axis, Dims


def cut(tensor: torch.Tensor, dims: Dims, kept: Mapping[Axis, torch.Tensor], config: Mapping[str, Any]) -> torch.Tensor:
    """A tensor at the indices that stay.

    Args:
        tensor: as the family stores it.
        dims: what each of its dimensions stands for (``architecture.axes``).
        kept: axis → rising indices; an axis that is not named stays whole.
        config: of the model that the tensor is from.
    """
    size = architecture.sizes(config)
    for place, axes in enumerate(dims):
        if not kept.keys() & set(axes):
            continue
        offset, indices = 0, []
        for axis in axes:
            inside = kept[axis] if axis in kept else torch.arange(size[axis], device=tensor.device)
            indices.append(inside + offset)
            offset += size[axis]
        tensor = tensor.index_select(place, torch.cat(indices))
    return tensor
