"""GPTQ: integers that keep the outputs on calibration text, not the weights (arXiv:2210.17323)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from attar.architecture import linears, shared_inputs
from attar.facts import ModelFacts
from attar.packing_settings import PackingSettings
from attar.stream_memory import stream_memory
from stages.base import Context, Cost, Stage, Use

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

    from attar.gptq import Hessian, Rounded
    from attar.grid import Grid
    from attar.layerwise import Found
    from attar.model import Model
    from attar.stream import LayerStream, StreamedLayer
    from attar.writer import Writer

HESSIAN_SHARE = 0.6  # of the products in a Hessian that are computed, the matrix being symmetric
FP32_COST = 4  # time of an operation in fp32 over one in bf16
SEARCH = 4000  # operations' worth of time that the clip search takes a weight


class Gptq(PackingSettings, Stage):
    """Few-bit integers by second-order rounding, each linear with inputs from all that are quantized before it.

    With ``H = 2/n sum(x x^T)`` over a linear's inputs, weights are rounded one input at a time and the inputs still
    to come make up for each error (the solver is :func:`attar.gptq.solve`). q, k and v share a Hessian and are solved
    together, gate and up as well. The clip search weights squared errors with the root of the Hessian's diagonal. All
    linears of the layers are packed in the standard GPTQ format; embedding, head and norms stay dense.

    Memory holds one layer, and the activations of all calibration windows within it: two bytes times their tokens
    times the FFN's width (three times that where gate and up are one linear) plus three times the hidden width.
    """

    stage: Literal["quantize.gptq"] = "quantize.gptq"
    version: ClassVar[int] = 4
    uses: ClassVar[frozenset[Use]] = frozenset({"calibration"})

    act_order: Annotated[
        bool, Field(description="round the inputs with the largest Hessian diagonal first (groups stay in place)")
    ] = True
    damping: Annotated[
        float,
        Field(
            gt=0,
            lt=1,
            description="share of the Hessian's mean diagonal that is added to its diagonal; where it cannot be "
            "factored, more is added, and a warning says so",
        ),
    ] = 0.01
    windows: Annotated[int, Field(ge=1, le=65536, description="calibration windows")] = 64
    length: Annotated[int, Field(ge=8, le=32768, description="tokens in a calibration window")] = 512

    def plan(self, facts: ModelFacts) -> ModelFacts:
        return self.packed(facts, self.stage, {"method": "gptq", "act_order": self.act_order, "damping": self.damping})

    def cost(self, facts: ModelFacts, teacher: ModelFacts) -> Cost:
        tokens = self.windows * self.length
        flops, solving = 2.0 * facts.body_parameters * tokens, [0]
        for names in shared_inputs(facts.config):
            rows = sum(linears(facts.config)[name][0] for name in names)
            columns = linears(facts.config)[names[0]][1]
            flops += facts.layers * HESSIAN_SHARE * 2 * columns**2 * tokens * FP32_COST
            flops += facts.layers * (6 * columns * rows + 2 * columns**2) * columns * FP32_COST
            flops += facts.layers * rows * columns * SEARCH * self.mse
            # the Hessian, twice more while it is factored; of a weight: itself, what is left of it, codes, differences
            solving.append(3 * 4 * columns**2 + 17 * rows * columns)
        return Cost(flops=flops, memory=stream_memory(facts, tokens, max(solving)))

    def tokens(self) -> dict[Literal["train", "calibration"], tuple[int, int]]:
        return {"calibration": (self.windows, self.length)}

    def apply(self, source: Model, out: Writer, context: Context) -> None:
        from attar.layerwise import quantize_layers
        from attar.stream import LayerStream

        windows = context.data.windows(
            "calibration", source.tokenizer_file, self.windows, self.length, seed=context.seed
        )
        stream = LayerStream(source, windows, context.torch_dtype, context.device)
        lost, lost_to_nearest = 0.0, 0.0

        def quantize(layer: StreamedLayer) -> Iterator[Found]:
            nonlocal lost, lost_to_nearest
            error = nearest = 0.0
            for name, codes, grid, rounded in self._quantize(layer, stream, context):
                error += float(rounded.errors.sum())
                nearest += float(rounded.nearest_errors.sum())
                yield name, codes, grid
            lost, lost_to_nearest = lost + error, lost_to_nearest + nearest
            context.report("gptq/error_ratio", error / max(nearest, 1e-30), layer.index)

        quantize_layers(stream, out, quantize, context.progress, context.cancelled)
        context.log(f"GPTQ left {lost / max(lost_to_nearest, 1e-30):.1%} of the output error of rounding to nearest")

    def _quantize(
        self, layer: StreamedLayer, stream: LayerStream, context: Context
    ) -> Iterator[tuple[str, torch.Tensor, Grid, Rounded]]:
        """Codes and grid of each linear of a layer, as the hidden states come to it, with the errors of its rows."""
        from attar.gptq import Hessian

        shared = {names[0]: names for names in shared_inputs(stream.config)}
        hessians: dict[str, Hessian] = {}

        def see(name: str, x_NI: torch.Tensor) -> None:
            if name not in hessians:
                hessians[name] = Hessian(x_NI.shape[1], context.device)
            hessians[name].add(x_NI)

        for first in layer.in_step(shared, see):
            yield from self._solve(layer, shared[first], hessians.pop(first), stream, context)

    def _solve(
        self, layer: StreamedLayer, names: tuple[str, ...], seen: Hessian, stream: LayerStream, context: Context
    ) -> Iterator[tuple[str, torch.Tensor, Grid, Rounded]]:
        """The linears of a layer that share an input, stacked."""
        import torch

        from attar.gptq import damped, solve
        from attar.grid import find_grid
        from attar.layerwise import weight_of

        promised = self.plan(stream.source.facts).quantization
        assert promised is not None
        weight = torch.cat([weight_of(stream, layer, name) for name in names])
        hessian = damped(seen.matrix(), self.damping)
        bits, group_size = promised.bits_of(layer.prefix + names[0]), promised.group_of(weight.shape[1])
        grid = find_grid(weight, bits, group_size, self.symmetric, self.mse, hessian.diagonal().sqrt())
        rounded = solve(weight, hessian, grid, self.act_order)
        if rounded.more_damping:
            told = f"{layer.prefix}{' and '.join(names)} needed {rounded.more_damping:g} more damping to be factored"
            context.log(told, level="warning")
        shapes, start = linears(stream.config), 0
        for name in names:
            rows = slice(start, start + shapes[name][0])
            yield name, rounded.codes[rows], grid.of_rows(rows), rounded.of_rows(rows)
            start = rows.stop
