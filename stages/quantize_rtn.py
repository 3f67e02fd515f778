"""Round to nearest: every weight to the nearest point of its group's grid. No data; the baseline GPTQ must beat."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from attar.architecture import linears
from attar.encoding import packed_facts
from attar.facts import ModelFacts
from stages.base import Context, Cost, Stage

if TYPE_CHECKING:
    import torch

    from attar.grid import Grid
    from attar.model import Model
    from attar.stream import StreamedLayer
    from attar.writer import Writer


class RoundToNearest(Stage):
    """INT4 without calibration: ``code = round(weight / scale) + zero`` within groups of inputs.

    All linears of the layers are packed in the standard GPTQ format; embedding, head and norms stay dense.
    """

    stage: Literal["quantize.rtn"] = "quantize.rtn"

    bits: Annotated[int, Field(description="bits of a weight; 4 is supported")] = 4
    group_size: Annotated[
        int, Field(ge=16, le=1024, description="inputs that share a scale and a zero point; divides every width")
    ] = 64
    symmetric: Annotated[
        bool, Field(description="zero point in the middle: some GPU kernels want it, it costs accuracy")
    ] = False
    mse: Annotated[
        bool, Field(description="shrink each group's range to where the rounding error (norm 2.4) is least")
    ] = True

    def plan(self, facts: ModelFacts) -> ModelFacts:
        details = {"method": "rtn", "mse": self.mse}
        return packed_facts(facts, self.stage, self.bits, self.group_size, self.symmetric, details)

    def cost(self, facts: ModelFacts, teacher: ModelFacts) -> Cost:
        searched = 2000 if self.mse else 50  # operations a weight
        layer = 4 * facts.body_parameters // facts.layers
        memory = 700_000_000 + 3 * layer + 8 * facts.vocabulary * facts.hidden
        return Cost(flops=float(searched * facts.body_parameters), memory=memory)

    def apply(self, source: Model, out: Writer, context: Context) -> None:
        import numpy as np

        from attar.grid import find_grid, round_to
        from attar.layerwise import quantize_layers, weight_of
        from attar.stream import LayerStream

        def quantize(layer: StreamedLayer) -> dict[str, tuple[torch.Tensor, Grid]]:
            found = {}
            for name in linears(source.facts.config):
                weight = weight_of(stream, layer, name)
                grid = find_grid(weight, self.bits, self.group_size, self.symmetric, self.mse)
                found[name] = (round_to(weight, grid), grid)
            return found

        no_windows = np.zeros((0, 1), dtype=np.int64)
        stream = LayerStream(source, no_windows, context.torch_dtype, context.device)
        quantize_layers(stream, out, quantize, context.progress, context.cancelled)
