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
        stacked = torch.stack([torch.linalg.vector_norm(g, dtype=torch.float32) for g in grads.values()])
        known = dict(zip(grads, stacked.tolist(), strict=True))
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
        first, second = self.betas
        correction = (1 - second**self.steps) ** 0.5
        rate_now = rate / (1 - first**self.steps)
        assert parameter.grad is not None
        size = CPU_SLICE if parameter.device.type == "cpu" else parameter.numel()
        own_master = parameter.data.data_ptr() == self.masters[name].data_ptr()
        updated = (self.masters[name], self.means[name], self.squares[name], parameter.data)
        columns = [torch.split(column.view(-1), size) for column in updated]
        gradients = torch.split(parameter.grad.reshape(-1), size)
        for grad, master, mean, square, weight in zip(gradients, *columns, strict=True):
            wide = grad.float() if gradient_factor == 1 else grad.float() * gradient_factor
            mean.lerp_(wide, 1 - first)
            square.mul_(second).addcmul_(wide, wide, value=1 - second)
            if self.weight_decay and name in self.decayed:
                master.mul_(1 - rate * self.weight_decay)
            root = square.sqrt().div_(correction).add_(self.epsilon)
            master.addcdiv_(mean, root, value=-rate_now)
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
