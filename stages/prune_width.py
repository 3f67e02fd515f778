"""Structured width pruning: FFN channels, attention by KV group, hidden channels; uniform over the layers."""

from __future__ import annotations

from math import lcm
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from attar import architecture
from attar.architecture import Axis
from attar.errors import BadInput
from attar.facts import ModelFacts
from stages.base import Context, Cost, Stage, Use

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

    from attar.model import Model
    from attar.stream import StreamedLayer
    from attar.taylor import Salience
    from attar.writer import Writer


class Width(Stage):
    """Remove the FFN channels, attention groups and hidden channels that matter least.

    Importance ``activation`` (Minitron, arXiv 2407.14679): mean absolute activation over a window's tokens, L2 over
    the windows, per channel that leaves the FFN or head that leaves the attention, with one forward pass.
    ``taylor`` is the same of activation times its gradient, the first-order change of the loss (arXiv 1906.10771,
    2305.11627): the whole model in memory, one backward a window, no optimizer. ``magnitude`` is the L2 norm of the
    weights that would go, the baseline. A KV group is one key/value head with all query heads that read it. Every layer
    loses the same number, so the result opens with AutoModel as it is.

    Hidden channels are the residual stream itself: embedding, head, norms and every matrix at it lose the same ones,
    those that matter least behind the norms of all layers together.

    With ``compensate`` the remaining inputs of the linears that lead out of FFN and attention take over what the
    removed ones contributed: the least-squares solution ``W H[:, K] (H[K, K] + λI)⁻¹`` for the inputs' second moments
    ``H``, with inputs from layers that are already pruned; and norms over fewer hidden channels are scaled back to the
    root mean square that they had. It needs no training and costs one more product a layer.
    """

    stage: Literal["prune.width"] = "prune.width"
    version: ClassVar[int] = 1
    uses: ClassVar[frozenset[Use]] = frozenset({"calibration"})

    ffn: Annotated[float, Field(ge=0, lt=1, description="fraction of FFN channels removed in every layer")] = 0.125
    attention: Annotated[float, Field(ge=0, lt=1, description="fraction of KV groups removed in every layer")] = 0.0
    hidden: Annotated[float, Field(ge=0, lt=1, description="fraction of hidden channels removed everywhere")] = 0.0
    importance: Annotated[
        Literal["activation", "taylor", "magnitude"], Field(description="what decides which channels and groups go")
    ] = "activation"
    compensate: Annotated[
        bool, Field(description="refit the linears out of FFN and attention on what stays, by least squares")
    ] = True
    multiple_of: Annotated[
        int, Field(ge=1, le=1024, description="FFN and hidden channels that stay are rounded to a multiple of this")
    ] = 64
    windows: Annotated[int, Field(ge=1, le=100_000, description="windows of calibration text")] = 32
    length: Annotated[int, Field(ge=16, le=131_072, description="tokens in a calibration window")] = 512

    def kept(self, facts: ModelFacts) -> tuple[int, int]:
        """FFN channels and KV groups that stay; the nearest that the rounding allows."""
        channels = round(facts.ffn * (1 - self.ffn) / self.multiple_of) * self.multiple_of if self.ffn else facts.ffn
        return min(channels, facts.ffn), round(facts.kv_heads * (1 - self.attention))

    def kept_hidden(self, facts: ModelFacts) -> tuple[int, int]:
        """Hidden channels that stay, and the step that they are rounded to."""
        heads = facts.heads // facts.kv_heads * self.kept(facts)[1]
        whole = architecture.family(facts.config).whole_heads  # transformers wants a multiple of the heads, too
        step = lcm(self.multiple_of, max(heads, 1) if whole else 1)
        left = round(facts.hidden * (1 - self.hidden) / step) * step if self.hidden else facts.hidden
        return min(left, facts.hidden), step

    def plan(self, facts: ModelFacts) -> ModelFacts:
        if facts.quantization:
            raise BadInput("prune.width: the model is quantized already and integers cannot be sliced; prune before")
        channels, groups = self.kept(facts)
        hidden, step = self.kept_hidden(facts)
        if channels < 1:
            largest = 1 - self.multiple_of / facts.ffn
            raise BadInput(
                f"prune.width: ffn={self.ffn} leaves none of {facts.ffn} channels at multiple_of={self.multiple_of}; "
                f"the largest that leaves some is {max(largest, 0):.3f}"
            )
        if groups < 1:
            raise BadInput(
                f"prune.width: attention={self.attention} leaves none of {facts.kv_heads} KV groups; "
                f"the largest that leaves one is {1 - 1 / facts.kv_heads:.3f}"
            )
        if hidden < 1:
            raise BadInput(
                f"prune.width: hidden={self.hidden} leaves none of {facts.hidden} hidden channels in steps of {step}; "
                f"the largest that leaves some is {max(1 - step / facts.hidden, 0):.3f}"
            )
        if self.hidden and facts.config["model_type"].startswith("gemma"):
            raise BadInput(
                "prune.width: a gemma multiplies its embedding by the root of its hidden width, which a narrower one "
                "would do otherwise; FFN channels, KV groups and layers can go"
            )
        for name, asked, left, all_of, what in (
            ("ffn", self.ffn, channels, facts.ffn, f"channels at multiple_of={self.multiple_of}"),
            ("attention", self.attention, groups, facts.kv_heads, "KV groups"),
            ("hidden", self.hidden, hidden, facts.hidden, f"hidden channels in steps of {step}{self._why(step)}"),
        ):
            if left == all_of and (asked or not (self.ffn or self.attention or self.hidden)):
                raise BadInput(
                    f"prune.width: {name}={asked} removes nothing of {all_of} {what}; ask for more or for nothing of it"
                )
        heads = facts.heads // facts.kv_heads * groups
        # head_dim is no longer hidden ÷ heads when heads go
        numbers = {"ffn": channels, "heads": heads, "kv_heads": groups, "head_dim": facts.head_dim}
        numbers |= {"hidden": hidden} if self.hidden else {}
        return facts.changed(**architecture.resized(facts.config, self.stage, **numbers), dtype="bfloat16")

    def _why(self, step: int) -> str:
        """What else than ``multiple_of`` makes the step of the hidden width, in brackets."""
        return "" if step == self.multiple_of else f" (whole heads, and multiple_of={self.multiple_of}: lower it)"

    def cost(self, facts: ModelFacts, teacher: ModelFacts) -> Cost:
        tokens = self.windows * self.length
        layer = facts.body_parameters // facts.layers
        moments = 2 * facts.ffn**2 * tokens * facts.layers if self.compensate else 0
        memory = 600_000_000 + 12 * layer + 4 * tokens * facts.hidden + 16 * facts.ffn**2
        memory += 6 * facts.vocabulary * facts.hidden
        flops = 2 * (3 if self.hidden else 2) * facts.body_parameters * tokens + moments
        if self.importance == "taylor":  # forward, backward without the weights' gradients, and the model in memory
            flops += 4 * facts.parameters * tokens
            kept = facts.layers * (12 * facts.hidden + 5 * facts.ffn) * 2 * self.length
            logits = 512 * facts.vocabulary * 2 * 2
            memory = max(memory, 1_000_000_000 + 2 * facts.parameters + kept + logits)
        return Cost(flops=flops, memory=memory)

    def tokens(self) -> dict[Literal["train", "calibration"], tuple[int, int]]:
        return {"calibration": (self.windows, self.length)}

    def apply(self, source: Model, out: Writer, context: Context) -> None:
        from attar.cutting import cut
        from attar.model import hf_config, skeleton
        from attar.stream import LayerStream, layers_of, load

        channels, groups = self.kept(source.facts)
        ids = context.data.windows("calibration", source.tokenizer_file, self.windows, self.length, context.seed)
        salience = self.salience(source, ids, context) if self.importance == "taylor" else None
        if self.hidden:
            source = self._narrowed(source, ids, salience, out, context)
        stream = LayerStream(source, ids, context.torch_dtype, context.device)
        family, axes = architecture.family(stream.config), architecture.axes_of_layer(stream.config)
        narrower = layers_of(skeleton(hf_config(out.facts.config), context.torch_dtype), source)
        for layer in stream:
            seen = Inputs(self.length, self.compensate)
            if self.compensate or self.importance == "activation":
                layer.inputs([family.down, family.out], seen)
            kept: dict[Axis, torch.Tensor] = {"ffn": top(self.ffn_scores(layer, seen, salience), channels)}
            if groups < source.facts.kv_heads:
                chosen = top(self._group_scores(layer, seen, salience), groups)
                kept["key"], kept["query"] = (expand(chosen, source.facts, query) for query in (False, True))
            state = {}
            for name, tensor in layer.module.state_dict().items():
                fitted = refitted(name, tensor, kept, seen, source.facts)
                left = cut(tensor, axes[name], kept, stream.config) if fitted is None else fitted
                state[name] = out.tensor(layer.prefix + name, left).to(tensor)  # go on with what was stored
            layer.exchange(load(narrower[layer.index], state))
            context.progress(layer.index + 1, len(stream), "layers")
        for name, tensor in stream.rest():
            out.tensor(name, tensor)
        out.probe(stream.logits())

    def salience(self, source: Model, ids_NT: npt.NDArray[np.int64], context: Context) -> Salience:
        """Taylor importance of everything that may go, from the whole model in memory."""
        import torch

        from attar.taylor import Salience, backward

        facts, family = source.facts, architecture.family(source.facts.config)
        prefixes = [architecture.layer(facts.config, index) for index in range(facts.layers)]
        width = facts.head_dim * facts.heads // facts.kv_heads
        seen = Salience({prefix + family.out: width for prefix in prefixes})
        model = source.materialize(context.torch_dtype, context.device)
        places = [prefix + name for prefix in prefixes for name in (family.down, family.out, *readers(family))]
        backward(model, torch.from_numpy(ids_NT), places, seen, lambda n, of: context.progress(n, of, "windows"))
        return seen

    def _narrowed(
        self, source: Model, ids_NT: npt.NDArray[np.int64], salience: Salience | None, out: Writer, context: Context
    ) -> Model:
        """The source without the hidden channels that matter least."""
        from attar.narrowing import Narrowed, Residual, magnitude, survey
        from attar.stream import LayerStream
        from attar.taylor import LAST

        facts, family = source.facts, architecture.family(source.facts.config)
        seen = Residual(self.length)
        if self.compensate or self.importance == "activation":
            survey(LayerStream(source, ids_NT, context.torch_dtype, context.device), seen)
        if salience is not None:
            prefixes = [architecture.layer(facts.config, index) for index in range(facts.layers)]
            places = [prefix + name for prefix in prefixes for name in readers(family)]
            scores = salience.total([*places, LAST])
        else:
            scores = seen.importance(source) if self.importance == "activation" else magnitude(source)
        kept = top(scores, self.kept_hidden(facts)[0])
        out.note("kept_hidden", kept.tolist())
        keys = {family.keys.hidden: len(kept), family.keys.head_dim: facts.head_dim}
        narrow = facts.changed(**{key: value for key, value in keys.items() if key})
        gains = seen.gains(kept) if self.compensate else {}
        if gains:
            out.note("norm_gains", gains)
            context.log(f"norms grow by {min(gains.values()):.3f} to {max(gains.values()):.3f}")
        return Narrowed(source, narrow, kept, gains)

    def ffn_scores(self, layer: StreamedLayer, seen: Inputs, salience: Salience | None) -> torch.Tensor:
        """Importance of a layer's FFN channels."""
        family = architecture.family(layer.config)
        if salience is not None:
            return salience.importance(layer.prefix + family.down)
        if self.importance == "activation":
            return seen.importance(family.down)
        found, sizes = [], architecture.sizes(layer.config)
        for linear in family.flat:
            square = layer.weight(linear.name).float().square()
            start = 0
            for axis in linear.outputs:
                if axis == "ffn":
                    found.append(square[start : start + sizes[axis]].sum(1))
                start += sizes[axis]
            if linear.inputs == "ffn":
                found.append(square.sum(0))
        return sum(found[1:], start=found[0])

    def _group_scores(self, layer: StreamedLayer, seen: Inputs, salience: Salience | None) -> torch.Tensor:
        out, groups = architecture.family(layer.config).out, architecture.numbers(layer.config).kv_heads
        if salience is not None:
            return salience.importance(layer.prefix + out)
        if self.importance == "activation":
            return seen.importance(out).square().view(groups, -1).sum(1)
        return layer.weight(out).float().square().sum(0).view(groups, -1).sum(1)


def readers(family: architecture.Family) -> list[str]:
    """Linears of a layer that see the residual stream through a norm, one of each that share it."""
    return [shared[0].name for shared in family.linears if shared[0].inputs == "hidden"]


def refitted(
    name: str, tensor: torch.Tensor, kept: dict[Axis, torch.Tensor], seen: Inputs, facts: ModelFacts
) -> torch.Tensor | None:
    """The weight of a linear that leads out of FFN or attention, refit to the inputs that stay; None for others."""
    for linear in architecture.family(facts.config).flat:
        columns, moments = kept.get(linear.inputs), seen.moments.get(linear.name)
        if name != f"{linear.name}.weight" or columns is None or moments is None or len(columns) == len(moments):
            continue
        weight = tensor.t() if linear.transposed else tensor
        fitted = refit(weight.float(), moments, columns).to(tensor.dtype)
        return fitted.t() if linear.transposed else fitted
    return None


class Inputs:
    """Collects, for the inputs of some modules, importance and (for compensation) second moments, in fp32."""

    def __init__(self, length: int, with_moments: bool) -> None:
        self.length = length
        self.with_moments = with_moments
        self.moments: dict[str, torch.Tensor] = {}  # name → Σ x xᵀ [in, in]
        self._squares: dict[str, torch.Tensor] = {}

    def __call__(self, name: str, x_NI: torch.Tensor) -> None:
        x = x_NI.float()
        means = x.abs().view(-1, self.length, x.shape[1]).mean(1)  # [windows, in]
        self._squares[name] = self._squares.get(name, 0) + means.square().sum(0)
        if self.with_moments:
            self.moments[name] = self.moments[name].addmm_(x.T, x) if name in self.moments else x.T @ x

    def importance(self, name: str) -> torch.Tensor:
        """[in]: mean absolute activation over a window, L2 over the windows."""
        return self._squares[name].sqrt()


def top(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Indices of the ``count`` highest scores, ascending; ties go to the lower index."""
    return scores.argsort(descending=True, stable=True)[:count].sort().values


def expand(groups: torch.Tensor, facts: ModelFacts, query: bool) -> torch.Tensor:
    """Rows of q (``query``) or of k and v that belong to these KV groups."""
    import torch

    width = facts.head_dim * (facts.heads // facts.kv_heads if query else 1)
    return (groups[:, None] * width + torch.arange(width, device=groups.device)).flatten()


def refit(weight_OI: torch.Tensor, second_moment_II: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Weights [out, kept] that minimise ‖W x − W' x[kept]‖² over inputs with these second moments, damped by 1 %."""
    import torch

    moments = second_moment_II[columns].double()  # [kept, in]
    kept = moments[:, columns]
    damping = 0.01 * kept.diagonal().mean()
    # Damped towards the sliced weights, not towards zero.
    target = moments @ weight_OI.double().T + damping * weight_OI[:, columns].double().T
    solution: torch.Tensor = torch.linalg.solve(kept + damping * torch.eye(len(columns)).to(kept), target)
    return solution.T.float()
