"""GPTQ: rounds a weight matrix so that its *outputs* on calibration inputs stay close (arXiv:2210.17323).

Legend of shapes: O out features, I in features, N calibration tokens.

The weights are rounded one input after the other. After each, the inputs not yet rounded take over what its rounding
did to the output, ``W[:, later] -= e * U[now, later]`` with ``U`` the upper Cholesky factor of the inverse Hessian
and ``e`` the rounding error over ``U[now, now]``. Inputs go in order of falling Hessian diagonal (act-order); the grid
is made before and stays where it is (static groups), so files need no permutation.
"""

from dataclasses import dataclass

import torch

from attar.errors import StageFailed
from attar.grid import Grid, round_to, values

LEAF = 16  # inputs rounded one by one before their errors are passed on in one matmul
TILE = 512  # a Hessian is symmetric: it is summed in tiles of this width, those below the diagonal are not computed
FEWEST = 4  # tiles at least, for narrow ones
ROWS = 1024  # rows whose output errors are computed at once
MORE_DAMPING = (0.01, 0.05, 0.25)  # tried, in this order, where a Hessian cannot be factored


class Hessian:
    """``2 / N * sum(x x^T)`` of a module's inputs, summed batch by batch.

    Everything is fp32: a bf16 product would take half the time, but its rounding is as large as the smallest
    eigenvalues, and the Hessian of an attention output stops being positive definite.
    """

    def __init__(self, width: int, device: str | torch.device = "cpu") -> None:
        self.sum_II = torch.zeros(width, width, device=device)
        self.count = 0
        step = min(TILE, -(-width // FEWEST))
        self._tiles = [slice(i, min(i + step, width)) for i in range(0, width, step)]

    def add(self, x_NI: torch.Tensor) -> None:
        """Add a batch of inputs."""
        self.count += len(x_NI)
        x_NI = x_NI.float()
        x_IN = x_NI.t()
        for tile in self._tiles:
            self.sum_II[tile, tile.start :].addmm_(x_IN[tile], x_NI[:, tile.start :])

    def matrix(self) -> torch.Tensor:
        """The Hessian, fp32 [I, I], symmetric: the sum itself, scaled in place, so nothing can be added any more."""
        for tile in self._tiles:
            inner = self.sum_II[tile, tile]
            inner.copy_(inner.triu() + inner.triu(1).t())
            self.sum_II[tile.stop :, tile] = self.sum_II[tile, tile.stop :].t()
        return self.sum_II.mul_(2 / max(1, self.count))


@dataclass(frozen=True)
class Rounded:
    """Codes (uint8 [O, I]) and each row's error ``d H d^T`` (fp32 [O]), and the same of rounding to nearest."""

    codes: torch.Tensor
    errors: torch.Tensor
    nearest_errors: torch.Tensor
    more_damping: float = 0.0  # beyond what the Hessian came with, as a share of its mean diagonal

    def of_rows(self, rows: slice) -> "Rounded":
        """The same of some of the rows."""
        return Rounded(self.codes[rows], self.errors[rows], self.nearest_errors[rows], self.more_damping)


def damped(hessian_II: torch.Tensor, damping: float) -> torch.Tensor:
    """``damping`` times its mean diagonal added to a Hessian, in place; 1 where no input was ever active."""
    diagonal = hessian_II.diagonal()
    added = damping * diagonal.mean()
    diagonal.add_(added if added > 0 else 1.0)
    return hessian_II


def output_errors(delta_OI: torch.Tensor, hessian_II: torch.Tensor) -> torch.Tensor:
    """``d H d^T`` of every row of a change of weights: fp32 [O]."""
    parts = torch.split(delta_OI, ROWS)
    return torch.cat([(part_RI @ hessian_II).mul_(part_RI).sum(1) for part_RI in parts])


def solve(weight_OI: torch.Tensor, hessian_II: torch.Tensor, grid: Grid, act_order: bool = True) -> Rounded:
    """Round a weight matrix onto its grid.

    A row whose error came out above that of plain rounding (greedy rounding promises nothing for a single row) is
    rounded plainly, so the result is never worse than :func:`attar.grid.round_to` on the same Hessian.

    Args:
        weight_OI: fp32; may stack the rows of several modules that see the same inputs.
        hessian_II: fp32, damped (:func:`damped`); if rounding errors keep it from being factored, more damping is added
            to it in place, as ``Rounded.more_damping`` tells.
        grid: of the same weights.

    Raises:
        StageFailed: the Hessian cannot be factored, so it is not positive definite even with much damping.
    """
    columns = weight_OI.shape[1]
    device = weight_OI.device
    order = torch.argsort(hessian_II.diagonal(), descending=True) if act_order else torch.arange(columns, device=device)
    factor_II, more_damping = _inverse_factor(hessian_II, order)
    walk = _Walk(weight_OI, factor_II, grid, order)
    del factor_II
    walk.run(0, columns)
    errors_O = walk.errors()
    codes = torch.empty_like(weight_OI, dtype=torch.uint8)
    codes[:, order] = walk.codes_IO.t()
    del walk
    nearest = round_to(weight_OI, grid)
    nearest_errors = output_errors(values(nearest, grid).sub_(weight_OI), hessian_II)
    worse = ~(errors_O <= nearest_errors)
    codes[worse] = nearest[worse]
    return Rounded(codes, torch.where(worse, nearest_errors, errors_O), nearest_errors, more_damping)


class _Walk:
    """The walk over the inputs, in their order, of all rows at once."""

    def __init__(self, weight_OI: torch.Tensor, factor_II: torch.Tensor, grid: Grid, order: torch.Tensor) -> None:
        self.factor_II = factor_II
        self.diagonal = factor_II.diagonal().tolist()
        self.groups = (order // grid.group_size).tolist()
        self.scales_GO, self.zeros_GO = grid.scales.float(), grid.zeros.float()
        self.lowest_GO, self.highest_GO = -self.zeros_GO, grid.top - self.zeros_GO
        # Rows of inputs still to come hold what is left of the weights, those done the scaled rounding errors.
        self.rest_IO = weight_OI.t()[order].contiguous()
        self.codes_IO = torch.empty_like(self.rest_IO, dtype=torch.uint8)
        self.level_O = torch.empty_like(self.rest_IO[0])

    def run(self, start: int, stop: int) -> None:
        """Round the inputs from ``start`` to ``stop``: one half, then what it passes on to the other, then that."""
        if stop - start <= LEAF:
            self._leaf(start, stop)
            return
        middle = start + LEAF * ((stop - start + 2 * LEAF - 1) // (2 * LEAF))
        self.run(start, middle)
        self.rest_IO[middle:stop].addmm_(
            self.factor_II[start:middle, middle:stop].t(), self.rest_IO[start:middle], alpha=-1
        )
        self.run(middle, stop)

    def errors(self) -> torch.Tensor:
        """``d H d^T`` of every row, once all inputs are rounded: fp32 [O]."""
        norms: torch.Tensor = torch.linalg.vector_norm(self.rest_IO, dim=0)
        return norms.square_()

    def _leaf(self, start: int, stop: int) -> None:
        for at in range(start, stop):
            rest_O, group = self.rest_IO[at], self.groups[at]
            if at > start:  # what the inputs before it in this leaf have passed on
                rest_O.addmv_(self.rest_IO[start:at].t(), self.factor_II[start:at, at], alpha=-1)
            scale_O, level_O = self.scales_GO[group], self.level_O
            torch.div(rest_O, scale_O, out=level_O).round_()
            torch.clamp(level_O, self.lowest_GO[group], self.highest_GO[group], out=level_O)
            rest_O.addcmul_(level_O, scale_O, value=-1).div_(self.diagonal[at])
            self.codes_IO[at] = level_O.add_(self.zeros_GO[group])


def _inverse_factor(hessian_II: torch.Tensor, order: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Upper ``U`` with ``U^T U = H^-1``, the inputs of ``H`` taken in this order; and what damping was added for it.

    With ``L L^T`` the Cholesky product of ``H`` in the opposite order, ``L`` turned around in both directions is an
    upper ``R`` with ``H = R R^T``, and its inverse is ``U``: no inverse of ``H`` is made, nor factored.
    """
    turned, mean, added = order.flip(0), float(hessian_II.diagonal().mean()), 0.0
    lower, trouble = torch.linalg.cholesky_ex(hessian_II[turned[:, None], turned])
    for share in MORE_DAMPING:
        if not trouble:
            break
        del lower  # as large as the Hessian
        hessian_II.diagonal().add_((share - added) * mean)
        added = share
        lower, trouble = torch.linalg.cholesky_ex(hessian_II[turned[:, None], turned])
    if trouble:
        raise StageFailed(
            "quantize.gptq: the Hessian of the calibration inputs is not positive definite, even with "
            f"{MORE_DAMPING[-1]:g} more damping; calibrate on more windows"
        )
    upper: torch.Tensor = lower.flip(0, 1)
    del lower
    _invert_(upper)
    return upper, added


def _invert_(upper_II: torch.Tensor) -> None:
    """Put the inverse of an upper triangular matrix in its place: both halves of the diagonal, then the corner."""
    size = len(upper_II)
    if size <= TILE:
        unit = torch.eye(size, device=upper_II.device)
        upper_II.copy_(torch.linalg.solve_triangular(upper_II, unit, upper=True))
        return
    first, corner, last = (
        upper_II[: size // 2, : size // 2],
        upper_II[: size // 2, size // 2 :],
        upper_II[size // 2 :, size // 2 :],
    )
    _invert_(first)
    _invert_(last)
    corner.copy_((first @ corner @ last).neg_())
