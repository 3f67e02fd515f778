"""GPTQ: integers that keep the outputs on calibration text, not the weights (arXiv:2210.17323)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from attar.architecture import linears, require_full_attention, shared_inputs
from attar.facts import ModelFacts
from attar.packing_settings import PackingSettings
from stages.base import Context, Cost, Stage, Use

if TYPE_CHECKING:
    import torch

    from attar.grid import Grid
    from attar.model import Model
    from attar.stream import StreamedLayer
    from attar.writer import Writer


class Gptq(PackingSettings, Stage):
    """Few-bit integers by second-order rounding, layer by layer, with inputs from the layers already quantized.

    With ``H = 2/n sum(x x^T)`` over a linear's inputs, weights are rounded one input at a time and the inputs still
    to come make up for each error (the solver is :func:`attar.gptq.solve`). q, k and v share a Hessian and are solved
    together, gate and up as well. All linears of the layers are packed in the standard GPTQ format; embedding, head
    and norms stay dense.
    """

    stage: Literal["quantize.gptq"] = "quantize.gptq"
    uses: ClassVar[frozenset[Use]] = frozenset({"calibration"})

    act_order: Annotated[
        bool, Field(description="round the inputs with the largest Hessian diagonal first (groups stay in place)")
    ] = True
    damping: Annotated[
        float, Field(gt=0, lt=1, description="share of the Hessian's mean diagonal that is added to its diagonal")
    ] = 0.05
    windows: Annotated[int, Field(ge=1, le=65536, description="calibration windows")] = 64
    length: Annotated[int, Field(ge=8, le=32768, description="tokens in a calibration window")] = 512

    def plan(self, facts: ModelFacts) -> ModelFacts:
        require_full_attention(facts.config, self.length, self.stage)
        return self.packed(
            facts, self.stage, {"method": "gptq", "act_order": self.act_order, "damping": self.damping}
        )

    def cost(self, facts: ModelFacts, teacher: ModelFacts) -> Cost:
        tokens = self.windows * self.length
        widths = {"qkv": facts.hidden, "o": facts.heads * facts.head_dim, "gate": facts.hidden, "down": facts.ffn}
        hessians = facts.layers * tokens * sum(2 * width**2 for width in widths.values())
        solving = facts.layers * sum(6 * columns**2 * rows for rows, columns in linears(facts.config).values())
        forwards = 2 * 2 * facts.body_parameters * tokens  # one pass to look at inputs, one to go on
        layer = 4 * facts.body_parameters // facts.layers
        memory = (
            700_000_000
            + 2 * tokens * facts.hidden
            + 8 * sum(width**2 for width in widths.values())
            + 6 * layer
            + 40 * 4096 * facts.ffn
            + 8 * facts.vocabulary * facts.hidden
        )
        return Cost(flops=float(hessians + solving + forwards), memory=memory)

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

        def quantize(layer: StreamedLayer) -> dict[str, tuple[torch.Tensor, Grid]]:
            nonlocal lost, lost_to_nearest
            found, error, nearest = self._quantize(layer, source, context)
            lost, lost_to_nearest = lost + error, lost_to_nearest + nearest
            context.report("gptq/error_ratio", error / max(nearest, 1e-30), layer.index)
            return found

        quantize_layers(stream, out, quantize, context.progress, context.cancelled)
        context.log(f"GPTQ left {lost / max(lost_to_nearest, 1e-30):.1%} of the output error of rounding to nearest")

    def _quantize(
        self, layer: StreamedLayer, source: Model, context: Context
    ) -> tuple[dict[str, tuple[torch.Tensor, Grid]], float, float]:
        """Codes and grids of a layer's linears, its output error, and what rounding to nearest would have left."""
        import torch

        from attar.gptq import Hessian, damped, solve
        from attar.grid import Grid, find_grid

        promised = self.plan(source.facts).quantization
        assert promised is not None
        groups = shared_inputs(source.facts.config)
        hessians: dict[str, Hessian] = {}
        for names in groups:
            width = layer.module.get_submodule(names[0]).in_features
            hessians[names[0]] = Hessian(int(width), context.device)  # type: ignore[arg-type]
        layer.inputs(hessians, lambda name, x_NI: hessians[name].add(x_NI))

        found: dict[str, tuple[torch.Tensor, Grid]] = {}
        error = nearest = 0.0
        for names in groups:
            parts = [source.tensor(f"{layer.prefix}{name}.weight") for name in names]
            weight = torch.cat(parts).to(context.device, torch.float32)
            bits, group_size = promised.bits_of(layer.prefix + names[0]), promised.group_of(weight.shape[1])
            grid = find_grid(weight, bits, group_size, self.symmetric, self.mse)
            rounded = solve(weight, damped(hessians.pop(names[0]).matrix(), self.damping), grid, self.act_order)
            error += float(rounded.errors.sum())
            nearest += float(rounded.nearest_errors.sum())
            sizes = [len(part) for part in parts]
            codes = torch.split(rounded.codes, sizes)
            scales, zeros = torch.split(grid.scales, sizes, dim=1), torch.split(grid.zeros, sizes, dim=1)
            for i, name in enumerate(names):
                found[name] = (codes[i], Grid(scales[i], zeros[i], bits, group_size))
        return found, error, nearest
