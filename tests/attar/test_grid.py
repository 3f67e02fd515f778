"""Laws of integer grids."""

import pytest
import torch

from attar.grid import NORM, Grid, find_grid, round_to, values


def weights(rows: int = 24, columns: int = 128) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(rows, columns) * 0.05 * (1 + torch.arange(rows)[:, None] / 4)


def norm(weight: torch.Tensor, grid: Grid) -> float:
    return float((values(round_to(weight, grid), grid) - weight).abs().pow(NORM).sum())


@pytest.mark.parametrize("symmetric", [True, False])
def test_without_clipping_every_weight_is_within_a_step_of_its_code(symmetric: bool) -> None:
    weight = weights()
    grid = find_grid(weight, 4, 32, symmetric, mse=False)
    steps, _ = grid.of_groups()
    errors = (values(round_to(weight, grid), grid) - weight).abs().unflatten(1, (-1, 32))
    assert (errors <= steps * 1.01).all()


@pytest.mark.parametrize("symmetric", [True, False])
def test_the_clip_search_never_loses_to_the_full_range(symmetric: bool) -> None:
    weight = weights()
    full, searched = (find_grid(weight, 4, 32, symmetric, mse) for mse in (False, True))
    assert norm(weight, searched) < norm(weight, full)
    for row in range(len(weight)):
        narrow = find_grid(weight[row : row + 1], 4, 32, symmetric, mse=True)
        assert torch.equal(narrow.scales[:, 0], searched.scales[:, row])


def test_an_asymmetric_grid_beats_a_symmetric_one_on_one_sided_weights() -> None:
    weight = weights().abs()
    grids = [find_grid(weight, 4, 32, symmetric, mse=True) for symmetric in (True, False)]
    assert norm(weight, grids[1]) < 0.5 * norm(weight, grids[0])


def test_zero_points_are_what_the_file_can_hold() -> None:
    one_sided = torch.cat([weights().abs(), -weights().abs(), weights()])
    zeros = find_grid(one_sided, 4, 32, False, True).zeros
    assert zeros.dtype == torch.uint8 and int(zeros.min()) >= 1 and int(zeros.max()) <= 15
    assert (find_grid(one_sided, 4, 32, True, True).zeros == 8).all()


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("value", [0.0, 0.3, -0.3, 1e-9])
def test_constant_groups_have_finite_scales_and_stay_within_half_a_step(symmetric: bool, value: float) -> None:
    weight = torch.full((8, 32), value)
    grid = find_grid(weight, 4, 32, symmetric, mse=True)
    found = values(round_to(weight, grid), grid)
    assert (grid.scales > 0).all() and torch.isfinite(found).all()
    assert (found - weight).abs().max() <= max(abs(value) / 15, 2.0**-24)


def test_points_of_the_grid_stay_where_they_are() -> None:
    grid = find_grid(weights(), 4, 32, False, True)
    codes = torch.randint(0, 16, (24, 128), dtype=torch.uint8)
    assert torch.equal(round_to(values(codes, grid), grid), codes)


def test_groups_are_searched_alike_whatever_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = find_grid(weights(), 4, 32, False, True)
    monkeypatch.setattr("attar.grid.CHUNK", 300)
    pieces = find_grid(weights(), 4, 32, False, True)
    assert torch.equal(whole.scales, pieces.scales) and torch.equal(whole.zeros, pieces.zeros)


@pytest.mark.parametrize("symmetric", [True, False])
def test_important_inputs_get_the_grid_that_they_want(symmetric: bool) -> None:
    weight, importance = weights(), torch.logspace(-2, 2, 128)
    plain = find_grid(weight, 3, 32, symmetric, True)
    weighted = find_grid(weight, 3, 32, symmetric, True, importance)

    def loss(grid: Grid) -> float:
        return float(((values(round_to(weight, grid), grid) - weight).square() * importance).sum())

    assert loss(weighted) < loss(plain)
    even = find_grid(weight, 3, 32, symmetric, True, torch.full((128,), 7.0))
    assert float((values(round_to(weight, even), even) - weight).square().sum()) <= float(
        (values(round_to(weight, weighted), weighted) - weight).square().sum()
    )
