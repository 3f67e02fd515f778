"""Packed linears: the standard GPTQ tensors on disk, and a module that computes, and learns its scales, with them.

Legend of shapes: O out features, I in features, G groups of consecutive inputs, W 32-bit words.
File format (GPTQ version 1, as AutoGPTQ wrote it and GPTQModel, vLLM, SGLang and transformers read it), for b bits:
``qweight`` int32 [I * b / 32, O], ``qzeros`` int32 [G, O * b / 32] of zero points less one, ``scales`` fp16 [G, O],
``g_idx`` int32 [I]. The codes are one stream of bits, the first code in the lowest: 16, 8 or 4 codes of 2, 4 or 8 bits
fill a word, and 32 codes of 3 bits fill three, two of them lying across a border.
"""

from math import gcd
from typing import Any, Callable

import torch
from torch import nn

# Rows up to which the int4 kernel is faster than dequantizing and multiplying (measured on avx512_bf16).
KERNEL_ROWS = 8
KERNEL_GROUPS = (32, 64, 128, 256)
UNPACKED_ROWS = 64  # outputs


def to_gptq(
    codes_OI: torch.Tensor, scales_GO: torch.Tensor, zeros_GO: torch.Tensor, bits: int, group_size: int
) -> dict[str, torch.Tensor]:
    """The four tensors of the file, by leaf name. Codes and zeros are integers in ``uint8``; zeros are at least 1."""
    inputs = torch.arange(codes_OI.shape[1], dtype=torch.int32, device=codes_OI.device)
    return {
        "qweight": _pack(codes_OI.t(), bits),
        "qzeros": _pack((zeros_GO - 1).t(), bits).t().contiguous(),
        "scales": scales_GO.half().contiguous(),
        "g_idx": inputs // group_size,
    }


def from_gptq(qweight_WO: torch.Tensor, qzeros_GW: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Inverse of :func:`to_gptq`: codes (uint8 [O, I]) and zero points (uint8 [G, O])."""
    words, outputs = qweight_WO.shape
    codes = torch.empty(outputs, words * 32 // bits, dtype=torch.uint8, device=qweight_WO.device)
    # A few rows at a time: temporaries as large as the codes would leave holes between those of a whole model.
    for rows in range(0, outputs, UNPACKED_ROWS):
        part = slice(rows, rows + UNPACKED_ROWS)
        codes[part] = _unpack(qweight_WO[:, part], bits).t()
    zeros = _unpack(qzeros_GW.t(), bits).t().contiguous() + 1
    return codes, zeros


def _pack(codes_NM: torch.Tensor, bits: int) -> torch.Tensor:
    """[N, M] small integers → int32 [N * bits / 32, M]."""
    count, words = 32 // gcd(bits, 32), bits // gcd(bits, 32)
    parts = codes_NM.reshape(-1, count, codes_NM.shape[1])
    packed = torch.zeros(len(parts), words, parts.shape[2], dtype=torch.int32, device=parts.device)
    for place in range(count):
        word, shift = divmod(bits * place, 32)
        part = parts[:, place].to(torch.int32)
        packed[:, word] |= part << shift
        if shift + bits > 32:
            packed[:, word + 1] |= part >> (32 - shift)
    return packed.view(-1, parts.shape[2])


def _unpack(words_WM: torch.Tensor, bits: int) -> torch.Tensor:
    """int32 [W, M] → uint8 [W * 32 / bits, M]."""
    count, words = 32 // gcd(bits, 32), bits // gcd(bits, 32)
    packed = words_WM.reshape(-1, words, words_WM.shape[1])
    codes = torch.empty(len(packed), count, packed.shape[2], dtype=torch.uint8, device=packed.device)
    for place in range(count):
        word, shift = divmod(bits * place, 32)
        part = packed[:, word] >> shift  # fills with the sign: cut off below
        if shift + bits > 32:
            part = (part & (2 ** (32 - shift) - 1)) | (packed[:, word + 1] << (32 - shift))
        codes[:, place] = part & (2**bits - 1)
    return codes.view(-1, packed.shape[2])


class PackedLinear(nn.Module):
    """A linear layer whose weight is ``(codes - zeros) * scales``; the integers never change, the scales can learn.

    In memory the integers are ``levels`` (= codes - zeros, int8 [O, I], int16 for 8 bits) and ``zeros`` (uint8 [G, O]):
    one byte a weight instead of half a byte, because unpacking nibbles at every step costs more than it saves.

    ``scales`` is an fp32 parameter [G, O] whatever dtype the module is moved to. It is rounded to fp16 wherever it is
    used, so the module computes exactly what its file will hold; the rounding is transparent to gradients.

    Without gradients, in bf16 on a CPU and for at most 8 rows, torch's int4 kernel multiplies: it rounds scales and
    zero points to bf16, which moves each group of weights by up to 0.4 %. Everything else is exact dequantization,
    rounded once to the dtype of the input.

    Args:
        qweight, qzeros, scales: as in the file.
        bias: [O] or None.
        dtype: of the bias; the input decides in which dtype is computed.
    """

    levels: torch.Tensor
    zeros: torch.Tensor

    def __init__(
        self,
        qweight: torch.Tensor,
        qzeros: torch.Tensor,
        scales: torch.Tensor,
        bias: torch.Tensor | None,
        bits: int,
        group_size: int,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        codes, zeros = from_gptq(qweight, qzeros, bits)
        self.bits = bits
        self.group_size = group_size
        self.out_features, self.in_features = codes.shape
        self.register_buffer("zeros", zeros)
        # 8-bit codes less their zero point reach from -255 to 254.
        levels = codes.view(torch.int8) if bits < 8 else codes.to(torch.int16)
        self.register_buffer("levels", levels)
        self._of_groups(levels).sub_(self._zeros_OG1())
        self.scales = nn.Parameter(scales.float(), requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias.to(dtype), requires_grad=False)
        self._kernel: tuple[Any, torch.Tensor, torch.Tensor] | None = None

    @classmethod
    def from_codes(
        cls,
        codes_OI: torch.Tensor,
        scales_GO: torch.Tensor,
        zeros_GO: torch.Tensor,
        bias: torch.Tensor | None,
        bits: int,
        group_size: int,
        dtype: torch.dtype,
    ) -> "PackedLinear":
        """A module from integers, the way a quantizer has them."""
        file = to_gptq(codes_OI, scales_GO, zeros_GO, bits, group_size)
        return cls(file["qweight"], file["qzeros"], file["scales"], bias, bits, group_size, dtype)

    @property
    def codes(self) -> torch.Tensor:
        """The stored integers, uint8 [O, I]."""
        codes = self._of_groups(self.levels) + self._zeros_OG1()
        return codes.to(torch.uint8).view_as(self.levels)

    def _of_groups(self, levels_OI: torch.Tensor) -> torch.Tensor:
        """The same as [O, G, group size]."""
        return levels_OI.view(self.out_features, len(self.zeros), self.group_size)

    def _zeros_OG1(self) -> torch.Tensor:
        """The zero points in the dtype of the levels."""
        return self.zeros.to(self.levels.dtype).t().unsqueeze(-1)

    def to_tensors(self) -> dict[str, torch.Tensor]:
        """The tensors of the file by leaf name, ``bias`` included where there is one."""
        tensors = to_gptq(self.codes, self.scales.detach(), self.zeros, self.bits, self.group_size)
        return tensors if self.bias is None else {**tensors, "bias": self.bias.detach()}

    def dequantize(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """The weight [O, I]: exact in fp32, rounded once in anything smaller."""
        return _dequantize(self.levels, self.scales.detach(), dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``x @ weight.T + bias`` for x [..., I]; gradients reach the input, the scales and the bias."""
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        bias = None if self.bias is None else self.bias.to(x.dtype)
        multiply = self._kernel_matmul if self._fits_kernel(x) else self._exact_matmul
        y = multiply(x)
        return y if bias is None else y + bias

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bits={self.bits}, group_size={self.group_size}"

    def train(self, mode: bool = True) -> "PackedLinear":
        self._kernel = None  # the kernel's copy of the scales would go stale
        return super().train(mode)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> "PackedLinear":
        """Move like any module, but keep the scales in fp32."""
        self._kernel = None

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            moved = fn(tensor)
            return tensor.to(moved.device) if tensor is self.scales or tensor is self.scales.grad else moved

        super()._apply(keep, recurse)  # type: ignore[no-untyped-call]
        return self

    def _fits_kernel(self, x: torch.Tensor) -> bool:
        if x.device.type != "cpu" or x.dtype != torch.bfloat16 or x.numel() > KERNEL_ROWS * self.in_features:
            return False
        if torch.is_grad_enabled() and (x.requires_grad or self.scales.requires_grad):
            return False
        fits = self.bits == 4 and self.group_size in KERNEL_GROUPS and self.out_features % 16 == 0
        return fits and not self.training and x.numel() > 0

    def _exact_matmul(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = _PackedMatmul.apply(x, self.levels, self.scales)  # type: ignore[no-untyped-call]
        return y

    def _kernel_matmul(self, x: torch.Tensor) -> torch.Tensor:
        state = (self.scales.data_ptr(), self.scales._version)
        if self._kernel is None or self._kernel[0] != state:
            # The kernel computes (code - 8) * scale + offset.
            scales = self.scales.detach().half().float()
            offsets = (8 - self.zeros.float()) * scales
            weight = torch.ops.aten._convert_weight_to_int4pack_for_cpu(self.codes.to(torch.int32), 1)
            self._kernel = (state, weight, torch.stack([scales, offsets], dim=-1).to(torch.bfloat16))
        rows = x.reshape(-1, self.in_features)
        y = torch.ops.aten._weight_int4pack_mm_for_cpu(rows, self._kernel[1], self.group_size, self._kernel[2])
        out: torch.Tensor = y.view(*x.shape[:-1], self.out_features)
        return out


def _dequantize(levels_OI: torch.Tensor, scales_GO: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    groups, rows = scales_GO.shape
    scales_OG1 = scales_GO.half().float().t().unsqueeze(-1)
    return (levels_OI.view(rows, groups, -1) * scales_OG1).to(dtype).view_as(levels_OI)


class _PackedMatmul(torch.autograd.Function):
    """``x @ dequantize(levels, scales).T``; the weight is made anew in the backward instead of being kept."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, levels_OI: torch.Tensor, scales_GO: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, levels_OI, scales_GO)
        return nn.functional.linear(x, _dequantize(levels_OI, scales_GO, x.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, None, torch.Tensor | None]:
        x, levels_OI, scales_GO = ctx.saved_tensors
        (grad,) = grads
        grad_x = grad_scales = None
        if ctx.needs_input_grad[0]:
            grad_x = grad @ _dequantize(levels_OI, scales_GO, grad.dtype)
        if ctx.needs_input_grad[2]:
            grad_weight = grad.flatten(0, -2).t() @ x.flatten(0, -2)
            groups, rows = scales_GO.shape
            products = grad_weight.view(rows, groups, -1).float().mul_(levels_OI.view(rows, groups, -1))
            grad_scales = products.sum(-1).t().to(scales_GO.dtype)
        return grad_x, None, grad_scales
