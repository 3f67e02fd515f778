"""Linears that compute on their quantization grid while the weights behind it learn (quantization-aware training).

Legend of shapes: O out features, I in features, G groups of consecutive inputs, S group size.

The forward multiplies by exactly what the packed file would hold: ``(code - zero) * scale`` with fp16 scales, rounded
once to the dtype of the input. The backward passes the gradient of those values straight to the weights, as if
rounding were the identity, where the grid reaches, and not at all beyond its ends (Bengio et al., arXiv 1308.3432).
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from attar import architecture
from attar.facts import Quantization
from attar.grid import SMALLEST, Grid, find_grid
from attar.model import Model
from attar.packed import PackedLinear


class StraightThroughLinear(nn.Module):
    """A linear that is quantized in every forward.

    ``weight`` [O, I] and ``scales`` [G, O] are fp32 parameters. ``weight`` is measured in steps of the grid, so that
    one learning rate suits all groups, and a scale that learns moves all values of its group and no integer: its
    gradient is that of a packed model's scales. The zero points are integers and stay.

    With ``recomputed`` the grid spans the weights of each group anew in every forward (LLM-QAT, arXiv 2305.17888).
    Then ``weight`` is measured as ever, and the scales do not learn.

    Args:
        weight_OI: where the weights start.
        grid: where the grid starts.
        bias: [O] or None.
        symmetric: only for recomputed grids: whether they have their zero point in the middle.
        recomputed: whether the grid follows the weights.
        transposed: whether the dense form stores its weight as [I, O] (transformers' Conv1D).
    """

    zeros: Tensor

    def __init__(
        self,
        weight_OI: Tensor,
        grid: Grid,
        bias: Tensor | None,
        symmetric: bool = False,
        recomputed: bool = False,
        transposed: bool = False,
    ) -> None:
        super().__init__()
        self.bits = grid.bits
        self.group_size = grid.group_size
        self.symmetric = symmetric
        self.recomputed = recomputed
        self.transposed = transposed
        self.scales = nn.Parameter(grid.scales.float(), requires_grad=False)
        self.register_buffer("zeros", grid.zeros)
        weight = weight_OI.float().clone() if recomputed else _in_steps(weight_OI.float(), self.scales.detach())
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)

    @torch.no_grad()
    def grid(self) -> Grid:
        """The grid of the next forward, as a file holds it."""
        if self.recomputed:
            return find_grid(self.weight.detach(), self.bits, self.group_size, self.symmetric, mse=False)
        return Grid(_storable(self.scales.detach()).half(), self.zeros, self.bits, self.group_size)

    @torch.no_grad()
    def codes(self) -> Tensor:
        """The integers of the next forward, uint8 [O, I]."""
        grid = self.grid()
        levels_OGS, _ = _levels(self._steps(grid), grid.zeros, grid.top)
        return levels_OGS.add_(_spread(grid.zeros)).to(torch.uint8).view_as(self.weight)

    def packed(self, dtype: torch.dtype) -> PackedLinear:
        """The same linear as integers and scales."""
        grid = self.grid()
        bias = None if self.bias is None else self.bias.detach()
        return PackedLinear.from_codes(self.codes(), grid.scales, grid.zeros, bias, self.bits, self.group_size, dtype)

    def dense(self) -> nn.Module:
        """The same linear as ordinary weights (fp32) that lie on the grid, stored as the family stores them."""
        rows, columns = self.weight.shape
        linear: Any
        with torch.device("meta"):
            linear = Conv1D(rows, columns) if self.transposed else nn.Linear(columns, rows, self.bias is not None)
        weight_OI = self.dequantize()
        linear.weight = nn.Parameter(weight_OI.t() if self.transposed else weight_OI, requires_grad=False)
        if self.bias is not None:
            linear.bias = nn.Parameter(self.bias.detach(), requires_grad=False)
        return linear  # type: ignore[no-any-return]

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weight [O, I] that the next forward multiplies by."""
        grid = self.grid()
        levels_OGS, _ = _levels(self._steps(grid).detach(), grid.zeros, grid.top)
        return _values(levels_OGS, grid.scales, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """``x @ values.T + bias`` for x [..., I]; gradients reach the input, weights, scales and bias."""
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        grid = self.grid()
        scales = grid.scales.float() if self.recomputed else self.scales
        y: Tensor = _StraightThrough.apply(  # type: ignore[no-untyped-call]
            x, self._steps(grid), scales, grid.zeros, grid.top
        )
        return y if self.bias is None else y + self.bias.to(x.dtype)

    def _steps(self, grid: Grid) -> Tensor:
        """The weight in steps of the grid."""
        return _in_steps(self.weight, grid.scales) if self.recomputed else self.weight

    def extra_repr(self) -> str:
        rows, columns = self.weight.shape
        return f"{columns}, {rows}, bits={self.bits}, group_size={self.group_size}"


def put_on_grid(
    student: nn.Module, source: Model, quantization: Quantization, mse: bool, recomputed: bool = False
) -> dict[str, StraightThroughLinear]:
    """Exchange all linears of a model's layers, in place; returns them by full name.

    Args:
        student: ``source``, materialized. Packed linears go on from their weights and grid, dense ones from the
            weights as stored and the grid found for them.
        quantization: the grid of dense ones.
        mse: how it is found (:func:`attar.grid.find_grid`).
        recomputed: see :class:`StraightThroughLinear`.
    """
    found: dict[str, StraightThroughLinear] = {}
    config = source.facts.config
    transposed = tuple(f".{inner}" for inner in architecture.transposed(config))
    for name in architecture.linear_modules(config):
        old: Any = student.get_submodule(name)
        lies_transposed = name.endswith(transposed)
        if isinstance(old, PackedLinear):
            weight, grid = old.dequantize(), Grid(old.scales.detach().half(), old.zeros, old.bits, old.group_size)
        else:
            weight = source.tensor(f"{name}.weight").to(old.weight.device, torch.float32)
            weight = weight.t().contiguous() if lies_transposed else weight
            bits, group_size = quantization.bits_of(name), quantization.group_of(weight.shape[1])
            grid = find_grid(weight, bits, group_size, quantization.symmetric, mse)
        found[name] = StraightThroughLinear(weight, grid, old.bias, quantization.symmetric, recomputed, lies_transposed)
        student.set_submodule(name, found[name])
    return found


def _spread(grid_GO: Tensor) -> Tensor:
    """One value a group → fp32 [O, G, 1]."""
    return grid_GO.float().t().unsqueeze(-1)


def _storable(scales_GO: Tensor) -> Tensor:
    return scales_GO.float().clamp(min=SMALLEST).half().float()


def _in_steps(weight_OI: Tensor, scales_GO: Tensor) -> Tensor:
    scales_OG1 = _spread(_storable(scales_GO))
    return (weight_OI.view(*scales_OG1.shape[:2], -1) / scales_OG1).view_as(weight_OI)


def _levels(steps_OI: Tensor, zeros_GO: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """Codes less zero points [O, G, S], in fp32, and where the grid reaches."""
    zeros_OG1 = _spread(zeros_GO)
    rounded_OGS = torch.round(steps_OI.view(*zeros_OG1.shape[:2], -1))
    levels_OGS = torch.clamp(rounded_OGS, -zeros_OG1, top - zeros_OG1)
    return levels_OGS, levels_OGS == rounded_OGS


def _values(levels_OGS: Tensor, scales_GO: Tensor, dtype: torch.dtype) -> Tensor:
    return (levels_OGS * _spread(_storable(scales_GO))).to(dtype).flatten(1)


class _StraightThrough(torch.autograd.Function):
    """``x @ values(steps).T``; what the backward needs of the grid is made anew there instead of being kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, steps_OI: Tensor, scales_GO: Tensor, zeros_GO: Tensor, top: int) -> Tensor:
        ctx.save_for_backward(x, steps_OI, scales_GO, zeros_GO)
        ctx.top = top
        levels_OGS, _ = _levels(steps_OI, zeros_GO, top)
        return nn.functional.linear(x, _values(levels_OGS, scales_GO, x.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, steps_OI, scales_GO, zeros_GO = ctx.saved_tensors
        (grad,) = grads
        levels_OGS, inside_OGS = _levels(steps_OI, zeros_GO, ctx.top)
        grad_x = grad_steps = grad_scales = None
        if ctx.needs_input_grad[0]:
            grad_x = grad @ _values(levels_OGS, scales_GO, grad.dtype)
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            grad_OGS = (grad.flatten(0, -2).t() @ x.flatten(0, -2)).float().view_as(levels_OGS)
            if ctx.needs_input_grad[2]:
                grad_scales = (levels_OGS * grad_OGS).sum(-1).t().to(scales_GO.dtype)
            if ctx.needs_input_grad[1]:
                grad_steps = (grad_OGS * inside_OGS * _spread(_storable(scales_GO))).view_as(steps_OI)
        return grad_x, grad_steps, grad_scales, None, None
