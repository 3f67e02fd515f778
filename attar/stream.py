"""Runs windows of text through a model one decoder layer at a time, so that memory holds one layer, not a model.

What lies around the layers (embedding, positions, masks, rotary tables) is left to transformers: its own body runs with
the layers taken out, and what it hands to each of them is kept. So a window that slides, a scaled embedding or learned
positions are what the model means by them, in every family.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from typing import Any

import greenlet
import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from attar import architecture, machine, probe
from attar.model import Model, materialize_buffers, skeleton
from attar.stream_memory import BATCH_TOKENS

Visit = Callable[[str, torch.Tensor], None]
HEAD_ROWS = 16384  # of the head, in fp32 at once


class StreamedLayer:
    """One decoder layer in memory, and the hidden states that enter it."""

    def __init__(self, stream: "LayerStream", index: int, module: nn.Module) -> None:
        self.index = index
        self.config = stream.config
        self.prefix = architecture.layer(stream.config, index)
        self.module = module
        self.passed = False  # the hidden states have gone through already
        self._stream = stream

    def weight(self, name: str) -> torch.Tensor:
        """The weight of a linear as [out, in], however the family stores it."""
        weight: torch.Tensor = self.module.get_parameter(f"{name}.weight")
        return weight.t() if name in architecture.transposed(self._stream.config) else weight

    def exchange(self, module: nn.Module) -> None:
        """Go on with another module in this layer's place."""
        self.module.to("meta")
        self.module = module

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
                self._stream.forward(self.module, self.index, self._stream.hidden[start:stop])
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
        the widest input in the layer (with the whole output of a fused projection of which it is made, where there is
        one) and up to three hidden states.
        """
        stream = self._stream
        hooks = []
        for name in names:

            def hook(_: nn.Module, args: tuple[torch.Tensor, ...], name: str = name) -> None:
                visit(name, args[0].flatten(0, -2))
                greenlet.getcurrent().parent.switch(name)

            hooks.append(self.module.get_submodule(name).register_forward_pre_hook(hook))

        def walk(start: int, stop: int) -> None:
            stream.hidden[start:stop] = stream.forward(self.module, self.index, stream.hidden[start:stop])

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
        order: indices of the layers that take part; all by default.
    """

    def __init__(
        self,
        source: Model,
        windows: npt.NDArray[np.int64],
        dtype: torch.dtype,
        device: str,
        order: Sequence[int] | None = None,
    ) -> None:
        machine.give_back_large_blocks()
        self.source = source
        self.order = range(source.facts.layers) if order is None else order
        self.config = source.facts.config
        self.dtype = dtype
        self.device = device
        self.model = skeleton(source.hf_config(), dtype)
        self.layers = list(layers_of(self.model, source))
        self._surroundings = _Surroundings(self.model, source, device)
        ids = torch.from_numpy(windows)
        rows = max(1, BATCH_TOKENS // ids.shape[1]) if len(ids) else 1
        self.batches = [(i, min(i + rows, len(ids))) for i in range(0, len(ids), rows)]
        self.hidden = torch.empty(*ids.shape, source.facts.hidden, dtype=dtype, device=device)
        embedding = self._stored(architecture.family(self.config).embedding)
        for start, stop in self.batches:
            self.hidden[start:stop] = self._surroundings.embed(ids[start:stop], embedding, dtype)
        self._probe = self._surroundings.embed(probe.tokens(source.facts.vocabulary), embedding, torch.float32)

    def __iter__(self) -> Iterator[StreamedLayer]:
        for index in self.order:
            layer = StreamedLayer(self, index, self._load(index))
            yield layer
            self._advance(layer)

    def __len__(self) -> int:
        return len(self.order)

    def _load(self, index: int) -> nn.Module:
        prefix = architecture.layer(self.config, index)
        state = {name: self._stored(prefix + name) for name in architecture.axes_of_layer(self.config)}
        return load(self.layers[index], {n: tensor.to(self.device, self.dtype) for n, tensor in state.items()})

    @torch.no_grad()
    def _advance(self, layer: StreamedLayer) -> None:
        for start, stop in [] if layer.passed else self.batches:
            self.hidden[start:stop] = self.forward(layer.module, layer.index, self.hidden[start:stop])
        self._probe = self.forward(layer.module.float(), layer.index, self._probe)
        layer.module.to("meta")

    @torch.no_grad()
    def forward(self, module: nn.Module, index: int, hidden_BTH: torch.Tensor) -> torch.Tensor:
        """The output of a layer in place ``index`` for hidden states [batch, tokens, hidden], positions from 0."""
        arguments, keywords = self._surroundings.arguments(hidden_BTH)[index]
        out: torch.Tensor = module(hidden_BTH, *arguments, **keywords)
        return out

    @torch.no_grad()
    def logits(self) -> torch.Tensor:
        """fp32 logits [64, vocabulary] of the probe after the last layer."""
        return self.head("cpu", torch.float32, at_once=HEAD_ROWS)(self._probe[0].cpu())

    def head(
        self, device: str, dtype: torch.dtype, at_once: int | None = None
    ) -> Callable[[torch.Tensor], torch.Tensor]:
        """Final norm and head: hidden states [..., hidden] behind the last layer → logits [..., vocabulary].

        Args:
            at_once: rows of the head that are cast to ``dtype`` within a call, so that for a single call it never
                lies whole in memory in fp32; by default all are cast beforehand.
        """
        path = architecture.family(self.config).final_norm
        names = [name for name in architecture.tensors(self.config) if name.startswith(f"{path}.")]
        state = {name.removeprefix(f"{path}."): self._stored(name).to(device, dtype) for name in names}
        norm = load(deepcopy(self.model.get_submodule(path)), state)
        weight_VH = self._stored(architecture.head(self.config)).to(device)
        if at_once is None:
            weight_VH = weight_VH.to(dtype)
        parts_VH = torch.split(weight_VH, at_once or len(weight_VH))
        cap = architecture.softcap(self.config)

        @torch.no_grad()
        def project(hidden: torch.Tensor) -> torch.Tensor:
            normed = norm(hidden)
            logits = torch.cat([nn.functional.linear(normed, part_VH.to(dtype)) for part_VH in parts_VH], dim=-1)
            return logits if cap is None else torch.tanh(logits / cap) * cap

        return project

    def rest(self) -> Iterator[tuple[str, torch.Tensor]]:
        """All tensors outside the layers."""
        inside = f"{architecture.family(self.config).layers}."
        for name in architecture.tensors(self.config):
            if not name.startswith(inside):
                yield name, self._stored(name)

    def _stored(self, name: str) -> torch.Tensor:
        return stored(self.source, name)


def stored(source: Model, name: str) -> torch.Tensor:
    """A tensor as results hold it: in bf16, whatever the source is in, so that stage and file agree."""
    return source.tensor(name).to(torch.bfloat16)


def layers_of(model: nn.Module, source: Model) -> nn.ModuleList:
    """The decoder layers of a transformers model of the source's family."""
    layers = model.get_submodule(architecture.family(source.facts.config).layers)
    assert isinstance(layers, nn.ModuleList)
    return layers


def load(module: nn.Module, state: dict[str, torch.Tensor]) -> nn.Module:
    """A module of a skeleton with these tensors, in evaluation mode and without gradients."""
    module.load_state_dict(state, assign=True)
    return module.eval().requires_grad_(False)


class _Surroundings:
    """The body of a model without its layers: embeds tokens, and says what every layer is called with."""

    def __init__(self, model: Any, source: Model, device: str) -> None:
        self.body = model.base_model.eval()
        self.source = source
        self.device = device
        self.family = architecture.family(source.facts.config)
        materialize_buffers(model, device)
        owner, _, name = self.family.layers.rpartition(".")
        count = source.facts.layers
        self.places = [_Place(last=i == count - 1) for i in range(count)]
        setattr(model.get_submodule(owner), name, nn.ModuleList(self.places))
        self.table = model.get_submodule(self.family.embedding.removesuffix(".weight"))
        self.table.padding_idx = None  # it would have to be a row
        positions = self.family.positions
        if positions is not None:
            self.positions = model.get_submodule(positions.tensor.removesuffix(".weight"))
            self.learned = stored(source, positions.tensor)
        self._known: dict[tuple[torch.Size, torch.dtype], list[tuple[tuple[Any, ...], dict[str, Any]]]] = {}

    @torch.no_grad()
    def embed(self, ids_BT: torch.Tensor, embedding_VH: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """The hidden states that enter the first layer, [batch, tokens, hidden]; casts only the rows that occur."""
        used, places = torch.unique(ids_BT, return_inverse=True)
        self.table.weight = nn.Parameter(embedding_VH[used].to(self.device, dtype), requires_grad=False)
        embedded_BTH = self.table(places.to(self.device))
        self._call(embedded_BTH)
        return self.places[0].hidden

    def arguments(self, hidden_BTH: torch.Tensor) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
        """What each layer gets beside hidden states of this shape and dtype."""
        kind = (hidden_BTH.shape, hidden_BTH.dtype)
        if kind not in self._known:
            self._call(torch.zeros_like(hidden_BTH))
            self._known[kind] = [(place.arguments, place.keywords) for place in self.places]
        return self._known[kind]

    def _call(self, embedded_BTH: torch.Tensor) -> None:
        if self.family.positions is not None:
            load(self.positions, {"weight": self.learned.to(self.device, embedded_BTH.dtype)})
        try:
            self.body(inputs_embeds=embedded_BTH, use_cache=False)
        except _Through:
            return
        raise AssertionError("the body did not call its layers")


class _Place(nn.Module):
    """Stands in a layer's place and keeps what it is called with; the last one ends the call."""

    hidden: torch.Tensor
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]

    def __init__(self, last: bool) -> None:
        super().__init__()
        self.last = last

    def forward(self, hidden: torch.Tensor, *arguments: Any, **keywords: Any) -> torch.Tensor:
        self.hidden, self.arguments, self.keywords = hidden, arguments, keywords
        if self.last:
            raise _Through
        return hidden


class _Through(Exception):
    """All layers were called."""
