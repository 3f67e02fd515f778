"""Where a model's bytes are, by part, and what they come to a weight; from facts alone, no tensor is read."""

from math import prod

from attar import architecture
from attar.facts import ModelFacts, TensorFact

# In the order they are told. Biases go with their linear; an embedding that is the head as well counts once, as
# embedding. "quantization": scales, zero points and indices of groups. "files": config, tokenizer and the headers.
BYTE_PARTS = ("embeddings", "attention", "ffn", "norms", "head", "quantization", "adapter", "other", "files")
METADATA = ("qzeros", "scales", "g_idx")


def bytes_by_part(facts: ModelFacts) -> dict[str, int]:
    """Part → bytes, all parts named; they add up to the bytes that a runtime needs (:attr:`ModelFacts.bytes`)."""
    of_linear = _linears(facts)
    norms, embeddings = architecture.norms(facts.config), architecture.embeddings(facts.config)
    head = architecture.family(facts.config).head
    adapted = facts.adapter.tensors(facts.config) if facts.adapter else {}
    found = dict.fromkeys(BYTE_PARTS, 0)
    for name, fact in facts.tensors().items():
        module, _, leaf = name.rpartition(".")
        if name in adapted:
            part = "adapter"
        elif module in of_linear:
            part = "quantization" if leaf in METADATA else of_linear[module]
        elif name in norms:
            part = "norms"
        else:
            part = "embeddings" if name in embeddings else "head" if name == head else "other"
        found[part] += fact.bytes
    return found | {"files": facts.side_bytes}


def bits_per_weight(facts: ModelFacts) -> float:
    """Bits of all tensors a logical parameter of the whole model; what an adapter holds comes on top."""
    return 8 * sum(fact.bytes for fact in facts.tensors().values()) / facts.parameters


def bits_quantized(facts: ModelFacts) -> float | None:
    """Bits a weight of the packed linears, with scales, zero points and indices; None where nothing is packed."""
    packed = facts.packed_modules
    if not packed:
        return None
    stored = sum(fact.bytes for name, fact in facts.tensors().items() if _packed(name, fact, packed))
    return 8 * stored / sum(prod(shape) for shape in packed.values())


def _packed(name: str, fact: TensorFact, packed: dict[str, tuple[int, int]]) -> bool:
    module, _, leaf = name.rpartition(".")
    return module in packed and leaf != "bias"


def _linears(facts: ModelFacts) -> dict[str, str]:
    """Full name of every linear of the layers → the half of the layer that it belongs to."""
    halves = {
        linear.name: "ffn" if "ffn" in (*linear.outputs, linear.inputs) else "attention"
        for linear in architecture.family(facts.config).flat
    }
    return {
        architecture.layer(facts.config, index) + name: half
        for index in range(facts.layers)
        for name, half in halves.items()
    }
