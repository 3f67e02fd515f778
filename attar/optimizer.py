"""AdamW that keeps fp32 masters for parameters held in a narrower dtype."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

CPU_SLICE = 1 << 18  # elements updated at a time: everything one slice needs stays in cache between its passes


class MasterAdamW:
    """Decoupled weight decay (Loshchilov & Hutter, arXiv 1711.05101) over fp32 masters.

    The model computes in its own dtype (bf16, say); updates far smaller than a bf16 step add up in the masters, from
    which the parameters are rounded anew after every step. A parameter that is fp32 is its own master.

    Args:
        parameters: name → parameter; names address the state.
        rates: name → peak learning rate.
        weight_decay: applied to matrices only, not to norms, biases or scales.
        decayed: names that weight decay applies to.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        rates: Mapping[str, float],
        weight_decay: float = 0.0,
        decayed: frozenset[str] = frozenset(),
        betas: tuple[float, float] = (0.9, 0.95),
        epsilon: float = 1e-8,
    ) -> None:
        self.parameters = dict(parameters)
        self.rates = dict(rates)
        self.weight_decay = weight_decay
        self.decayed = decayed
        self.betas = betas
        self.epsilon = epsilon
        self.steps = 0
        self.masters: dict[str, Tensor] = {n: p.data.float() for n, p in self.parameters.items()}
        self.means: dict[str, Tensor] = {n: torch.zeros_like(m) for n, m in self.masters.items()}
        self.squares: dict[str, Tensor] = {n: torch.zeros_like(m) for n, m in self.masters.items()}

    def gradient_norms(self) -> dict[str, float]:
        """Euclidean norm of each parameter's gradient; 0 where there is none."""
        grads = {n: p.grad for n, p in self.parameters.items() if p.grad is not None}
        if not grads:
            return dict.fromkeys(self.parameters, 0.0)
        known = dict(zip(grads, torch.stack([_norm(g) for g in grads.values()]).tolist(), strict=True))
        return {name: known.get(name, 0.0) for name in self.parameters}

    @torch.no_grad()
    def step(self, rate_factor: float, gradient_factor: float = 1.0) -> None:
        """One update from the gradients; they are let go.

        Args:
            rate_factor: the schedule's share of the peak learning rates.
            gradient_factor: multiplies every gradient (clipping).
        """
        self.steps += 1
        for name, parameter in self.parameters.items():
            if parameter.grad is None:
                continue
            self._update(name, parameter, rate_factor * self.rates[name], gradient_factor)
            parameter.grad = None

    def _update(self, name: str, parameter: nn.Parameter, rate: float, gradient_factor: float) -> None:
        assert parameter.grad is not None
        own_master = parameter.data.data_ptr() == self.masters[name].data_ptr()
        updated = (self.masters[name], self.means[name], self.squares[name], parameter.data, parameter.grad)
        size = _slice_size(parameter)
        steps = torch.tensor(float(self.steps), device=parameter.device)
        for parts in zip(*(torch.split(column.reshape(-1), size) for column in updated), strict=True):
            master, mean, square, weight, grad = parts
            wide = grad.float() if gradient_factor == 1 else grad.float().mul_(gradient_factor)
            torch._fused_adamw_(
                [master],
                [wide],
                [mean],
                [square],
                [],
                [steps],
                lr=rate,
                beta1=self.betas[0],
                beta2=self.betas[1],
                weight_decay=self.weight_decay if name in self.decayed else 0.0,
                eps=self.epsilon,
                amsgrad=False,
                maximize=False,
            )
            if not own_master:
                weight.copy_(master)

    def state(self) -> dict[str, Tensor]:
        """All that :meth:`load` needs besides the number of steps."""
        parts = {"master": self.masters, "mean": self.means, "square": self.squares}
        return {f"{part}.{name}": tensor for part, named in parts.items() for name, tensor in named.items()}

    @torch.no_grad()
    def load(self, tensor: Callable[[str], Tensor], steps: int) -> None:
        """Go on from a :meth:`state`, asked for tensor by tensor; the parameters become the rounded masters."""
        self.steps = steps
        for name, parameter in self.parameters.items():
            self.masters[name].copy_(tensor(f"master.{name}"))
            self.means[name].copy_(tensor(f"mean.{name}"))
            self.squares[name].copy_(tensor(f"square.{name}"))
            parameter.data.copy_(self.masters[name])

    def publish(self) -> None:
        """Make the fp32 masters the parameters: what is saved is rounded once, from them."""
        for name, parameter in self.parameters.items():
            parameter.data = self.masters[name]


def _slice_size(tensor: Tensor) -> int:
    return CPU_SLICE if tensor.device.type == "cpu" else max(1, tensor.numel())


def _norm(tensor: Tensor) -> Tensor:
    """Euclidean norm in fp32, without a copy of the whole in fp32."""
    parts = torch.split(tensor.reshape(-1), _slice_size(tensor))
    norms = torch.stack([torch.linalg.vector_norm(part, dtype=torch.float32) for part in parts])
    whole: Tensor = torch.linalg.vector_norm(norms)
    return whole
