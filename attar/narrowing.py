"""Fewer hidden channels: which of them count, and a lazy view of a model in which all others are gone.

Shape suffixes: N tokens, D hidden channels, K hidden channels that stay.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from attar import architecture
from attar.cutting import cut
from attar.facts import ModelFacts
from attar.model import Model
from attar.stream import LayerStream


class Narrowed(Model):
    """``source`` without some hidden channels: whatever reads or writes the residual stream is cut when it is read.

    Args:
        source: a dense model.
        facts: of the result; its heads and FFN are those of the source.
        kept_K: hidden channels that stay, rising.
        gains: tensor of a norm → factor of its weights.
    """

    def __init__(self, source: Model, facts: ModelFacts, kept_K: Tensor, gains: Mapping[str, float]) -> None:
        super().__init__(source.folder, source.fingerprint, source.task)
        self.facts = facts
        self._source = source
        self._kept = kept_K.cpu()
        self._gains = gains
        self._dims = architecture.axes(source.facts.config)

    def tensor(self, name: str) -> Tensor:
        narrow = cut(self._source.tensor(name), self._dims[name], {"hidden": self._kept}, self._source.facts.config)
        return (narrow.float() * self._gains[name]).to(narrow.dtype) if name in self._gains else narrow

    def hf_config(self) -> Any:
        """Of the source, then changed: between two cuts the numbers may be such as no config may begin with."""
        config = self._source.hf_config()
        before = self._source.facts.config
        for key, value in self.facts.config.items():
            if before.get(key) != value:
                setattr(config, key, value)
        return config


class Residual:
    """Collects what enters the norms of the residual stream, in units of its root mean square.

    The importance of a channel is its mean absolute value behind a norm over a window, L2 over the windows, summed over
    the norms of all layers (Minitron, arXiv 2407.14679, eq. 2).
    """

    def __init__(self, length: int) -> None:
        self.length = length
        self._squares: dict[str, Tensor] = {}  # norm → [D] squared mean absolute values, summed over windows
        self._energy: dict[str, Tensor] = {}  # norm → [D] Σ x² ÷ mean square of its token
        self._tokens: dict[str, int] = {}

    def __call__(self, name: str, x_ND: Tensor) -> None:
        x = x_ND.float()
        unit = x * x.square().mean(-1, keepdim=True).clamp_min(1e-12).rsqrt()
        means = unit.abs().view(-1, self.length, x.shape[1]).mean(1)
        self._squares[name] = self._squares.get(name, 0) + means.square().sum(0)
        self._energy[name] = self._energy.get(name, 0) + unit.square().sum(0)
        self._tokens[name] = self._tokens.get(name, 0) + len(x)

    def importance(self, source: Model) -> Tensor:
        """[D]"""
        return torch.stack(
            [
                squares.sqrt() * source.tensor(f"{name}.weight").to(squares.device, torch.float32).abs()
                for name, squares in self._squares.items()
            ]
        ).sum(0)

    def gains(self, kept_K: Tensor) -> dict[str, float]:
        """Factor of each norm's weights that makes up for its new root mean square, which the lost channels lack.

        What stays mostly has more than its share of the energy, so norms over it alone come out too small: the factor
        is the root of the mean of (mean square of what stays ÷ mean square of all), at most √(D ÷ K).
        """
        return {
            f"{name}.weight": float((energy[kept_K].sum() / (len(kept_K) * self._tokens[name])).sqrt())
            for name, energy in self._energy.items()
        }


def survey(stream: LayerStream, seen: Residual) -> None:
    """One pass: show ``seen`` what enters every norm over hidden channels."""
    family = architecture.family(stream.source.facts.config)
    norms = [norm.name for norm in family.norms if norm.axis == "hidden"]
    for layer in stream:

        def visit(name: str, x_ND: Tensor, prefix: str = layer.prefix) -> None:
            seen(prefix + name, x_ND)

        layer.inputs(norms, visit)
    for start, stop in stream.batches:
        seen(family.final_norm, stream.hidden[start:stop].flatten(0, -2))


def magnitude(source: Model) -> Tensor:
    """[D]: L2 norm of all weights that read or write a hidden channel, norms aside."""
    config = source.facts.config
    total = torch.zeros(source.facts.hidden)
    for name, dims in architecture.axes(config).items():
        if len(dims) == 2 and ("hidden",) in dims:
            total += source.tensor(name).float().square().sum(1 - dims.index(("hidden",)))
    return total.sqrt()
