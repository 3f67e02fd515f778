"""Quantizes a streamed model layer by layer: what every quantizer shares once it has found the integers."""

from collections.abc import Callable, Mapping

import torch
from torch import nn

from attar import architecture
from attar.errors import Cancelled
from attar.grid import Grid
from attar.packed import PackedLinear
from attar.stream import LayerStream, StreamedLayer
from attar.writer import Writer

Quantize = Callable[[StreamedLayer], Mapping[str, tuple[torch.Tensor, Grid]]]


def quantize_layers(
    stream: LayerStream,
    out: Writer,
    quantize: Quantize,
    progress: Callable[[int, int, str], None],
    cancelled: Callable[[], bool],
) -> None:
    """Run ``quantize`` on every layer and write the model.

    Args:
        stream: of the dense source. Later layers see the outputs of packed ones.
        quantize: layer → module name within it → (codes uint8 [out, in], grid), for all seven linears.

    Raises:
        Cancelled: between two layers, when ``cancelled()`` says so.
    """
    for layer in stream:
        if cancelled():
            raise Cancelled("stopped while quantizing; nothing was stored")
        found = quantize(layer)
        for name, (codes, grid) in found.items():
            out.packed(layer.prefix + name, codes, grid.scales, grid.zeros)
            _put(layer.module, name, codes, grid, stream.dtype)
        weights = {f"{layer.prefix}{name}.weight" for name in found}
        for full in architecture.tensors(stream.source.facts.config):
            if full.startswith(layer.prefix) and full not in weights:
                out.tensor(full, stream.source.tensor(full))
        progress(layer.index + 1, len(stream), "layers")
    for name, tensor in stream.rest():
        out.tensor(name, tensor)
    out.probe(stream.logits())


def _put(layer: nn.Module, name: str, codes: torch.Tensor, grid: Grid, dtype: torch.dtype) -> None:
    """Exchange a dense linear of a layer for its packed form."""
    parent, _, leaf = name.rpartition(".")
    owner = layer.get_submodule(parent)
    bias = getattr(owner, leaf).bias
    packed = PackedLinear.from_codes(codes, grid.scales, grid.zeros, bias, grid.bits, grid.group_size, dtype)
    setattr(owner, leaf, packed)
