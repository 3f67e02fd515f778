"""Laws of the GPTQ solver."""

import pytest
import torch

from attar.errors import StageFailed
from attar.gptq import Hessian, Rounded, _inverse_factor, damped, output_errors, solve
from attar.grid import Grid, find_grid, round_to, values

ROWS, COLUMNS, GROUP = 40, 192, 32


def problem(seed: int = 0, bits: int = 4) -> tuple[torch.Tensor, torch.Tensor, Grid]:
    """Weights, the Hessian of correlated inputs with outliers, and a grid."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(COLUMNS, COLUMNS, generator=generator) * torch.rand(COLUMNS, generator=generator).pow(4)
    inputs = torch.randn(1024, COLUMNS, generator=generator) @ mixing.t()
    hessian = Hessian(COLUMNS)
    for batch in inputs.split(300):  # type: ignore[no-untyped-call]
        hessian.add(batch)
    weight = torch.randn(ROWS, COLUMNS, generator=generator) * 0.05
    return weight, damped(hessian.matrix(), 0.05), find_grid(weight, bits, GROUP, False, True)


def reference(weight: torch.Tensor, hessian: torch.Tensor, grid: Grid, order: torch.Tensor) -> torch.Tensor:
    """GPTQ as the paper tells it: one input at a time, the inverse of what is left updated each time, in fp64."""
    scales, zeros = (table.double().repeat_interleave(GROUP, 0) for table in (grid.scales, grid.zeros))
    rest, codes = weight.double().clone(), torch.zeros_like(weight, dtype=torch.uint8)
    left = list(order.tolist())
    inverse = torch.linalg.inv(hessian.double()[left][:, left])
    while left:
        now = left[0]
        code = torch.round(rest[:, now] / scales[now] + zeros[now]).clamp(0, grid.top)
        error = (rest[:, now] - (code - zeros[now]) * scales[now]) / inverse[0, 0]
        codes[:, now] = code.to(torch.uint8)
        rest[:, left] -= error[:, None] * inverse[0][None]
        inverse = (inverse - inverse[:, :1] @ inverse[:1] / inverse[0, 0])[1:, 1:]
        left = left[1:]
    return codes


def test_the_hessian_is_twice_the_mean_outer_product() -> None:
    x = torch.randn(50, 13)
    hessian = Hessian(13)
    hessian.add(x[:20])
    hessian.add(x[20:])
    torch.testing.assert_close(hessian.matrix(), 2 * x.t() @ x / 50)


def test_the_factor_is_that_of_the_inverse_in_the_order_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attar.gptq.TILE", 50)  # several halvings
    _, hessian, _ = problem()
    order = torch.argsort(hessian.diagonal(), descending=True)
    factor, added = _inverse_factor(hessian, order)
    factor = factor.double()
    assert added == 0
    assert torch.equal(factor, factor.triu())
    inverse = torch.linalg.inv(hessian.double()[order][:, order])
    torch.testing.assert_close(factor.t() @ factor, inverse, rtol=1e-3, atol=1e-4 * float(inverse.abs().max()))


def test_a_wide_hessian_is_summed_in_tiles_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attar.gptq.TILE", 6)
    test_the_hessian_is_twice_the_mean_outer_product()


@pytest.mark.parametrize(("act_order", "bits"), [(True, 4), (False, 4), (True, 2), (True, 3), (True, 8)])
def test_blocks_and_the_cholesky_factor_give_what_the_plain_algorithm_gives(act_order: bool, bits: int) -> None:
    weight, hessian, grid = problem(bits=bits)
    order = torch.argsort(hessian.diagonal(), descending=True) if act_order else torch.arange(COLUMNS)
    expected = reference(weight, hessian, grid, order)
    found = solve(weight, hessian, grid, act_order).codes
    assert (found == expected).float().mean() > 0.99  # fp32 against fp64: a tie may fall to the other side
    ours, theirs = (output_errors(values(c, grid) - weight, hessian).sum() for c in (found, expected))
    assert float(ours) == pytest.approx(float(theirs), rel=0.01)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_no_row_is_worse_than_rounding_to_nearest(seed: int, symmetric: bool) -> None:
    weight, hessian, _ = problem(seed)
    grid = find_grid(weight, 4, GROUP, symmetric, True)
    rounded = solve(weight, hessian, grid)
    ours = output_errors(values(rounded.codes, grid) - weight, hessian)
    nearest = output_errors(values(round_to(weight, grid), grid) - weight, hessian)
    assert (ours <= nearest * (1 + 1e-4)).all()
    assert ours.sum() < 0.7 * nearest.sum()


def test_the_reported_errors_are_those_of_the_codes() -> None:
    weight, hessian, grid = problem()
    rounded = solve(weight, hessian, grid)
    measured = output_errors(values(rounded.codes, grid) - weight, hessian)
    torch.testing.assert_close(rounded.errors, measured, rtol=1e-3, atol=1e-7)


def test_independent_inputs_are_rounded_to_nearest() -> None:
    weight, _, grid = problem()
    found = solve(weight, torch.diag(torch.rand(COLUMNS) + 0.1), grid).codes
    assert torch.equal(found, round_to(weight, grid))


def test_rows_are_solved_alike_alone_and_stacked() -> None:
    weight, hessian, grid = problem()
    stacked = solve(weight, hessian, grid).codes
    upper = Grid(grid.scales[:, :16].contiguous(), grid.zeros[:, :16].contiguous(), 4, GROUP)
    assert (solve(weight[:16], hessian, upper).codes == stacked[:16]).float().mean() > 0.99


def test_points_of_the_grid_are_left_alone() -> None:
    weight, hessian, grid = problem()
    codes = round_to(weight, grid)
    rounded: Rounded = solve(values(codes, grid), hessian, grid)
    assert torch.equal(rounded.codes, codes) and float(rounded.errors.sum()) == 0


def test_inputs_that_are_never_active_do_no_harm() -> None:
    weight, _, grid = problem()
    hessian = Hessian(COLUMNS)
    x = torch.randn(512, COLUMNS)
    x[:, ::3] = 0
    hessian.add(x)
    found = solve(weight, damped(hessian.matrix(), 0.05), grid).codes
    assert torch.equal(found[:, ::3], round_to(weight, grid)[:, ::3])


def test_a_hessian_that_cannot_be_factored_is_a_sentence() -> None:
    weight, hessian, grid = problem()
    assert torch.equal(damped(torch.eye(3), 0.5), 1.5 * torch.eye(3))
    assert torch.equal(damped(torch.zeros(3, 3), 0.5), torch.eye(3))
    lowest, mean = float(torch.linalg.eigvalsh(hessian)[0]), float(hessian.diagonal().mean())
    broken = hessian - (lowest + 0.5 * mean) * torch.eye(COLUMNS)
    assert float(broken.diagonal().mean()) > 0  # more damping adds
    with pytest.raises(StageFailed, match=r"0\.25 more damping; calibrate on more windows"):
        solve(weight, broken, grid)


def test_one_that_only_just_cannot_is_damped_more_and_says_so() -> None:
    weight, hessian, grid = problem()
    lowest = float(torch.linalg.eigvalsh(hessian)[0])
    mean = float(hessian.diagonal().mean())
    broken = hessian - (lowest + 0.02 * mean) * torch.eye(COLUMNS)
    rounded = solve(weight, broken.clone(), grid)
    assert rounded.more_damping == 0.05
    again = solve(weight, broken + 0.05 * broken.diagonal().mean() * torch.eye(COLUMNS), grid)
    assert again.more_damping == 0 and torch.equal(again.codes, rounded.codes)
