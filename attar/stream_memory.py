"""How much memory streaming a model layer by layer takes: arithmetic on facts, for plans. Torch-free."""

from math import prod

from attar.architecture import family, linears
from attar.facts import ModelFacts

BATCH_TOKENS = 2048  # tokens in one pass through a layer: enough for full matmul speed, and activations stay in a cache
WIDTH = 2  # bytes of a number in bf16


def stream_memory(facts: ModelFacts, tokens: int, solving: int) -> int:
    """Bytes at the peak, beside those of a process that has only imported its libraries.

    Counted are the hidden states of all windows, what the batches hold while they wait in step
    (:meth:`attar.stream.StreamedLayer.in_step`), one batch on its way, the layer, and the tensors outside the layers
    as they pass.

    Args:
        tokens: of all windows together; 0 where no text runs through the model.
        solving: bytes that the body of the loop takes while the batches wait.
    """
    known = family(facts.config)
    fused = {linear.outputs[0] for linear in known.flat if len(linear.outputs) > 1}
    hidden = WIDTH * tokens * facts.hidden
    heads = (facts.heads + facts.kv_heads) * facts.head_dim
    # The output of a fused projection stays as long as a part of it is needed.
    at_attention = hidden + WIDTH * tokens * heads * (3 if "query" in fused else 2)  # norm; q, k, v; mixed
    at_ffn = 2 * hidden + WIDTH * tokens * facts.ffn * (3 if "ffn" in fused else 1)  # residual, norm; what goes down
    wide = 3 if known.gated else 2  # gate, up and product; or what comes up, and behind its activation
    passing = min(tokens, BATCH_TOKENS) * (wide * WIDTH + 4) * facts.ffn  # what goes down in fp32 as well
    hessian = 4 * max(columns for _, columns in linears(facts.config).values()) ** 2 if tokens else 0
    layer = facts.body_parameters // facts.layers
    largest = max(prod(fact.shape) for fact in facts.tensors().values())
    return max(
        hidden + max(at_attention, at_ffn) + max(passing + hessian, solving) + (WIDTH + 1) * layer,
        hidden + 5 * layer,  # the layer in fp32 and its codes, for the probe
        hidden + WIDTH * largest,  # the embedding, while the first hidden states are read from it
        3 * largest,  # a tensor of the result, while it is proven to be finite
    )
