"""Quantizes a streamed model layer by layer: what every quantizer shares once it has found the integers."""

from collections.abc import Callable, Iterator

import torch
from torch import nn

from attar import architecture
from attar.errors import Cancelled
from attar.grid import Grid, values
from attar.stream import LayerStream, StreamedLayer
from attar.writer import Writer

Found = tuple[str, torch.Tensor, Grid]  # module name within the layer, codes uint8 [out, in], grid
Quantize = Callable[[StreamedLayer], Iterator[Found]]


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
        quantize: yields the integers of all linears of a layer; before it goes on, the layer computes with them.

    Raises:
        Cancelled: between two layers, when ``cancelled()`` says so.
    """
    for layer in stream:
        if cancelled():
            raise Cancelled("stopped while quantizing; nothing was stored")
        found: dict[str, tuple[torch.Tensor, Grid]] = {}
        for name, codes, grid in quantize(layer):
            out.packed(layer.prefix + name, codes, grid.scales, grid.zeros)
            _put(layer.module, name, codes, grid, stream.dtype)
            found[name] = (codes, grid)
        for name, (codes, grid) in found.items():
            _put(layer.module, name, codes, grid, torch.float32)  # exact, for the probe
        weights = {f"{name}.weight" for name in found}
        for name in architecture.axes_of_layer(stream.config):
            if name not in weights:
                out.tensor(layer.prefix + name, stream.source.tensor(layer.prefix + name))
        progress(layer.index + 1, len(stream), "layers")
    for name, tensor in stream.rest():
        out.tensor(name, tensor)
    out.probe(stream.logits())


def weight_of(stream: LayerStream, layer: StreamedLayer, name: str) -> torch.Tensor:
    """The weight of a linear as [out, in] in fp32, however the family stores it."""
    weight = stream.source.tensor(f"{layer.prefix}{name}.weight").to(stream.device, torch.float32)
    return weight.t().contiguous() if name in architecture.transposed(stream.config) else weight


def _put(layer: nn.Module, name: str, codes: torch.Tensor, grid: Grid, dtype: torch.dtype) -> None:
    """Let a linear of a layer compute with the weight that its integers stand for, rounded once to ``dtype``."""
    owner = layer.get_submodule(name)
    weight = values(codes, grid).to(dtype)
    owner.get_parameter("weight").data = weight if isinstance(owner, nn.Linear) else weight.t()
