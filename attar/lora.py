"""Low-rank adapters on the linears of a model, dense or packed: attach, merge, take off (LoRA, arXiv 2106.09685).

Legend of shapes: O out features, I in features, R rank.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle
from transformers.pytorch_utils import Conv1D

from attar.adapter import SIDES, Adapter, tensor_name

CHILD = "adapter"  # the name of the adapter within its linear


class Lora(nn.Module):
    """``scale · B A x``: what is added to a linear's output. A dropout on x while training, seeded by the loop."""

    def __init__(self, lora_A_RI: Tensor, lora_B_OR: Tensor, scale: float, dropout: float = 0.0) -> None:
        super().__init__()
        with torch.device("meta"):
            self.lora_A = nn.Linear(lora_A_RI.shape[1], lora_A_RI.shape[0], bias=False)
            self.lora_B = nn.Linear(lora_B_OR.shape[1], lora_B_OR.shape[0], bias=False)
        self.lora_A.weight = nn.Parameter(lora_A_RI, requires_grad=False)
        self.lora_B.weight = nn.Parameter(lora_B_OR, requires_grad=False)
        self.scale = scale
        self.dropout = dropout
        self.hook: RemovableHandle | None = None  # of the linear that adds this adapter's output

    def forward(self, x: Tensor) -> Tensor:
        x = functional.dropout(x, self.dropout, self.training)
        y: Tensor = self.lora_B(self.lora_A(x))
        return y * self.scale

    def extra_repr(self) -> str:
        return f"scale={self.scale:g}, dropout={self.dropout:g}"


def attach(
    model: nn.Module, adapter: Adapter, tensor: Callable[[str], Tensor], dtype: torch.dtype, device: str
) -> None:
    """Put the adapter on the linears it names; they add its output to theirs from now on.

    Args:
        tensor: name in the adapter's file → the stored matrix.
    """
    for name in adapter.modules:
        sides = [tensor(tensor_name(name, side)).to(device, dtype) for side in SIDES]
        linear = model.get_submodule(name)
        lora = Lora(sides[0], sides[1], adapter.scale, adapter.dropout).eval()
        linear.add_module(CHILD, lora)
        lora.hook = linear.register_forward_hook(_add)


def fresh(adapter: Adapter, config: Any, seed: int) -> dict[str, Tensor]:
    """Tensors of an untrained adapter, by name in its file: A uniform in ±1/√I as Kaiming has it, B zero (fp32).

    With B zero the model's function is what it was before.
    """
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, shape in adapter.tensors(config).items():
        found[name] = torch.zeros(shape)
        if name.endswith("lora_A.weight"):
            bound = shape[1] ** -0.5
            found[name].uniform_(-bound, bound, generator=generator)
    return found


def adapters(model: nn.Module) -> dict[str, Lora]:
    """Full name of the linear → its adapter."""
    end = f".{CHILD}"
    return {n.removesuffix(end): m for n, m in model.named_modules() if isinstance(m, Lora) and n.endswith(end)}


def stored(model: nn.Module) -> dict[str, nn.Parameter]:
    """Name in the adapter's file → parameter, for every adapter on the model."""
    return {
        tensor_name(name, side): getattr(lora, side).weight for name, lora in adapters(model).items() for side in SIDES
    }


@contextmanager
def switched_off(model: nn.Module) -> Iterator[None]:
    """Within the block the model computes what it does without its adapters."""
    before = {part: part.scale for part in adapters(model).values()}
    try:
        for part in before:
            part.scale = 0.0
        yield
    finally:
        for part, scale in before.items():
            part.scale = scale


@torch.no_grad()
def merge(model: nn.Module) -> None:
    """Add every adapter's product to the weight beside it, in the weight's dtype, and take the adapters off.

    Raises:
        TypeError: a linear has no dense weight to add to.
    """
    for name, lora in adapters(model).items():
        linear = model.get_submodule(name)
        if not isinstance(linear, nn.Linear | Conv1D):
            raise TypeError(f"{name} is a {type(linear).__name__}, whose weight cannot take up an adapter")
        product_OI = lora.lora_B.weight.float() @ lora.lora_A.weight.float()
        product = product_OI.t() if isinstance(linear, Conv1D) else product_OI
        linear.weight.data = (linear.weight.float() + lora.scale * product).to(linear.weight.dtype)
        detach(linear)


def detach(linear: nn.Module) -> None:
    """Take the adapter off one linear."""
    lora: Any = linear.get_submodule(CHILD)
    if lora.hook is not None:
        lora.hook.remove()
    delattr(linear, CHILD)


def _add(linear: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    lora: Any = linear.get_submodule(CHILD)
    added: Tensor = lora(inputs[0])
    return output + added.to(output.dtype)
