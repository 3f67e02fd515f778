"""Phi-3: Llama's layer with q, k and v in one linear and gate and up in another."""

from attar.architectures.family import Family, Linear
from attar.architectures.llama import BEFORE

PHI3 = Family(
    linears=(
        (Linear("self_attn.qkv_proj", ("query", "key", "key"), "hidden"),),
        (Linear("self_attn.o_proj", ("hidden",), "query"),),
        (Linear("mlp.gate_up_proj", ("ffn", "ffn"), "hidden"),),
        (Linear("mlp.down_proj", ("hidden",), "ffn"),),
    ),
    norms=BEFORE,
)
