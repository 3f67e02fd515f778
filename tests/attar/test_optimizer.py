"""Laws of AdamW over fp32 masters."""

import pytest
import torch
from torch import Tensor, nn

from attar import optimizer as module
from attar.optimizer import MasterAdamW


def parameter(dtype: torch.dtype, shape: tuple[int, ...] = (7, 5)) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype))


def gradient(step: int, like: Tensor) -> Tensor:
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(step + 1)).to(like.dtype)


def test_is_torchs_adamw_in_fp32() -> None:
    ours, theirs = parameter(torch.float32), parameter(torch.float32)
    mine = MasterAdamW({"w": ours}, {"w": 1e-2}, weight_decay=0.1, decayed=frozenset({"w"}))
    reference = torch.optim.AdamW([theirs], lr=1e-2, betas=mine.betas, eps=mine.epsilon, weight_decay=0.1)
    for step in range(20):
        ours.grad, theirs.grad = gradient(step, ours), gradient(step, theirs) * 0.5
        mine.step(1.0, gradient_factor=0.5)
        reference.step()
    assert torch.allclose(ours, theirs, atol=1e-6)
    assert mine.masters["w"].data_ptr() == ours.data_ptr()


def test_slices_give_what_the_whole_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, sliced = parameter(torch.bfloat16), parameter(torch.bfloat16)
    optimizers = [MasterAdamW({"w": p}, {"w": 1e-2}) for p in (whole, sliced)]
    for step in range(5):
        for p, each, size in zip((whole, sliced), optimizers, (module.CPU_SLICE, 16), strict=True):
            with monkeypatch.context() as patch:
                patch.setattr(module, "CPU_SLICE", size)
                p.grad = gradient(step, p)
                each.step(1.0)
    assert torch.equal(whole, sliced)


def test_steps_too_small_for_bf16_add_up() -> None:
    weight = nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    adam = MasterAdamW({"w": weight}, {"w": 1e-4})
    for _ in range(100):  # a hundredth in all; one step is far below half a bf16 step at 1
        weight.grad = torch.ones_like(weight)
        adam.step(1.0)
    assert torch.allclose(adam.masters["w"], torch.tensor(0.99), atol=1e-5)
    assert weight[0].item() < 1
    assert torch.equal(weight, adam.masters["w"].bfloat16())


def test_goes_on_bit_for_bit() -> None:
    one, other = parameter(torch.bfloat16), parameter(torch.bfloat16)
    undisturbed, before = MasterAdamW({"w": one}, {"w": 1e-2}), MasterAdamW({"w": other}, {"w": 1e-2})
    for step in range(10):
        one.grad = gradient(step, one)
        undisturbed.step(1.0)
    for step in range(4):
        other.grad = gradient(step, other)
        before.step(1.0)
    saved = {name: tensor.clone() for name, tensor in before.state().items()}
    fresh = parameter(torch.bfloat16)
    after = MasterAdamW({"w": fresh}, {"w": 1e-2})
    after.load(saved.__getitem__, steps=4)
    assert torch.equal(fresh, other)
    for step in range(4, 10):
        fresh.grad = gradient(step, fresh)
        after.step(1.0)
    assert all(torch.equal(undisturbed.state()[name], tensor) for name, tensor in after.state().items())
    assert torch.equal(one, fresh)


def test_rates_and_decay_go_by_name() -> None:
    fast, still = parameter(torch.float32), parameter(torch.float32)
    start = fast.detach().clone()
    adam = MasterAdamW({"fast": fast, "still": still}, {"fast": 1e-2, "still": 0.0})
    fast.grad, still.grad = torch.ones_like(fast), torch.ones_like(still)
    adam.step(0.5)
    assert torch.allclose(fast, start - 0.5e-2)
    assert torch.equal(still, start)
    assert fast.grad is None


def test_a_missing_gradient_has_norm_zero_and_moves_nothing() -> None:
    moved, silent = parameter(torch.bfloat16), parameter(torch.bfloat16)
    adam = MasterAdamW({"moved": moved, "silent": silent}, {"moved": 1e-2, "silent": 1e-2})
    moved.grad = torch.full_like(moved, 2.0)
    norms = adam.gradient_norms()
    assert norms["silent"] == 0 and abs(norms["moved"] - 2 * 35**0.5) < 1e-4
    adam.step(1.0)
    assert torch.equal(silent, parameter(torch.bfloat16))


def test_publishing_hands_over_the_masters() -> None:
    weight = parameter(torch.bfloat16)
    adam = MasterAdamW({"w": weight}, {"w": 1e-4})
    weight.grad = torch.ones_like(weight)
    adam.step(1.0)
    adam.publish()
    assert weight.dtype == torch.float32 and torch.equal(weight, adam.masters["w"])
