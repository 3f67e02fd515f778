"""Runs windows of text through a model one decoder layer at a time, so that memory holds one layer, not a model."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from attar import architecture, probe
from attar.model import Model, skeleton

Visit = Callable[[str, torch.Tensor], None]
BATCH_TOKENS = 4096  # tokens in one pass through a layer: large enough for full matmul speed, small in memory


class StreamedLayer:
    """One decoder layer in memory, and the hidden states that enter it."""

    def __init__(self, stream: "LayerStream", index: int, module: nn.Module) -> None:
        self.index = index
        self.prefix = f"{architecture.LAYERS}.{index}."
        self.module = module
        self._stream = stream

    @torch.no_grad()
    def inputs(self, names: Iterable[str], visit: Visit) -> None:
        """One pass over all windows; ``visit(name, x_NI)`` gets the named modules' inputs, batch by batch.

        ``x_NI`` is [tokens in the batch, in features] in the compute dtype.
        """
        hooks = []
        for name in names:

            def hook(_: nn.Module, args: tuple[torch.Tensor, ...], name: str = name) -> None:
                visit(name, args[0].flatten(0, -2))

            hooks.append(self.module.get_submodule(name).register_forward_pre_hook(hook))
        try:
            for start, stop in self._stream.batches:
                self._stream.forward(self.module, self._stream.hidden[start:stop])
        finally:
            for handle in hooks:
                handle.remove()


class LayerStream:
    """Iterate to get the layers in order; each is applied, as the body leaves it, before the next one comes.

    Args:
        source: a dense model.
        windows: token ids [n, t].
        dtype: compute dtype of the layers and of the hidden states.
        device: where they live.
        layers: indices of the layers that take part; all by default.
    """

    def __init__(
        self,
        source: Model,
        windows: npt.NDArray[np.int64],
        dtype: torch.dtype,
        device: str,
        layers: Sequence[int] | None = None,
    ) -> None:
        self.source = source
        self.layers = range(source.facts.layers) if layers is None else layers
        self.dtype = dtype
        self.device = device
        self.model = skeleton(source.hf_config(), dtype)
        self.rotary = type(self.model.model.rotary_emb)(config=self.model.config).to(device)
        embedding = self._stored(architecture.EMBEDDING)
        ids = torch.from_numpy(windows)
        self.hidden = embedding[ids].to(device, dtype)
        self._probe = embedding[probe.tokens(source.facts.vocabulary)].to(device, torch.float32)
        rows = max(1, BATCH_TOKENS // ids.shape[1]) if len(ids) else 1
        self.batches = [(i, min(i + rows, len(ids))) for i in range(0, len(ids), rows)]

    def __iter__(self) -> Iterator[StreamedLayer]:
        for index in self.layers:
            layer = StreamedLayer(self, index, self._load(index))
            yield layer
            self._advance(layer.module)

    def __len__(self) -> int:
        return len(self.layers)

    def _load(self, index: int) -> nn.Module:
        prefix = f"{architecture.LAYERS}.{index}."
        module: nn.Module = self.model.model.layers[index]
        names = [name for name in architecture.tensors(self.source.facts.config) if name.startswith(prefix)]
        state = {name.removeprefix(prefix): self._stored(name) for name in names}
        state = {name: tensor.to(self.device, self.dtype) for name, tensor in state.items()}
        module.load_state_dict(state, assign=True)
        return module.eval().requires_grad_(False)

    @torch.no_grad()
    def _advance(self, module: nn.Module) -> None:
        for start, stop in self.batches:
            self.hidden[start:stop] = self.forward(module, self.hidden[start:stop])
        self._probe = self.forward(module.float(), self._probe)
        module.to("meta")

    @torch.no_grad()
    def forward(self, module: nn.Module, hidden_BTH: torch.Tensor) -> torch.Tensor:
        """The layer's output for hidden states [batch, tokens, hidden], causal, positions from 0."""
        positions = torch.arange(hidden_BTH.shape[1], device=hidden_BTH.device)[None]
        tables = self.rotary(hidden_BTH, position_ids=positions)
        out: torch.Tensor = module(hidden_BTH, position_embeddings=tables, position_ids=positions)
        return out

    @torch.no_grad()
    def logits(self) -> torch.Tensor:
        """fp32 logits [64, vocabulary] of the probe after the last layer."""
        return self.head("cpu", torch.float32)(self._probe[0].cpu())

    def head(self, device: str, dtype: torch.dtype) -> Callable[[torch.Tensor], torch.Tensor]:
        """Final norm and head: hidden states [..., hidden] behind the last layer → logits [..., vocabulary]."""
        norm = deepcopy(self.model.model.norm)
        norm.load_state_dict({"weight": self._stored(architecture.FINAL_NORM).to(device, dtype)}, assign=True)
        tied = self.source.facts.config.get("tie_word_embeddings")
        weight = self._stored(architecture.EMBEDDING if tied else architecture.HEAD).to(device, dtype)

        @torch.no_grad()
        def project(hidden: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.linear(norm(hidden), weight)

        return project

    def rest(self) -> Iterator[tuple[str, torch.Tensor]]:
        """All tensors outside the layers."""
        for name in architecture.tensors(self.source.facts.config):
            if not name.startswith(architecture.LAYERS + "."):
                yield name, self._stored(name)

    def _stored(self, name: str) -> torch.Tensor:
        """A tensor as results hold it: in bf16, whatever the source is in, so that stage and file agree."""
        return self.source.tensor(name).to(torch.bfloat16)
