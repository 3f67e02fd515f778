"""Laws of the straight-through linear: it computes what the file will hold, and learns as if it did not round."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from attar.facts import Quantization
from attar.grid import find_grid, round_to
from attar.model import Model
from attar.straight_through import StraightThroughLinear, put_on_grid
from attar.tiny import tiny_model

ROWS, COLUMNS, GROUP = 24, 64, 16


def linear(symmetric: bool = False, recomputed: bool = False, shrink: float = 1.0) -> StraightThroughLinear:
    """A random one that learns; ``shrink`` < 1 leaves weights beyond the ends of the grid."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(ROWS, COLUMNS, generator=generator)
    grid = find_grid(weight * shrink, 4, GROUP, symmetric, mse=False)
    made = StraightThroughLinear(weight, grid, torch.linspace(-1, 1, ROWS), symmetric, recomputed)
    return made.requires_grad_(True)


def by_autograd(module: StraightThroughLinear, x: Tensor) -> Tensor:
    """The same with rounding as ``v + (round(v) - v)``, whose second part has no gradient."""
    groups = torch.arange(COLUMNS) // GROUP
    scales, zeros = module.scales.t()[:, groups], module.zeros.t().float()[:, groups]
    rounded = module.weight + (torch.round(module.weight) - module.weight).detach()
    ends = torch.round(module.weight).detach().clamp(-zeros, 15 - zeros)
    levels = torch.where(ends == torch.round(module.weight), rounded, ends)
    return functional.linear(x, levels * scales, module.bias)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("recomputed", [False, True])
def test_it_computes_what_the_packed_file_will(dtype: torch.dtype, recomputed: bool) -> None:
    module = linear(recomputed=recomputed, shrink=0.7)
    packed = module.packed(torch.float32)
    assert torch.equal(module.dequantize(), packed.dequantize()) and torch.equal(module.codes(), packed.codes)
    assert torch.equal(module.dense().weight, packed.dequantize())
    x = torch.randn(40, COLUMNS, dtype=dtype)
    with torch.no_grad():
        assert torch.equal(module(x), packed(x))


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("shrink", [1.0, 0.5])
def test_gradients_pass_straight_through(symmetric: bool, shrink: float) -> None:
    module = linear(symmetric, shrink=shrink)
    x = torch.randn(3, 7, COLUMNS, requires_grad=True)
    target = torch.randn(3, 7, ROWS)
    leaves = [x, module.weight, module.scales, module.bias]
    found = torch.autograd.grad((module(x) * target).sum(), leaves)
    expected = torch.autograd.grad((by_autograd(module, x) * target).sum(), leaves)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3)
    scales = module.scales.detach().t()[:, torch.arange(COLUMNS) // GROUP]
    identity = target.flatten(0, 1).t() @ x.detach().flatten(0, 1)  # in the weight; what learns is weight over scale
    inside = found[1] != 0
    torch.testing.assert_close((found[1] / scales)[inside], identity[inside], rtol=1e-4, atol=1e-3)
    beyond = float((found[1] == 0).float().mean())
    assert beyond < 0.05 if shrink == 1 else beyond > 0.05


def test_a_recomputed_grid_follows_the_weights() -> None:
    module = linear(recomputed=True)
    before = module.grid()
    module.weight.data.mul_(2)
    after = module.grid()
    assert torch.equal(after.scales, before.scales * 2) and torch.equal(after.zeros, before.zeros)
    x, target = torch.randn(5, COLUMNS), torch.randn(5, ROWS)
    (module(x) * target).sum().backward()  # type: ignore[no-untyped-call]
    assert module.weight.grad is not None and module.scales.grad is None
    torch.testing.assert_close(module.weight.grad, target.t() @ x, rtol=1e-4, atol=1e-4)


def test_a_dense_model_starts_where_rounding_to_nearest_puts_it(tmp_path: Path) -> None:
    source = Model(tiny_model(tmp_path / "model"))
    student = source.materialize(torch.bfloat16)
    found = put_on_grid(student, source, Quantization(4, 32, True), mse=True)
    assert len(found) == 4 * 7
    for name, module in found.items():
        weight = source.tensor(f"{name}.weight")
        grid = find_grid(weight, 4, 32, symmetric=True, mse=True)
        assert torch.equal(module.codes(), round_to(weight, grid)) and torch.equal(module.grid().scales, grid.scales)
