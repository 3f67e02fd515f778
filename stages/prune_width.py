"""Structured width pruning: FFN channels, and attention by KV group, uniform over the layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from attar.architecture import require_full_attention
from attar.errors import BadInput
from attar.facts import ModelFacts
from stages.base import Context, Cost, Stage, Use

if TYPE_CHECKING:
    import torch

    from attar.model import Model
    from attar.stream import StreamedLayer
    from attar.writer import Writer

DOWN, OUT = "mlp.down_proj", "self_attn.o_proj"


class Width(Stage):
    """Remove the FFN channels and attention groups that matter least.

    Importance ``activation`` (Minitron, arXiv 2407.14679): mean absolute activation over a window's tokens, L2 over
    the windows, per channel entering ``down_proj`` or per head entering ``o_proj``, with one forward pass.
    ``magnitude`` is the L2 norm of the weights that would go, the baseline. A KV group is one key/value head with all
    query heads that read it. Every layer loses the same number, so the result opens with AutoModel as it is.

    With ``compensate`` the remaining inputs of ``down_proj`` and ``o_proj`` take over what the removed ones
    contributed: the least-squares solution ``W H[:, K] (H[K, K] + λI)⁻¹`` for the inputs' second moments ``H``, with
    inputs from layers that are already pruned. It needs no training and costs one more product a layer.
    """

    stage: Literal["prune.width"] = "prune.width"
    version: ClassVar[int] = 1
    uses: ClassVar[frozenset[Use]] = frozenset({"calibration"})

    ffn: Annotated[float, Field(ge=0, lt=1, description="fraction of FFN channels removed in every layer")] = 0.125
    attention: Annotated[float, Field(ge=0, lt=1, description="fraction of KV groups removed in every layer")] = 0.0
    importance: Annotated[
        Literal["activation", "magnitude"], Field(description="what decides which channels and groups go")
    ] = "activation"
    compensate: Annotated[
        bool, Field(description="refit down_proj and o_proj on the channels that stay, by least squares")
    ] = True
    multiple_of: Annotated[
        int, Field(ge=1, le=1024, description="FFN channels that stay are rounded to a multiple of this")
    ] = 64
    windows: Annotated[int, Field(ge=1, le=100_000, description="windows of calibration text")] = 32
    length: Annotated[int, Field(ge=16, le=131_072, description="tokens in a calibration window")] = 512

    def kept(self, facts: ModelFacts) -> tuple[int, int]:
        """FFN channels and KV groups that stay; the nearest that the rounding allows."""
        channels = round(facts.ffn * (1 - self.ffn) / self.multiple_of) * self.multiple_of if self.ffn else facts.ffn
        return min(channels, facts.ffn), round(facts.kv_heads * (1 - self.attention))

    def plan(self, facts: ModelFacts) -> ModelFacts:
        if facts.quantization:
            raise BadInput("prune.width: the model is quantized already and integers cannot be sliced; prune before")
        channels, groups = self.kept(facts)
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
        for name, asked, left, all_of, what in (
            ("ffn", self.ffn, channels, facts.ffn, f"channels at multiple_of={self.multiple_of}"),
            ("attention", self.attention, groups, facts.kv_heads, "KV groups"),
        ):
            if left == all_of and (asked or not (self.ffn or self.attention)):
                raise BadInput(
                    f"prune.width: {name}={asked} removes nothing of {all_of} {what}; ask for more or for nothing of it"
                )
        require_full_attention(facts.config, self.length, "prune.width")
        heads = facts.heads // facts.kv_heads * groups
        return facts.changed(
            intermediate_size=channels,
            num_attention_heads=heads,
            num_key_value_heads=groups,
            head_dim=facts.head_dim,  # no longer hidden ÷ heads when heads go
            dtype="bfloat16",
        )

    def cost(self, facts: ModelFacts, teacher: ModelFacts) -> Cost:
        tokens = self.windows * self.length
        layer = facts.body_parameters // facts.layers
        moments = 2 * facts.ffn**2 * tokens * facts.layers if self.compensate else 0
        memory = 600_000_000 + 12 * layer + 4 * tokens * facts.hidden + 16 * facts.ffn**2
        memory += 6 * facts.vocabulary * facts.hidden
        return Cost(flops=2 * 2 * facts.body_parameters * tokens + moments, memory=memory)

    def tokens(self) -> dict[Literal["train", "calibration"], tuple[int, int]]:
        return {"calibration": (self.windows, self.length)}

    def apply(self, source: Model, out: Writer, context: Context) -> None:
        from attar.stream import LayerStream

        channels, groups = self.kept(source.facts)
        ids = context.data.windows("calibration", source.tokenizer_file, self.windows, self.length, context.seed)
        stream = LayerStream(source, ids, context.torch_dtype, context.device)
        for layer in stream:
            seen = Inputs(self.length, self.compensate)
            if self.compensate or self.importance == "activation":
                layer.inputs([DOWN, OUT], seen)
            keep_ffn = top(self._ffn_scores(layer, seen), channels)
            keep_groups = top(self._group_scores(layer, seen, source.facts), groups)
            key, query = (expand(keep_groups, source.facts, query) for query in (False, True))
            self._slice(layer, seen, keep_ffn, key, query)
            for name, parameter in layer.module.named_parameters():  # go on with what was stored, rounding included
                parameter.data = out.tensor(layer.prefix + name, parameter).to(parameter)
            context.progress(layer.index + 1, len(stream), "layers")
        for name, tensor in stream.rest():
            out.tensor(name, tensor)
        out.probe(stream.logits())

    def _ffn_scores(self, layer: StreamedLayer, seen: Inputs) -> torch.Tensor:
        if self.importance == "activation":
            return seen.importance(DOWN)
        gate, up, down = (weight_of(layer, f"mlp.{name}_proj") for name in ("gate", "up", "down"))
        return gate.square().sum(1) + up.square().sum(1) + down.square().sum(0)

    def _group_scores(self, layer: StreamedLayer, seen: Inputs, facts: ModelFacts) -> torch.Tensor:
        if self.importance == "activation":
            return seen.importance(OUT).square().view(facts.kv_heads, -1).sum(1)
        return weight_of(layer, OUT).square().sum(0).view(facts.kv_heads, -1).sum(1)

    def _slice(
        self, layer: StreamedLayer, seen: Inputs, ffn: torch.Tensor, key: torch.Tensor, query: torch.Tensor
    ) -> None:
        """Cut the layer's modules in place to the indices that stay."""
        module = layer.module
        for name, rows in (("mlp.gate_proj", ffn), ("mlp.up_proj", ffn), ("self_attn.q_proj", query)):
            cut_rows(module.get_submodule(name), rows)
        for name in ("self_attn.k_proj", "self_attn.v_proj"):
            cut_rows(module.get_submodule(name), key)
        for name, columns in ((DOWN, ffn), (OUT, query)):
            cut_columns(module.get_submodule(name), columns, seen.moments.get(name))


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


def weight_of(layer: StreamedLayer, name: str) -> torch.Tensor:
    """A linear's weight in fp32."""
    module: Any = layer.module.get_submodule(name)
    weight: torch.Tensor = module.weight.float()
    return weight


def cut_rows(linear: Any, rows: torch.Tensor) -> None:
    """Keep some outputs of a linear."""
    linear.weight.data = linear.weight.data[rows].clone()
    if linear.bias is not None:
        linear.bias.data = linear.bias.data[rows].clone()
    linear.out_features = len(rows)


def cut_columns(linear: Any, columns: torch.Tensor, second_moment: torch.Tensor | None) -> None:
    """Keep some inputs of a linear; with their second moments, refit what stays to the old output."""
    weight = linear.weight.data
    if second_moment is None or len(columns) == weight.shape[1]:
        linear.weight.data = weight[:, columns].clone()
    else:
        linear.weight.data = refit(weight.float(), second_moment, columns).to(weight.dtype)
    linear.in_features = len(columns)


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
