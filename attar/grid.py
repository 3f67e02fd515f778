"""Integer grids: one scale and one zero point for every group of consecutive inputs of an output row.

Legend of shapes: O out features, I in features, G groups (= I / group size), S group size.
"""

from dataclasses import dataclass

import torch

NORM = 2.4  # exponent of the clip search: above 2, so that large weights keep more of their accuracy (GPTQ's choice)
SMALLEST = 2.0**-24  # smallest positive fp16: a group of zeros needs a scale, any will do
CHUNK = 1 << 20  # weights searched at once: small enough to stay in a cache
COARSE = tuple(1 - 0.05 * i for i in range(17))  # share of the full range that is kept: 1, 0.95, … 0.2
FINE = tuple(0.01 * i for i in (-4, -3, -2, -1, 1, 2, 3, 4))  # tried around the best coarse share


@dataclass(frozen=True)
class Grid:
    """``weight = (code - zero) * scale``: scales_GO fp16, zeros_GO uint8 within 1 … 2**bits - 1."""

    scales: torch.Tensor
    zeros: torch.Tensor
    bits: int
    group_size: int

    @property
    def top(self) -> int:
        """The largest code."""
        return int(2**self.bits - 1)

    def of_inputs(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Scale and zero point of every single weight, transposed: two fp32 tensors [I, O]."""
        return (
            self.scales.float().repeat_interleave(self.group_size, dim=0),
            self.zeros.float().repeat_interleave(self.group_size, dim=0),
        )


def find_grid(weight_OI: torch.Tensor, bits: int, group_size: int, symmetric: bool, mse: bool) -> Grid:
    """The grid of a weight matrix.

    Without ``mse`` the grid spans each group's range. With it, the range is shrunk to the share in 0.2 … 1 whose
    rounding error, summed as ``|error| ** 2.4`` over the group, is least (Frantar et al., GPTQ, arXiv:2210.17323):
    a coarse pass over the shares, then a fine one around the best, and for asymmetric grids the neighbouring zero
    points.

    A symmetric grid has its zero point in the middle, at ``2 ** (bits - 1)``. Zero points stay above 0, because the
    file format stores them less one.

    Args:
        weight_OI: any float dtype; ``group_size`` divides I.
    """
    rows, columns = weight_OI.shape
    groups = columns // group_size
    flat = weight_OI.float().reshape(rows * groups, group_size)
    found = [_search(part, bits, symmetric, mse) for part in torch.split(flat, max(1, CHUNK // group_size))]
    scales = torch.cat([scale for scale, _ in found]).view(rows, groups)
    zeros = torch.cat([zero for _, zero in found]).view(rows, groups)
    return Grid(scales.t().contiguous().half(), zeros.t().contiguous().to(torch.uint8), bits, group_size)


def round_to(weight_OI: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Codes (uint8 [O, I]) of the grid points nearest to the weights."""
    scales, zeros = grid.of_inputs()
    codes = torch.round(weight_OI.float() / scales.t()).add_(zeros.t()).clamp_(0, grid.top)
    return codes.to(torch.uint8)


def values(codes_OI: torch.Tensor, grid: Grid) -> torch.Tensor:
    """The weights that codes stand for: fp32 [O, I], exact."""
    scales, zeros = grid.of_inputs()
    return (codes_OI.float() - zeros.t()) * scales.t()


def _search(weight_NS: torch.Tensor, bits: int, symmetric: bool, mse: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and zero point of every group (fp32 [N]); the scales are fp16 numbers."""
    top = 2**bits - 1
    low = weight_NS.amin(1).clamp_(max=0)
    high = weight_NS.amax(1).clamp_(min=0)
    if symmetric:
        zeros = torch.full_like(low, 2 ** (bits - 1))
        full = torch.maximum(-low, high) * (2 / top)
    else:
        zeros = torch.round(-low * top / (high - low).clamp_(min=SMALLEST)).clamp_(1, top)
        full = _spanning(low, high, zeros, top)
    best_scales = _storable(full)
    if not mse:
        return best_scales, zeros

    best_errors = _errors(weight_NS, best_scales, zeros, top)
    best_zeros, best_shares = zeros, torch.ones_like(full)

    def offer(shares: torch.Tensor, of: torch.Tensor, candidates: torch.Tensor) -> None:
        nonlocal best_errors, best_scales, best_zeros, best_shares
        scales = _storable(of * shares)
        errors = _errors(weight_NS, scales, candidates, top)
        better = errors < best_errors
        best_errors = torch.where(better, errors, best_errors)
        best_scales = torch.where(better, scales, best_scales)
        best_zeros = torch.where(better, candidates, best_zeros)
        best_shares = torch.where(better, shares, best_shares)

    for share in COARSE[1:]:
        offer(torch.full_like(full, share), full, zeros)
    centre = best_shares
    for step in FINE:
        offer(centre + step, full, zeros)
    if not symmetric:
        centre = best_shares
        for shift in (-1, 1):
            candidates = (zeros + shift).clamp_(1, top)
            for step in (-0.02, 0.0, 0.02):
                offer(centre + step, full, candidates)
    return best_scales, best_zeros


def _spanning(low: torch.Tensor, high: torch.Tensor, zeros: torch.Tensor, top: int) -> torch.Tensor:
    """The least scale whose grid reaches from ``low`` to ``high``."""
    below = -low / zeros
    above = torch.where(zeros < top, high / (top - zeros).clamp(min=1), 0)
    return torch.maximum(below, above)


def _storable(scales: torch.Tensor) -> torch.Tensor:
    """Rounded to fp16 and above 0, as the file will hold them, in fp32."""
    return scales.half().float().clamp_(min=SMALLEST)


def _errors(weight_NS: torch.Tensor, scales_N: torch.Tensor, zeros_N: torch.Tensor, top: int) -> torch.Tensor:
    scale, zero = scales_N[:, None], zeros_N[:, None]
    levels = (weight_NS / scale).round_().clamp_(-zero, top - zero)
    return levels.mul_(scale).sub_(weight_NS).abs_().pow_(NORM).sum(1)
