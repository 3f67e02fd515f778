"""Floating-point operations of one token, from the shapes that are there; no tensor is read.

    FLOPs(c) = 2 · (W + H · V + A) + Σ over layers 4 · Q · min(c, window)

W: weights of all linears of the layers · H: hidden width · V: vocabulary · A: weights of an adapter · Q: heads × width
of a head · c: tokens that the token looks at, itself among them. A multiplication and an addition count as two. The
first term is the linears and the head (the embedding is looked up, not multiplied); the second the products of queries
with keys and of probabilities with values. Norms, activations, the softmax, rotary positions and the unpacking of
quantized weights are left out, as is usual: they are few beside these.
"""

from math import prod

from attar import architecture
from attar.facts import ModelFacts


def flops_per_token(facts: ModelFacts, context: int) -> int:
    """Operations that the last of ``context`` tokens takes when the others' keys and values are kept."""
    weights = sum(map(prod, architecture.linear_modules(facts.config).values())) + facts.hidden * facts.vocabulary
    if facts.adapter is not None:
        weights += sum(map(prod, facts.adapter.tensors(facts.config).values()))
    return 2 * weights + sum(4 * facts.heads * facts.head_dim * seen for seen in _seen(facts, context))


def _seen(facts: ModelFacts, context: int) -> list[int]:
    """Tokens that the last one looks at, in every layer: fewer where the layer's window slides."""
    config, known = facts.config, architecture.family(facts.config)
    window = architecture.read(config, "sliding_window") or context
    kinds = config.get("layer_types") or known.layer_types({**known.defaults, **config})
    if kinds is None:  # all layers are of one kind
        slides = "use_sliding_window" not in known.defaults  # where that switch counts, it is off
        kinds = ["sliding_attention" if slides else "full_attention"] * facts.layers
    return [min(window, context) if kind == "sliding_attention" else context for kind in kinds]
