"""What every quantizer relies on: whatever comes later sees the outputs of integers, within a layer as behind it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from attar.architecture import shared_inputs
from attar.grid import find_grid, round_to
from attar.layerwise import Found, quantize_layers, weight_of
from attar.model import Model
from attar.stream import LayerStream, StreamedLayer
from attar.tiny import tiny_model
from attar.writer import Writer
from stages.quantize_rtn import RoundToNearest


@torch.no_grad()
def inputs_of(model: Any, ids: torch.Tensor, names: list[str]) -> dict[str, torch.Tensor]:
    """What enters the named modules in one run of the whole model, [tokens, in]."""
    found: dict[str, torch.Tensor] = {}
    for name in names:
        model.get_submodule(name).register_forward_pre_hook(
            lambda _, args, name=name: found.__setitem__(name, args[0].flatten(0, -2))
        )
    model(input_ids=ids, use_cache=False)
    return found


def test_every_linear_is_quantized_on_inputs_from_those_that_are(tmp_path: Path) -> None:
    source = Model(tiny_model(tmp_path / "model"))
    (tmp_path / "out").mkdir()
    out = Writer(tmp_path / "out", RoundToNearest(group_size=32).plan(source.facts), tokenizer_from=source.folder)
    ids = np.arange(60).reshape(3, 20)
    stream = LayerStream(source, ids, torch.float32, "cpu")
    shared = {names[0]: names for names in shared_inputs(stream.config)}
    seen: dict[str, list[torch.Tensor]] = {}

    def quantize(layer: StreamedLayer) -> Iterator[Found]:
        def see(name: str, x_NI: torch.Tensor) -> None:
            seen.setdefault(layer.prefix + name, []).append(x_NI.clone())

        for first in layer.in_step(shared, see):
            for name in shared[first]:
                weight = weight_of(stream, layer, name)
                grid = find_grid(weight, 4, 32, symmetric=False, mse=False)
                yield name, round_to(weight, grid), grid

    quantize_layers(stream, out, quantize, lambda *_: None, lambda: False)
    out.close()
    assert len(seen) == 4 * len(shared)
    names, tokens = list(seen), torch.from_numpy(ids)
    packed = inputs_of(Model(out.folder).materialize(torch.float32), tokens, names)
    dense = inputs_of(source.materialize(torch.float32), tokens, names)
    for name in names:
        found = torch.cat(seen[name])
        torch.testing.assert_close(found, packed[name], atol=1e-4, rtol=1e-4, msg=name)
        if name != names[0]:
            assert (found - dense[name]).norm() > 0.01 * dense[name].norm(), name
