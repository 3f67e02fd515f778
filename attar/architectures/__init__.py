"""The families Attar handles, by the ``model_type`` of their config; what follows from them is in ``architecture``."""

from attar.architectures.family import Axis, Dims, Family, Linear
from attar.architectures.gemma import GEMMA2, GEMMA3
from attar.architectures.gpt import GPT2, GPT_NEOX, OPT
from attar.architectures.llama import LLAMA, MISTRAL, QWEN2, QWEN3
from attar.architectures.phi3 import PHI3

FAMILIES: dict[str, Family] = {
    "llama": LLAMA,
    "mistral": MISTRAL,
    "qwen2": QWEN2,
    "qwen3": QWEN3,
    "gemma2": GEMMA2,
    "gemma3_text": GEMMA3,
    "phi3": PHI3,
    "gpt_neox": GPT_NEOX,
    "opt": OPT,
    "gpt2": GPT2,
}

__all__ = ["FAMILIES", "Axis", "Dims", "Family", "Linear"]
