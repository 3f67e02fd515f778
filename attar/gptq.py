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

BLOCK = 128  # inputs whose updates of the rest are delayed and done in one matmul
TILES = 4  # a Hessian is symmetric: it is summed in tiles, those below the diagonal are not computed


class Hessian:
    """``2 / N * sum(x x^T)`` of a module's inputs, summed batch by batch.

    Everything is fp32: a bf16 product would take half the time, but its rounding is as large as the smallest
    eigenvalues, and the Hessian of an attention output stops being positive definite.
    """

    def __init__(self, width: int, device: str | torch.device = "cpu") -> None:
        self.sum_II = torch.zeros(width, width, device=device)
        self.count = 0
        step = -(-width // TILES)
        self._tiles = [slice(i, min(i + step, width)) for i in range(0, width, step)]

    def add(self, x_NI: torch.Tensor) -> None:
        """Add a batch of inputs."""
        self.count += len(x_NI)
        x_NI = x_NI.float()
        x_IN = x_NI.t()
        for tile in self._tiles:
            self.sum_II[tile, tile.start :].addmm_(x_IN[tile], x_NI[:, tile.start :])

    def matrix(self) -> torch.Tensor:
        """The Hessian, fp32 [I, I], symmetric."""
        upper = self.sum_II.triu()
        full = upper + upper.triu(1).t()
        return full.mul_(2 / max(1, self.count))


@dataclass(frozen=True)
class Rounded:
    """Codes (uint8 [O, I]) and each row's error ``d H d^T`` (fp32 [O]), and the same of rounding to nearest."""

    codes: torch.Tensor
    errors: torch.Tensor
    nearest_errors: torch.Tensor


def damped(hessian_II: torch.Tensor, damping: float) -> torch.Tensor:
    """The Hessian with ``damping`` times its mean diagonal added; an input that was never active gets 1."""
    matrix = hessian_II.clone()
    diagonal = matrix.diagonal()
    dead = diagonal == 0
    mean = diagonal.mean()
    diagonal.add_(damping * mean)
    diagonal[dead] = 1.0
    return matrix


def output_errors(delta_OI: torch.Tensor, hessian_II: torch.Tensor) -> torch.Tensor:
    """``d H d^T`` of every row of a change of weights: fp32 [O]."""
    return ((delta_OI @ hessian_II) * delta_OI).sum(1)


def solve(weight_OI: torch.Tensor, hessian_II: torch.Tensor, grid: Grid, act_order: bool = True) -> Rounded:
    """Round a weight matrix onto its grid.

    A row whose error came out above that of plain rounding (greedy rounding promises nothing for a single row) is
    rounded plainly, so the result is never worse than :func:`attar.grid.round_to` on the same Hessian.

    Args:
        weight_OI: fp32; may stack the rows of several modules that see the same inputs.
        hessian_II: fp32, damped (:func:`damped`).
        grid: of the same weights.

    Raises:
        StageFailed: the Hessian cannot be factored, so it is not positive definite even with its damping.
    """
    columns = weight_OI.shape[1]
    device = weight_OI.device
    order = torch.argsort(hessian_II.diagonal(), descending=True) if act_order else torch.arange(columns, device=device)
    factor_II = _inverse_factor(hessian_II[order][:, order])
    scales_IO, zeros_IO = (table[order] for table in grid.of_inputs())
    rest_IO = weight_OI.t()[order].contiguous()
    levels_IO = torch.empty_like(rest_IO)
    errors_O = torch.zeros(len(weight_OI), device=device)
    lowest_IO, highest_IO = -zeros_IO, grid.top - zeros_IO

    for start in range(0, columns, BLOCK):
        stop = min(start + BLOCK, columns)
        factor_BB = factor_II[start:stop, start:stop]
        scaled_errors_BO = torch.empty(stop - start, len(weight_OI), device=device)
        for i in range(stop - start):
            at = start + i
            weight_O = rest_IO[at]
            if i:  # what the inputs before it in this block have passed on
                weight_O = torch.addmv(weight_O, scaled_errors_BO[:i].t(), factor_BB[:i, i], alpha=-1)
            level_O = torch.div(weight_O, scales_IO[at]).round_()
            level_O = torch.clamp(level_O, lowest_IO[at], highest_IO[at], out=levels_IO[at])
            error_O = torch.addcmul(weight_O, level_O, scales_IO[at], value=-1)
            torch.div(error_O, factor_BB[i, i], out=scaled_errors_BO[i])
        errors_O += scaled_errors_BO.square().sum(0)
        if stop < columns:
            rest_IO[stop:].addmm_(factor_II[start:stop, stop:].t(), scaled_errors_BO, alpha=-1)

    codes = torch.empty_like(weight_OI, dtype=torch.uint8)
    codes[:, order] = (levels_IO + zeros_IO).t().to(torch.uint8)
    nearest = round_to(weight_OI, grid)
    nearest_errors = output_errors(values(nearest, grid) - weight_OI, hessian_II)
    worse = ~(errors_O <= nearest_errors)
    codes = torch.where(worse[:, None], nearest, codes)
    return Rounded(codes, torch.where(worse, nearest_errors, errors_O), nearest_errors)


def _inverse_factor(hessian_II: torch.Tensor) -> torch.Tensor:
    """Upper ``U`` with ``U^T U = H^-1``."""
    upper: torch.Tensor
    lower, trouble = torch.linalg.cholesky_ex(hessian_II)
    if not trouble:
        upper, trouble = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
    if trouble:
        raise StageFailed(
            "quantize.gptq: the Hessian of the calibration inputs is not positive definite; "
            "raise damping (0.1, 0.2) or calibrate on more windows"
        )
    return upper
