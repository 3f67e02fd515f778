"""How a family of decoders is laid out: the words in which every family is described, and nothing of any one of them.

A description says where the tensors of a model lie in its files and what each of their dimensions stands for. From
that and the numbers of a config follow all shapes, and how to cut a tensor when a dimension of the model shrinks.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Literal

# What a dimension of a tensor counts: query = heads × head_dim, key = KV heads × head_dim, head = head_dim.
Axis = Literal["vocabulary", "positions", "hidden", "ffn", "query", "key", "head"]
# Of a tensor, one entry a dimension; several axes where fused projections lie one behind the other.
Dims = tuple[tuple[Axis, ...], ...]


@dataclass(frozen=True)
class Linear:
    """A linear of a layer, by its path within the layer."""

    name: str
    outputs: tuple[Axis, ...]
    inputs: Axis
    bias: bool | str = False  # or the config key that says so
    interleaved: bool = False  # fused outputs alternate head by head instead of lying one behind the other
    transposed: bool = False  # stored as [in, out] (transformers' Conv1D)

    @property
    def dims(self) -> Dims:
        """What the two dimensions of the stored weight are."""
        dims: Dims = (self.outputs, (self.inputs,))
        return dims[::-1] if self.transposed else dims


@dataclass(frozen=True)
class Norm:
    """A norm by its path, and what it normalises over."""

    name: str
    axis: Axis = "hidden"


@dataclass(frozen=True)
class Positions:
    """A learned table of positions; ``offset`` rows come before the one of position 0."""

    tensor: str
    offset: int = 0


@dataclass(frozen=True)
class Keys:
    """What ``config.json`` calls the numbers of a model; None where the family has no such key."""

    layers: str = "num_hidden_layers"
    hidden: str = "hidden_size"
    heads: str = "num_attention_heads"
    kv_heads: str | None = "num_key_value_heads"
    head_dim: str | None = "head_dim"
    ffn: str = "intermediate_size"
    vocabulary: str = "vocab_size"
    positions: str = "max_position_embeddings"
    hidden_too: tuple[str, ...] = ()  # other keys that have to equal the hidden width


# Reads a config (with the family's defaults): a half sentence why a model cannot be handled, or None.
Refusal = Callable[[Mapping[str, Any]], str | None]
# Reads a config: the kind of attention of every layer, where a config that does not say so implies several.
LayerTypes = Callable[[Mapping[str, Any]], list[str] | None]


@dataclass(frozen=True)
class Family:
    """The layout of a family. Names of tensors are those of its files."""

    # Linears of a layer in the order of computation, grouped by the input they share: one Hessian serves a group.
    linears: tuple[tuple[Linear, ...], ...]
    norms: tuple[Norm, ...]
    keys: Keys = Keys()
    layers: str = "model.layers"  # module path of the list of layers
    embedding: str = "model.embed_tokens.weight"
    positions: Positions | None = None
    final_norm: str = "model.norm"  # module path
    head: str = "lm_head.weight"  # in the files; the module is called lm_head everywhere
    norm_bias: bool = False
    norm_offset: float = 0.0  # a norm scales by its weight plus this
    # What transformers takes where a config lacks a key.
    defaults: Mapping[str, Any] = field(default_factory=dict)
    ffn_factor: int | None = None  # FFN channels ÷ hidden width where a config may leave it open
    refuses: tuple[Refusal, ...] = ()
    layer_types: LayerTypes = lambda _: None
    whole_heads: bool = False  # transformers wants a hidden width that the number of heads divides
    aliases: tuple[tuple[str, str], ...] = ()  # prefixes of older files → the prefixes that are meant

    @property
    def flat(self) -> tuple[Linear, ...]:
        """All linears of a layer, in order."""
        return tuple(chain.from_iterable(self.linears))

    @property
    def gated(self) -> bool:
        """Whether the FFN multiplies two projections of its input."""
        return sum(linear.outputs.count("ffn") for linear in self.flat) == 2

    @property
    def down(self) -> str:
        """The linear that leads out of the FFN."""
        return next(linear.name for linear in self.flat if linear.inputs == "ffn")

    @property
    def out(self) -> str:
        """The linear that leads out of the attention."""
        return next(linear.name for linear in self.flat if linear.inputs == "query")
