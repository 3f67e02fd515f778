"""Linears that compute on their quantization grid while the weights behind it learn (quantization-aware training).

Legend of shapes: O out features, I in features, G groups of consecutive inputs, S group size.

The forward multiplies by exactly what the packed file would hold: ``(code - zero) * scale`` with fp16 scales, rounded
once to the dtype of the input. The backward passes the gradient of those values straight to the weights, as if
rounding were the identity, where the grid reaches, and not at all beyond its ends (Bengio et al., arXiv 1308.3432).
"""

from typing import Any

import torch
from torch import Tensor, nn

from attar import architecture
from attar.facts import Quantization
from attar.grid import SMALLEST, Grid, find_grid, round_to
from attar.model import Model
from attar.packed import PackedLinear


class StraightThroughLinear(nn.Module):
    """A linear that is quantized in every forward.

    ``weight`` [O, I] and ``scales`` [G, O] are fp32 parameters. The scales' gradient is that of learned step sizes
    (LSQ, arXiv 1902.08153): rounded less exact level inside the grid, the last level beyond its ends. The zero points
    are integers and stay, unless the grid is recomputed from the weights in every forward.

    Args:
        weight_OI: where the weights start.
        grid: where the grid starts.
        bias: [O] or None.
        symmetric: only for recomputed grids: whether they have their zero point in the middle.
        recomputed: the grid spans the weights of each group anew in every forward; its scales do not learn.
    """

    zeros: Tensor

    def __init__(
        self, weight_OI: Tensor, grid: Grid, bias: Tensor | None, symmetric: bool = False, recomputed: bool = False
    ) -> None:
        super().__init__()
        self.bits = grid.bits
        self.group_size = grid.group_size
        self.symmetric = symmetric
        self.recomputed = recomputed
        self.weight = nn.Parameter(weight_OI.float().clone(), requires_grad=False)
        self.scales = nn.Parameter(grid.scales.float(), requires_grad=False)
        self.register_buffer("zeros", grid.zeros)
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)

    @torch.no_grad()
    def grid(self) -> Grid:
        """The grid of the next forward, as a file holds it."""
        if self.recomputed:
            return find_grid(self.weight.detach(), self.bits, self.group_size, self.symmetric, mse=False)
        scales = self.scales.detach().clamp(min=SMALLEST).half()
        return Grid(scales, self.zeros, self.bits, self.group_size)

    @torch.no_grad()
    def codes(self) -> Tensor:
        """The integers of the next forward, uint8 [O, I]."""
        return round_to(self.weight, self.grid())

    def packed(self, dtype: torch.dtype) -> PackedLinear:
        """The same linear as integers and scales."""
        grid = self.grid()
        bias = None if self.bias is None else self.bias.detach()
        codes = round_to(self.weight.detach(), grid)
        return PackedLinear.from_codes(codes, grid.scales, grid.zeros, bias, self.bits, self.group_size, dtype)

    def dense(self) -> nn.Linear:
        """The same linear as ordinary weights (fp32) that lie on the grid."""
        rows, columns = self.weight.shape
        with torch.device("meta"):
            linear = nn.Linear(columns, rows, bias=self.bias is not None)
        linear.weight = nn.Parameter(self.dequantize(), requires_grad=False)
        if self.bias is not None:
            linear.bias = nn.Parameter(self.bias.detach(), requires_grad=False)
        return linear

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weight [O, I] that the next forward multiplies by."""
        grid = self.grid()
        return _values(self.weight.detach(), grid.scales, grid.zeros, 2**self.bits - 1, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """``x @ values.T + bias`` for x [..., I]; gradients reach the input, weights, scales and bias."""
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        scales, zeros = self.scales, self.zeros
        if self.recomputed:
            grid = self.grid()
            scales, zeros = grid.scales.float(), grid.zeros  # type: ignore[assignment]
        y: Tensor = _StraightThrough.apply(  # type: ignore[no-untyped-call]
            x, self.weight, scales, zeros, 2**self.bits - 1
        )
        return y if self.bias is None else y + self.bias.to(x.dtype)

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
    for name in architecture.linear_modules(source.facts.config):
        old: Any = student.get_submodule(name)
        if isinstance(old, PackedLinear):
            weight, grid = old.dequantize(), Grid(old.scales.detach().half(), old.zeros, old.bits, old.group_size)
        else:
            weight = source.tensor(f"{name}.weight").to(old.weight.device, torch.float32)
            grid = find_grid(weight, quantization.bits, quantization.group_size, quantization.symmetric, mse)
        found[name] = StraightThroughLinear(weight, grid, old.bias, quantization.symmetric, recomputed)
        student.set_submodule(name, found[name])
    return found


def _levels(weight_OI: Tensor, scales_GO: Tensor, zeros_GO: Tensor, top: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Exact levels [O, G, S] (weight over scale), the rounded and clamped ones, and the scales [O, G, 1] as stored.

    The last tensor is true where the grid reaches.
    """
    scales_OG1 = scales_GO.clamp(min=SMALLEST).half().float().t().unsqueeze(-1)
    zeros_OG1 = zeros_GO.float().t().unsqueeze(-1)
    exact_OGS = weight_OI.view(*scales_OG1.shape[:2], -1) / scales_OG1
    rounded_OGS = torch.round(exact_OGS)
    levels_OGS = torch.clamp(rounded_OGS, -zeros_OG1, top - zeros_OG1)
    return exact_OGS, levels_OGS, scales_OG1, levels_OGS == rounded_OGS


def _values(weight_OI: Tensor, scales_GO: Tensor, zeros_GO: Tensor, top: int, dtype: torch.dtype) -> Tensor:
    _, levels_OGS, scales_OG1, _ = _levels(weight_OI, scales_GO, zeros_GO, top)
    return (levels_OGS * scales_OG1).to(dtype).view_as(weight_OI)


class _StraightThrough(torch.autograd.Function):
    """``x @ values(weight).T``; what the backward needs of the grid is made anew there instead of being kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_OI: Tensor, scales_GO: Tensor, zeros_GO: Tensor, top: int) -> Tensor:
        ctx.save_for_backward(x, weight_OI, scales_GO, zeros_GO)
        ctx.top = top
        return nn.functional.linear(x, _values(weight_OI, scales_GO, zeros_GO, top, x.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight_OI, scales_GO, zeros_GO = ctx.saved_tensors
        (grad,) = grads
        exact_OGS, levels_OGS, scales_OG1, inside_OGS = _levels(weight_OI, scales_GO, zeros_GO, ctx.top)
        grad_x = grad_weight = grad_scales = None
        if ctx.needs_input_grad[0]:
            grad_x = grad @ (levels_OGS * scales_OG1).to(grad.dtype).view_as(weight_OI)
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            product_OI = (grad.flatten(0, -2).t() @ x.flatten(0, -2)).to(weight_OI.dtype)
            product_OGS = product_OI.view_as(levels_OGS)
            if ctx.needs_input_grad[2]:
                slopes_OGS = torch.where(inside_OGS, levels_OGS - exact_OGS, levels_OGS)
                grad_scales = (slopes_OGS * product_OGS).sum(-1).t().to(scales_GO.dtype)
            if ctx.needs_input_grad[1]:
                grad_weight = (product_OGS * inside_OGS).view_as(weight_OI)
        return grad_x, grad_weight, grad_scales, None, None
