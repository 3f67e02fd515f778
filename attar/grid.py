"""Integer grids: one scale and one zero point for every group of consecutive inputs of an output row.

Legend of shapes: O out features, I in features, G groups (= I / group size), S group size.
"""

from dataclasses import dataclass

import torch

NORM = 2.4  # exponent of the clip search without data: above 2, so that large weights keep more of their accuracy
SMALLEST = 2.0**-24  # smallest positive fp16: a group of zeros needs a scale, any will do
CHUNK = 1 << 17  # weights searched at once: small enough to stay in a cache
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

    def of_groups(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Scale and zero point of every group: two fp32 tensors [O, G, 1]."""
        return self.scales.float().t().unsqueeze(-1), self.zeros.float().t().unsqueeze(-1)

    def of_rows(self, rows: slice) -> "Grid":
        """The grid of some of the rows."""
        return Grid(self.scales[:, rows], self.zeros[:, rows], self.bits, self.group_size)


def find_grid(
    weight_OI: torch.Tensor,
    bits: int,
    group_size: int,
    symmetric: bool,
    mse: bool,
    importance_I: torch.Tensor | None = None,
) -> Grid:
    """The grid of a weight matrix.

    Without ``mse`` the grid spans each group's range. With it, the range is shrunk to the share in 0.2 … 1 whose
    rounding error, summed over the group, is least: a coarse pass over the shares, then a fine one around the best,
    and for asymmetric grids the neighbouring zero points. The error is ``|error| ** 2.4`` (Frantar et al., GPTQ,
    arXiv:2210.17323), or ``importance * error ** 2`` where it is known how much each input matters.

    A symmetric grid has its zero point in the middle, at ``2 ** (bits - 1)``. Zero points stay above 0, because the
    file format stores them less one.

    Args:
        weight_OI: any float dtype; ``group_size`` divides I.
        importance_I: fp32, positive. GPTQ gives the root of the Hessian's diagonal: the diagonal itself is too much,
            as later inputs make up for most of an error.
    """
    rows, columns = weight_OI.shape
    groups = columns // group_size
    at_once = max(1, CHUNK // columns)
    root_GS = None if importance_I is None else importance_I.sqrt().view(groups, group_size)
    found = []
    for part_RI in torch.split(weight_OI, at_once):
        root_NS = None if root_GS is None else root_GS.repeat(len(part_RI), 1)
        found.append(_search(part_RI.float().reshape(-1, group_size), root_NS, bits, symmetric, mse))
    scales = torch.cat([scale for scale, _ in found]).view(rows, groups)
    zeros = torch.cat([zero for _, zero in found]).view(rows, groups)
    return Grid(scales.t().contiguous().half(), zeros.t().contiguous().to(torch.uint8), bits, group_size)


def round_to(weight_OI: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Codes (uint8 [O, I]) of the grid points nearest to the weights."""
    scales_OG1, zeros_OG1 = grid.of_groups()
    codes_OGS = torch.round(weight_OI.float().reshape(len(weight_OI), -1, grid.group_size) / scales_OG1)
    return codes_OGS.add_(zeros_OG1).clamp_(0, grid.top).to(torch.uint8).flatten(1)


def values(codes_OI: torch.Tensor, grid: Grid) -> torch.Tensor:
    """The weights that codes stand for: fp32 [O, I], exact."""
    scales_OG1, zeros_OG1 = grid.of_groups()
    levels_OGS = codes_OI.float().reshape(len(codes_OI), -1, grid.group_size)
    return levels_OGS.sub_(zeros_OG1).mul_(scales_OG1).flatten(1)


def _search(
    weight_NS: torch.Tensor, root_NS: torch.Tensor | None, bits: int, symmetric: bool, mse: bool
) -> tuple[torch.Tensor, torch.Tensor]:
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

    best_errors = _errors(weight_NS, root_NS, best_scales, zeros, top)
    best_zeros, best_shares = zeros, torch.ones_like(full)

    def offer(shares: torch.Tensor, of: torch.Tensor, candidates: torch.Tensor) -> None:
        nonlocal best_errors, best_scales, best_zeros, best_shares
        scales = _storable(of * shares)
        errors = _errors(weight_NS, root_NS, scales, candidates, top)
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


def _errors(
    weight_NS: torch.Tensor, root_NS: torch.Tensor | None, scales_N: torch.Tensor, zeros_N: torch.Tensor, top: int
) -> torch.Tensor:
    """What the search makes small, of every group."""
    scale, zero = scales_N[:, None], zeros_N[:, None]
    levels = (weight_NS / scale).round_().clamp_(-zero, top - zero)
    errors = levels.mul_(scale).sub_(weight_NS)
    if root_NS is None:
        return errors.abs_().pow_(NORM).sum(1)
    norms: torch.Tensor = torch.linalg.vector_norm(errors.mul_(root_NS), dim=1)
    return norms
