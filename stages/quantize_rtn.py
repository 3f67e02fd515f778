"""Round to nearest: every weight to the nearest point of its group's grid. No data; the baseline GPTQ must beat."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from attar.architecture import linears
from attar.facts import ModelFacts
from attar.packing_settings import PackingSettings
from attar.stream_memory import stream_memory
from stages.base import Context, Cost, Stage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from attar.layerwise import Found
    from attar.model import Model
    from attar.stream import StreamedLayer
    from attar.writer import Writer


class RoundToNearest(PackingSettings, Stage):
    """Few-bit integers without calibration: ``code = round(weight / scale) + zero`` within groups of inputs.

    All linears of the layers are packed in the standard GPTQ format; embedding, head and norms stay dense.
    """

    stage: Literal["quantize.rtn"] = "quantize.rtn"
    version: ClassVar[int] = 2

    def plan(self, facts: ModelFacts) -> ModelFacts:
        return self.packed(facts, self.stage, {"method": "rtn"})

    def cost(self, facts: ModelFacts, teacher: ModelFacts) -> Cost:
        searched = 8000 if self.mse else 50  # operations' worth of time that a weight takes
        largest = max(rows * columns for rows, columns in linears(facts.config).values())
        return Cost(flops=float(searched * facts.body_parameters), memory=stream_memory(facts, 0, 17 * largest))

    def apply(self, source: Model, out: Writer, context: Context) -> None:
        import numpy as np

        from attar.grid import find_grid, round_to
        from attar.layerwise import quantize_layers, weight_of
        from attar.stream import LayerStream

        promised = self.plan(source.facts).quantization
        assert promised is not None

        def quantize(layer: StreamedLayer) -> Iterator[Found]:
            for name, (_, columns) in linears(source.facts.config).items():
                weight = weight_of(stream, layer, name)
                bits, group_size = promised.bits_of(layer.prefix + name), promised.group_of(columns)
                grid = find_grid(weight, bits, group_size, self.symmetric, self.mse)
                yield name, round_to(weight, grid), grid

        no_windows = np.zeros((0, 1), dtype=np.int64)
        stream = LayerStream(source, no_windows, context.torch_dtype, context.device)
        quantize_layers(stream, out, quantize, context.progress, context.cancelled)
