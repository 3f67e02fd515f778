"""Laws of packed linears: lossless files, exact weights, exact gradients."""

import copy

import pytest
import torch
from torch.nn import functional

from attar.facts import BITS
from attar.packed import PackedLinear, from_gptq, to_gptq

ROWS, COLUMNS, GROUP = 96, 128, 32  # rows: more than are unpacked at once, and no multiple of those


def integers(bits: int = 4, group: int = GROUP) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 2**bits, (ROWS, COLUMNS), generator=generator, dtype=torch.uint8)
    zeros = torch.randint(1, 2**bits, (COLUMNS // group, ROWS), generator=generator, dtype=torch.uint8)
    scales = (torch.rand(COLUMNS // group, ROWS, generator=generator) * 0.1 + 1e-3).half()
    return codes, scales, zeros


def linear(bias: bool = True, dtype: torch.dtype = torch.float32, bits: int = 4, group: int = GROUP) -> PackedLinear:
    codes, scales, zeros = integers(bits, group)
    offset = torch.linspace(-1, 1, ROWS) if bias else None
    return PackedLinear.from_codes(codes, scales, zeros, offset, bits, group, dtype).eval()


def explicit(bits: int = 4, group: int = GROUP) -> torch.Tensor:
    """The weight by the definition, element by element."""
    codes, scales, zeros = integers(bits, group)
    groups = torch.arange(COLUMNS) // group
    return (codes.float() - zeros.t().float()[:, groups]) * scales.t().float()[:, groups]


@pytest.mark.parametrize("group", [GROUP, COLUMNS])
@pytest.mark.parametrize("bits", BITS)
def test_unpack_inverts_pack(bits: int, group: int) -> None:
    codes, scales, zeros = integers(bits, group)
    file = to_gptq(codes, scales, zeros, bits, group)
    found_codes, found_zeros = from_gptq(file["qweight"], file["qzeros"], bits)
    assert torch.equal(found_codes, codes) and torch.equal(found_zeros, zeros)


@pytest.mark.parametrize("bits", BITS)
def test_the_codes_are_one_stream_of_bits(bits: int) -> None:
    codes, scales, zeros = integers(bits)
    file = to_gptq(codes, scales, zeros, bits, GROUP)
    assert file["qweight"].shape == (COLUMNS * bits // 32, ROWS)
    assert file["qzeros"].shape == (COLUMNS // GROUP, ROWS * bits // 32)
    streams = ((file["qweight"][:, 5], codes[5]), (file["qzeros"][1], zeros[1] - 1))
    for words, numbers in streams:
        stream = sum((int(word) & 0xFFFFFFFF) << 32 * i for i, word in enumerate(words.tolist()))
        assert [stream >> bits * i & (2**bits - 1) for i in range(len(numbers))] == numbers.tolist()


@pytest.mark.parametrize("group", [GROUP, COLUMNS])
@pytest.mark.parametrize("bits", BITS)
def test_every_width_dequantizes_multiplies_and_goes_back_to_its_file(bits: int, group: int) -> None:
    module, x = linear(bits=bits, group=group), torch.randn(3, COLUMNS)
    assert torch.equal(module.dequantize(torch.float32), explicit(bits, group))
    assert module.bias is not None
    torch.testing.assert_close(module(x), functional.linear(x, explicit(bits, group), module.bias))
    file, found = to_gptq(*integers(bits, group), bits, group), module.to_tensors()
    assert all(torch.equal(found[name], tensor) for name, tensor in file.items())
    assert torch.equal(module.codes, integers(bits, group)[0])


def test_the_file_has_the_layout_that_its_readers_expect() -> None:
    codes, scales, zeros = integers()
    file = to_gptq(codes, scales, zeros, 4, GROUP)
    assert {name: (tuple(t.shape), t.dtype) for name, t in file.items()} == {
        "qweight": ((COLUMNS // 8, ROWS), torch.int32),
        "qzeros": ((COLUMNS // GROUP, ROWS // 8), torch.int32),
        "scales": ((COLUMNS // GROUP, ROWS), torch.float16),
        "g_idx": ((COLUMNS,), torch.int32),
    }
    word = int(file["qweight"][2, 5]) & 0xFFFFFFFF
    assert [word >> 4 * i & 15 for i in range(8)] == codes[5, 16:24].tolist()
    word = int(file["qzeros"][1, 3]) & 0xFFFFFFFF
    assert [(word >> 4 * i & 15) + 1 for i in range(8)] == zeros[1, 24:32].tolist()
    assert file["g_idx"].tolist() == [i // GROUP for i in range(COLUMNS)]


def test_tensors_go_through_the_module_unchanged() -> None:
    codes, scales, zeros = integers()
    found = linear().to_tensors()
    for name, tensor in to_gptq(codes, scales, zeros, 4, GROUP).items():
        assert torch.equal(found[name], tensor)
    assert set(found) == {"qweight", "qzeros", "scales", "g_idx", "bias"}
    assert "bias" not in linear(bias=False).to_tensors()


def test_dequantizing_is_exact() -> None:
    assert torch.equal(linear().dequantize(torch.float32), explicit())
    assert torch.equal(linear().dequantize(torch.bfloat16), explicit().bfloat16())


def test_moving_to_another_dtype_keeps_scales_and_weight() -> None:
    module = linear().to(torch.bfloat16).to(torch.float32)
    assert module.scales.dtype == torch.float32
    assert torch.equal(module.dequantize(), explicit())


def test_trained_scales_compute_what_the_file_will_hold() -> None:
    module = linear(bias=False)
    module.scales.data.mul_(1.0001)  # between two fp16 numbers
    file = module.to_tensors()
    again = PackedLinear(file["qweight"], file["qzeros"], file["scales"], None, 4, GROUP, torch.float32)
    x = torch.randn(20, COLUMNS)
    assert torch.equal(module(x), again(x))


@pytest.mark.parametrize("shape", [(COLUMNS,), (5, COLUMNS), (2, 3, COLUMNS)])
def test_forward_is_the_explicit_linear(shape: tuple[int, ...]) -> None:
    module, x = linear(), torch.randn(shape)
    assert module.bias is not None
    torch.testing.assert_close(module(x), functional.linear(x, explicit(), module.bias))


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_gradients_are_those_of_the_explicit_linear(dtype: torch.dtype, bits: int) -> None:
    codes, scales, zeros = integers(bits)
    module = linear(bits=bits)
    assert module.bias is not None
    module.scales.requires_grad_()
    module.bias.requires_grad_()
    x = torch.randn(2, 7, COLUMNS, dtype=dtype, requires_grad=True)
    target = torch.randn(2, 7, ROWS, dtype=dtype)
    (module(x) * target).sum().backward()

    other_x = x.detach().clone().requires_grad_()
    other_scales = scales.to(dtype).requires_grad_()
    other_bias = module.bias.detach().to(dtype).requires_grad_()
    groups = torch.arange(COLUMNS) // GROUP
    weight = (codes.to(dtype) - zeros.t()[:, groups].to(dtype)) * other_scales.t()[:, groups]
    torch.autograd.backward((functional.linear(other_x, weight, other_bias) * target).sum())
    torch.testing.assert_close(x.grad, other_x.grad)
    slack = 1e-4 * 2 ** (bits - 4)  # the sums grow with the integers in them
    torch.testing.assert_close(module.scales.grad, other_scales.grad, check_dtype=False, rtol=1e-4, atol=slack)
    torch.testing.assert_close(module.bias.grad, other_bias.grad, check_dtype=False, rtol=1e-4, atol=1e-4)
    assert module.levels.grad is None


def test_gradients_still_flow_after_inference() -> None:
    module = linear(bias=False).to(torch.bfloat16)
    with torch.no_grad():
        module(torch.randn(1, COLUMNS, dtype=torch.bfloat16))
    module.scales.requires_grad_()
    module(torch.randn(4, COLUMNS, dtype=torch.bfloat16)).sum().backward()
    assert module.scales.grad is not None and bool(module.scales.grad.any())


def test_the_int4_kernel_agrees_within_bf16_and_notices_new_scales() -> None:
    module = linear().to(torch.bfloat16)
    x = torch.randn(3, COLUMNS, dtype=torch.bfloat16)
    with torch.no_grad():
        for factor in (1.0, 2.0):
            module.scales.mul_(factor)
            exact = functional.linear(x.float(), module.dequantize(), torch.linspace(-1, 1, ROWS))
            assert (module(x).float() - exact).norm() < 0.01 * exact.norm()
        assert module._kernel is not None


def test_a_copy_and_autocast_compute_the_same() -> None:
    module, x = linear(), torch.randn(20, COLUMNS)
    assert torch.equal(copy.deepcopy(module)(x), module(x))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(module(x), module(x.bfloat16()))
