"""prune.depth: whole layers go, those that the model misses least."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from attar import architecture
from attar.errors import BadInput
from attar.facts import ModelFacts
from stages.base import Context, Cost, Stage, Use

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable

    import torch

    from attar.model import Model
    from attar.stream import LayerStream
    from attar.writer import Writer

Index = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(gt=0)]


class Depth(Stage):
    """Remove whole layers: fewer steps for every token, so lower latency; the layers that stay are as they were.

    ``importance`` says which layers are missed least, on calibration windows. ``block_influence`` is one minus the mean
    cosine between what enters and what leaves a layer (ShortGPT, arXiv 2403.03853): one forward pass. ``loss`` is the
    rise of the next-token loss that the removal costs (Shortened LLaMA, arXiv 2402.02834), ``kl`` the divergence from
    the unpruned model: half a forward pass for every layer of the model, because a removal changes only what follows.

    With ``greedy`` one layer goes at a time and the rest is judged anew, since neighbours stand in for each other; the
    work is that of one choice times the number of layers removed. ``contiguous`` removes one block of neighbours: by
    angular distance between its two ends (arXiv 2403.17887) under ``block_influence``, else by what its removal costs.
    Every pass holds one layer in memory. The manifest names the layers that went and the score of every layer.
    """

    stage: Literal["prune.depth"] = "prune.depth"
    version: ClassVar[int] = 1
    uses: ClassVar[frozenset[Use]] = frozenset({"calibration"})

    layers: Annotated[
        Count | Share | Annotated[list[Index], Field(min_length=1)],
        Field(description="layers removed: how many, which fraction, or which ones (indices from 0)"),
    ] = 0.1
    importance: Annotated[
        Literal["block_influence", "loss", "kl"], Field(description="what decides which layers go")
    ] = "kl"
    greedy: Annotated[
        bool, Field(description="judge the rest anew after every removal; off: one judgement for all removals")
    ] = True
    contiguous: Annotated[bool, Field(description="remove one block of neighbouring layers; never greedy")] = False
    windows: Annotated[int, Field(ge=1, le=100_000, description="windows of calibration text")] = 8
    length: Annotated[int, Field(ge=16, le=131_072, description="tokens in a calibration window")] = 512

    def count(self, layers: int) -> int:
        """How many of ``layers`` go, or a sentence why that cannot be."""
        if isinstance(self.layers, list):
            if sorted(set(self.layers)) != self.layers:
                raise BadInput(f"prune.depth: layers={self.layers} must name each layer once, in rising order")
            if self.layers[-1] >= layers:
                raise BadInput(f"prune.depth: layers names layer {self.layers[-1]}, the model ends with {layers - 1}")
            count = len(self.layers)
        else:
            count = self.layers if isinstance(self.layers, int) else round(self.layers * layers)
        if count < 1:
            raise BadInput(
                f"prune.depth: layers={self.layers} removes nothing of {layers} layers; "
                f"the smallest fraction that removes one is {0.5 / layers + 0.001:.3f}"
            )
        if count >= layers:
            raise BadInput(f"prune.depth: layers={self.layers} leaves none of {layers}; at most {layers - 1} can go")
        return count

    def plan(self, facts: ModelFacts) -> ModelFacts:
        if facts.quantization:
            raise BadInput("prune.depth: the model is quantized already; remove layers before the quantization")
        if isinstance(self.layers, list) and self.contiguous:
            raise BadInput("prune.depth: contiguous chooses a block, and layers names the layers already; drop one")
        # Which layers go is known after calibration; all have the same shape, so any choice plans alike.
        last = range(facts.layers)[-self.count(facts.layers) :]
        gone = self.layers if isinstance(self.layers, list) else last
        return self._left(facts, _without(range(facts.layers), gone))

    def _left(self, facts: ModelFacts, kept: list[int]) -> ModelFacts:
        return facts.changed(**architecture.with_layers(facts.config, kept, self.stage), dtype="bfloat16")

    def warnings(self, facts: ModelFacts) -> list[str]:
        named = self.layers if isinstance(self.layers, list) else []
        ends = [name for name, index in (("first", 0), ("last", facts.layers - 1)) if index in named]
        return [f"removes the {end} layer, which hardly any model can do without" for end in ends]

    def cost(self, facts: ModelFacts, teacher: ModelFacts) -> Cost:
        layer = facts.body_parameters // facts.layers
        head = facts.vocabulary * facts.hidden
        memory = 600_000_000 + 12 * layer + 6 * head
        if isinstance(self.layers, list):
            return Cost(flops=2.0 * facts.parameters * 64, memory=memory)
        count, tokens = self.count(facts.layers), self.windows * self.length
        rounds = count if self.greedy and not self.contiguous else 1
        gaps = facts.layers - (count if self.contiguous else 1) + 1
        if self.importance == "block_influence":
            passes, copies = 1.0, 2 + (count if self.contiguous else 1)
            heads = 0
        else:
            passes, copies = 1 + gaps / 2, gaps + 2
            heads = gaps + 1
        flops = rounds * 2.0 * tokens * (passes * facts.body_parameters + heads * head)
        return Cost(flops=flops, memory=memory + copies * 2 * tokens * facts.hidden)

    def tokens(self) -> dict[Literal["train", "calibration"], tuple[int, int]]:
        return {} if isinstance(self.layers, list) else {"calibration": (self.windows, self.length)}

    def apply(self, source: Model, out: Writer, context: Context) -> None:
        import numpy as np

        from attar.stream import LayerStream

        everything = range(source.facts.layers)
        gone = self.layers if isinstance(self.layers, list) else self._choose(source, out, context)
        kept = _without(everything, gone)
        for end in {0, everything[-1]} & set(gone):
            context.log(f"layer {end} is at an end of the model, which hardly any model can do without", "warning")
        context.log(f"layers {', '.join(map(str, gone))} of {len(everything)} go")
        out.note("removed_layers", list(gone))

        no_windows = np.zeros((0, 1), dtype=np.int64)
        stream = LayerStream(source, no_windows, context.torch_dtype, context.device, kept)
        for place, layer in enumerate(stream):
            for name in architecture.axes_of_layer(stream.config):
                tensor = source.tensor(layer.prefix + name)
                out.tensor(architecture.layer(out.facts.config, place) + name, tensor)
        for name, tensor in stream.rest():
            out.tensor(name, tensor)
        out.probe(stream.logits())
        out.settle(self._left(source.facts, kept))  # the kinds of layers that are left, where there are several

    def _choose(self, source: Model, out: Writer, context: Context) -> list[int]:
        """The layers that go, in rising order."""
        import torch

        from attar.stream import LayerStream

        windows = context.data.windows(
            "calibration", source.tokenizer_file, self.windows, self.length, seed=context.seed
        )
        left = list(range(source.facts.layers))
        count = self.count(len(left))
        span = count if self.contiguous else 1
        rounds = count if self.greedy and not self.contiguous else 1
        whole: torch.Tensor | None = None  # states of the unpruned model
        done, total = 0, sum(len(left) - r for r in range(rounds))

        def tick() -> None:
            nonlocal done
            done += 1
            context.progress(done, total, "layers judged")

        for turn in range(rounds):
            stream = LayerStream(source, windows, context.torch_dtype, context.device, left)
            scores, whole = self._judge(stream, span, torch.from_numpy(windows), whole, tick)
            if turn == 0:
                for place, score in enumerate(scores):
                    context.report(f"depth/{self.importance}", score, step=place)
                out.note("layer_scores", scores)
            order = sorted(range(len(scores)), key=scores.__getitem__)  # ties go to the lower index
            if rounds > 1:
                context.log(f"layer {left[order[0]]} goes: {self.importance} {scores[order[0]]:.4f}")
            chosen = range(order[0], order[0] + span) if self.contiguous else order[: count // rounds]
            left = _without(left, [left[place] for place in chosen])
        return _without(range(source.facts.layers), left)

    def _judge(
        self,
        stream: LayerStream,
        span: int,
        ids_NT: torch.Tensor,
        whole_NTD: torch.Tensor | None,
        tick: Callable[[], None],
    ) -> tuple[list[float], torch.Tensor | None]:
        """The score of every place where a gap can begin (lower: missed less), and the unpruned model's states."""
        from attar.removal import angular_distance, block_influence, losses, shortened, turns

        if self.importance == "block_influence":
            return turns(stream, span, angular_distance if self.contiguous else block_influence, tick), None
        states = shortened(stream, span, tick)
        whole_NTD = stream.hidden if whole_NTD is None else whole_NTD
        found = losses(stream, states, ids_NT, whole_NTD, self.importance)
        return [found[place] for place in sorted(found)], whole_NTD


def _without(layers: Iterable[int], gone: Container[int]) -> list[int]:
    return [layer for layer in layers if layer not in gone]
