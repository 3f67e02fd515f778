"""What a config implies: which tensors there are, what their dimensions stand for, how other numbers are asked for.

The layouts of the families are data, in ``architectures``; here is the arithmetic. Nothing imports torch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from attar.architectures import FAMILIES, Axis, Dims, Family
from attar.errors import BadInput, nearest

__all__ = ["FAMILIES", "Axis", "Dims", "Family"]

PARAMETER = "lm_head.weight"  # of every model of transformers, whatever its files call the head
_SHAPE = ("layers", "hidden", "heads", "kv_heads", "head_dim", "ffn")  # numbers that a shape sets
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


@dataclass(frozen=True)
class Numbers:
    """The numbers of a decoder."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocabulary: int
    positions: int  # longest input of a learned table of positions; else what the config says


def family(config: Mapping[str, Any]) -> Family:
    """The family of a config, or a sentence why it is not handled and which are."""
    kind = str(config.get("model_type"))
    if kind not in FAMILIES:
        raise BadInput(f"model_type {kind!r} in config.json is not supported{_hint(kind, config)}; {_known(kind)}")
    known = FAMILIES[kind]
    keys = known.keys
    required = [keys.hidden, keys.layers, keys.heads, keys.vocabulary]
    required += [keys.ffn] if known.ffn_factor is None or config.get(keys.ffn) is not None else []
    missing = [key for key in required if not isinstance(config.get(key), int)]
    if missing:
        raise BadInput(f"config.json of a {kind} model lacks the number {missing[0]!r}")
    for reason in (refuses({**known.defaults, **config}) for refuses in known.refuses):
        if reason:
            raise BadInput(f"this {kind} model is not supported: {reason}; {_known('')}")
    return known


def _hint(kind: str, config: Mapping[str, Any]) -> str:
    if kind == "gemma3" or "text_config" in config:
        return (
            " (it has more than text; open its text part alone, Gemma3ForCausalLM for one, save it with "
            "save_pretrained and give that folder)"
        )
    if config.get("is_encoder_decoder"):
        return " (an encoder-decoder; Attar handles decoders)"
    return " (a mixture of experts; Attar handles dense layers)" if any(config.get(key) for key in EXPERTS) else ""


def _known(kind: str) -> str:
    listed = f"supported: {', '.join(sorted(FAMILIES))}"
    close = nearest(kind, FAMILIES)
    return f"{close} ({listed})" if close.startswith("did") else listed


def read(config: Mapping[str, Any], key: str) -> Any:
    """A key of a config, or what transformers takes where it is absent."""
    return config[key] if key in config else family(config).defaults.get(key)


def numbers(config: Mapping[str, Any]) -> Numbers:
    """All numbers of a config."""
    known = family(config)
    keys = known.keys
    return Numbers(
        layers=int(config[keys.layers]),
        hidden=int(config[keys.hidden]),
        heads=int(config[keys.heads]),
        kv_heads=kv_heads(config),
        head_dim=head_dim(config),
        ffn=int(config.get(keys.ffn) or (known.ffn_factor or 0) * config[keys.hidden]),
        vocabulary=int(config[keys.vocabulary]),
        positions=int(read(config, keys.positions) or 0),
    )


def head_dim(config: Mapping[str, Any]) -> int:
    """Width of one attention head."""
    known = family(config)
    default = known.defaults.get("head_dim") or config[known.keys.hidden] // config[known.keys.heads]
    return int((known.keys.head_dim and config.get(known.keys.head_dim)) or default)


def kv_heads(config: Mapping[str, Any]) -> int:
    """Number of key/value heads; equals the number of heads where attention is not grouped."""
    keys = family(config).keys
    return int((keys.kv_heads and read(config, keys.kv_heads)) or config[keys.heads])


def sizes(config: Mapping[str, Any]) -> dict[Axis, int]:
    """What every axis measures."""
    n, positions = numbers(config), family(config).positions
    return {
        "vocabulary": n.vocabulary,
        "positions": n.positions + (positions.offset if positions else 0),
        "hidden": n.hidden,
        "ffn": n.ffn,
        "query": n.heads * n.head_dim,
        "key": n.kv_heads * n.head_dim,
        "head": n.head_dim,
    }


def tied(config: Mapping[str, Any]) -> bool:
    """Whether the head is the embedding; if so, the files hold it once."""
    return bool(read(config, "tie_word_embeddings"))


def head(config: Mapping[str, Any]) -> str:
    """The tensor that turns hidden states into logits."""
    return family(config).embedding if tied(config) else family(config).head


def softcap(config: Mapping[str, Any]) -> float | None:
    """Logits are ``cap · tanh(logits / cap)`` where a config says so (Gemma 2)."""
    cap = read(config, "final_logit_softcapping")
    return float(cap) if cap else None


def parameter(config: Mapping[str, Any], tensor: str) -> str:
    """The parameter of the transformers model that a tensor of the files becomes."""
    return PARAMETER if tensor == family(config).head else tensor


def canonical(config: Mapping[str, Any], stored: str) -> str:
    """The name that a tensor of an older file goes by today."""
    for old, new in family(config).aliases:
        if stored.startswith(old):
            return new + stored.removeprefix(old)
    return stored


def layer(config: Mapping[str, Any], index: int) -> str:
    """What the names of a layer's tensors begin with."""
    return f"{family(config).layers}.{index}."


def linears(config: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Names within a layer → (out features, in features) of the layer's linear modules, however they are stored."""
    size = sizes(config)
    return {
        linear.name: (sum(size[axis] for axis in linear.outputs), size[linear.inputs]) for linear in family(config).flat
    }


def linear_modules(config: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Full names of all linear modules of all layers → (out features, in features)."""
    inner = linears(config)
    return {layer(config, i) + name: shape for i in range(numbers(config).layers) for name, shape in inner.items()}


def shared_inputs(config: Mapping[str, Any]) -> tuple[tuple[str, ...], ...]:
    """Names within a layer of its linears, in the order of computation, grouped by the input they share."""
    return tuple(tuple(linear.name for linear in group) for group in family(config).linears)


def transposed(config: Mapping[str, Any]) -> frozenset[str]:
    """Names within a layer of the linears whose weight is stored as [in, out]."""
    return frozenset(linear.name for linear in family(config).flat if linear.transposed)


def axes_of_layer(config: Mapping[str, Any]) -> dict[str, Dims]:
    """Names within a layer → what each dimension of the tensor stands for."""
    known = family(config)
    found: dict[str, Dims] = {}
    for linear in known.flat:
        found[f"{linear.name}.weight"] = linear.dims
        if read(config, linear.bias) if isinstance(linear.bias, str) else linear.bias:
            found[f"{linear.name}.bias"] = (linear.outputs,)
    for norm in known.norms:
        found[f"{norm.name}.weight"] = ((norm.axis,),)
        if known.norm_bias:
            found[f"{norm.name}.bias"] = ((norm.axis,),)
    return found


def axes(config: Mapping[str, Any]) -> dict[str, Dims]:
    """Names of all dense tensors that a checkpoint of this config holds → what each dimension stands for."""
    known, inner = family(config), axes_of_layer(config)
    found: dict[str, Dims] = {known.embedding: (("vocabulary",), ("hidden",))}
    if known.positions:
        found[known.positions.tensor] = (("positions",), ("hidden",))
    for index in range(numbers(config).layers):
        found |= {layer(config, index) + name: dims for name, dims in inner.items()}
    found[f"{known.final_norm}.weight"] = (("hidden",),)
    if known.norm_bias:
        found[f"{known.final_norm}.bias"] = (("hidden",),)
    if not tied(config):
        found[known.head] = (("vocabulary",), ("hidden",))
    return found


def tensors(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names → shapes of all dense tensors that a checkpoint of this config holds."""
    size = sizes(config)
    return {name: tuple(sum(size[a] for a in dim) for dim in dims) for name, dims in axes(config).items()}


def norms(config: Mapping[str, Any]) -> frozenset[str]:
    """Names of all tensors of norms."""
    known = family(config)
    inner = tuple(f"{norm.name}." for norm in known.norms)
    prefix = f"{known.layers}."
    return frozenset(
        name
        for name in axes(config)
        if name.startswith(f"{known.final_norm}.")
        or (name.startswith(prefix) and name.removeprefix(prefix).partition(".")[2].startswith(inner))
    )


def embeddings(config: Mapping[str, Any]) -> frozenset[str]:
    """Names of the embedding and of the table of positions, where there is one."""
    known = family(config)
    return frozenset({known.embedding} | ({known.positions.tensor} if known.positions else set()))


def resized(config: Mapping[str, Any], stage: str, **changed: int) -> dict[str, int]:
    """Config keys and values that ask for a model of other numbers (fields of :class:`Numbers`).

    Raises:
        BadInput: the config cannot say so, and a model that is opened from it would be another one.
    """
    known, now = family(config), numbers(config)
    keys = known.keys
    wanted = {name: value for name, value in changed.items() if value != getattr(now, name)}
    if {"hidden", "heads", "kv_heads", "head_dim"} & set(wanted):
        _require_head_dim(config, stage)
        changed = {"heads": now.heads, "kv_heads": now.kv_heads, "head_dim": now.head_dim, "ffn": now.ffn, **changed}
    hidden, heads = changed.get("hidden", now.hidden), changed.get("heads", now.heads)
    if known.whole_heads and hidden % heads:
        fitting = [n for n in range(heads, now.heads + 1) if hidden % n == 0 and n % (now.heads // now.kv_heads) == 0]
        raise BadInput(
            f"{stage}: {heads} heads do not divide the hidden width {hidden}, and transformers refuses such a "
            f"{config['model_type']} config; numbers of heads from there on that do: {', '.join(map(str, fitting))}"
        )
    found = {key: value for name, value in changed.items() if (key := getattr(keys, name)) is not None}
    return found | (dict.fromkeys(keys.hidden_too, hidden) if "hidden" in changed else {})


def _require_head_dim(config: Mapping[str, Any], stage: str) -> None:
    able = sorted(name for name, known in FAMILIES.items() if known.keys.head_dim)
    if family(config).keys.head_dim is None:
        raise BadInput(
            f"{stage}: the config of a {config['model_type']} model has no head_dim, so whoever opens the result would "
            f"take it as hidden width ÷ heads and be wrong; heads and hidden width can change for {', '.join(able)}; "
            "FFN channels and layers can go here"
        )
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if config["model_type"] == "phi3" and "short_factor" in rope:
        raise BadInput(
            f"{stage}: a phi3 config with long rotary factors ties them to hidden width ÷ heads, so neither can "
            "change; FFN channels and layers can go"
        )


def with_layers(config: Mapping[str, Any], kept: Sequence[int], stage: str) -> dict[str, Any]:
    """Config keys and values of a model that keeps these of its layers, in order.

    Raises:
        BadInput: a layer computes by its place, so that moved to another it would be another function.
    """
    if config.get("scale_attn_by_inverse_layer_idx"):
        raise BadInput(f"{stage}: scale_attn_by_inverse_layer_idx ties every layer to its place, so none can go")
    return _layers(config, kept)


def _layers(config: Mapping[str, Any], like: Sequence[int]) -> dict[str, Any]:
    """Config keys and values for layers each of which is of the kind of one of the config's own."""
    known = family(config)
    kinds = config.get("layer_types") or known.layer_types({**known.defaults, **config})
    per_layer = {"layer_types": [kinds[i] for i in like]} if kinds else {}
    return {known.keys.layers: len(like), **per_layer}


def shaped(config: Mapping[str, Any], stage: str, **asked: int) -> dict[str, Any]:
    """Config keys and values of a fresh model of these numbers (fields of :class:`Numbers`), the others as they are.

    No weights have to fit, so more can be asked for than of :func:`resized`: a head may be of another width where the
    config cannot say which, as long as it is hidden width ÷ heads. Kinds of layers follow each other as they do now.

    Raises:
        BadInput: no model has these numbers, and what is possible.
    """
    known, wanted = family(config), replace(numbers(config), **asked)
    keys, hidden, heads = known.keys, wanted.hidden, wanted.heads
    for name in asked:
        if getattr(keys, name) is None:
            follows = "is hidden ÷ heads" if name == "head_dim" else "equals heads"
            raise BadInput(
                f"{stage}: a {config['model_type']} model has no {name} of its own, it {follows}; leave it out"
            )
    kv_heads = wanted.kv_heads if keys.kv_heads else heads
    if heads % kv_heads:
        possible = ", ".join(str(n) for n in range(1, heads + 1) if heads % n == 0)
        raise BadInput(f"{stage}: {heads} heads cannot share {kv_heads} kv_heads; possible kv_heads: {possible}")
    if (known.whole_heads or keys.head_dim is None) and hidden % heads:
        possible = ", ".join(str(n) for n in range(1, hidden + 1) if hidden % n == 0)
        raise BadInput(f"{stage}: {heads} heads do not divide the hidden width {hidden}; possible heads: {possible}")
    width = wanted.head_dim if keys.head_dim else hidden // heads
    if width % 2 and known.positions is None:
        raise BadInput(f"{stage}: head_dim={width} is odd; rotary positions turn pairs of channels")
    if keys.head_dim and {"hidden", "heads", "head_dim"} & asked.keys():
        _require_head_dim(config, stage)
    sizes = {key: getattr(wanted, name) for name in _SHAPE if (key := getattr(keys, name)) is not None}
    like = [i % int(config[keys.layers]) for i in range(wanted.layers)]
    return {**sizes, **dict.fromkeys(keys.hidden_too, hidden), **_layers(config, like)}


def require_length(config: Mapping[str, Any], length: int, asked: str) -> None:
    """Refuse windows longer than a learned table of positions; other positions have no end that is wrong in itself.

    Args:
        length: tokens of a window.
        asked: who asks for it and by which setting, to begin the sentence with.
    """
    longest = numbers(config).positions
    if family(config).positions and length > longest:
        raise BadInput(f"{asked} is longer than the {longest} positions that the model has learned")
