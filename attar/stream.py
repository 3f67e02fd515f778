"""Runs windows of text through a model one decoder layer at a time, so that memory holds one layer, not a model."""

from collections.abc import Callable, Iterable, Iterator

import greenlet
import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from attar import architecture, probe
from attar.model import Model, skeleton
from attar.stream_memory import BATCH_TOKENS

Visit = Callable[[str, torch.Tensor], None]
HEAD_ROWS = 16384  # of the head, in fp32 at once


class StreamedLayer:
    """One decoder layer in memory, and the hidden states that enter it."""

    def __init__(self, stream: "LayerStream", index: int, module: nn.Module) -> None:
        self.index = index
        self.prefix = f"{architecture.LAYERS}.{index}."
        self.module = module
        self.passed = False  # the hidden states have gone through already
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

    @torch.no_grad()
    def in_step(self, names: Iterable[str], visit: Visit) -> Iterator[str]:
        """The one pass of the hidden states through the layer, halted wherever it comes to one of the named modules.

        All batches walk through the layer together: each runs to the first named module, ``visit(name, x_NI)`` gets
        its input, and when all have come there the name is yielded. What the caller then does to the weights of that
        module, and of those that get the same input, is what the batches compute with when they go on. So every
        linear runs once, on inputs that everything before it, in this layer too, has already changed.

        Every batch waits in a greenlet of its own, with its intermediate results: for all windows together these are
        the widest input in the layer, and up to three hidden states.
        """
        stream = self._stream
        hooks = []
        for name in names:

            def hook(_: nn.Module, args: tuple[torch.Tensor, ...], name: str = name) -> None:
                visit(name, args[0].flatten(0, -2))
                greenlet.getcurrent().parent.switch(name)

            hooks.append(self.module.get_submodule(name).register_forward_pre_hook(hook))

        def walk(start: int, stop: int) -> None:
            stream.hidden[start:stop] = stream.forward(self.module, stream.hidden[start:stop])

        walks = [greenlet.greenlet(walk) for _ in stream.batches]
        try:
            reached = {one.switch(*batch) for one, batch in zip(walks, stream.batches, strict=True)}
            while reached and reached != {None}:
                (name,) = reached
                yield name
                reached = {one.switch() for one in walks}
        finally:
            for handle in hooks:
                handle.remove()
        self.passed = True


class LayerStream:
    """Iterate to get the layers in order; each is applied, as the body leaves it, before the next one comes.

    Args:
        source: a dense model.
        windows: token ids [n, t].
        dtype: compute dtype of the layers and of the hidden states.
        device: where they live.
    """

    def __init__(self, source: Model, windows: npt.NDArray[np.int64], dtype: torch.dtype, device: str) -> None:
        self.source = source
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
        for index in range(self.source.facts.layers):
            layer = StreamedLayer(self, index, self._load(index))
            yield layer
            self._advance(layer)

    def __len__(self) -> int:
        return self.source.facts.layers

    def _load(self, index: int) -> nn.Module:
        prefix = f"{architecture.LAYERS}.{index}."
        module: nn.Module = self.model.model.layers[index]
        names = [name for name in architecture.tensors(self.source.facts.config) if name.startswith(prefix)]
        state = {name.removeprefix(prefix): self._stored(name) for name in names}
        state = {name: tensor.to(self.device, self.dtype) for name, tensor in state.items()}
        module.load_state_dict(state, assign=True)
        return module.eval().requires_grad_(False)

    @torch.no_grad()
    def _advance(self, layer: StreamedLayer) -> None:
        module = layer.module
        for start, stop in [] if layer.passed else self.batches:
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
        norm = self.model.model.norm
        norm.load_state_dict({"weight": self._stored(architecture.FINAL_NORM).float()}, assign=True)
        tied = self.source.facts.config.get("tie_word_embeddings")
        head = self._stored(architecture.EMBEDDING if tied else architecture.HEAD)
        hidden = norm.to(self.device)(self._probe[0]).cpu()
        parts_VH = torch.split(head, HEAD_ROWS)  # in fp32, the whole head would be the largest thing in memory
        return torch.cat([nn.functional.linear(hidden, part_VH.float()) for part_VH in parts_VH], dim=-1)

    def rest(self) -> Iterator[tuple[str, torch.Tensor]]:
        """All tensors outside the layers."""
        for name in architecture.tensors(self.source.facts.config):
            if not name.startswith(architecture.LAYERS + "."):
                yield name, self._stored(name)

    def _stored(self, name: str) -> torch.Tensor:
        """A tensor as results hold it: in bf16, whatever the source is in, so that stage and file agree."""
        return self.source.tensor(name).to(torch.bfloat16)
