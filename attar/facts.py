"""Facts about a model that follow from its config alone: what stages plan with, without torch and without weights."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Literal

from attar import architecture
from attar.adapter import Adapter
from attar.errors import BadInput

Part = Literal["embeddings", "body", "head", "rest"]
BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "BF16": 2, "F16": 2, "I8": 1, "U8": 1, "BOOL": 1}
BITS = (2, 3, 4, 8)  # of a packed weight
DTYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}


@dataclass(frozen=True)
class TensorFact:
    """Shape, safetensors dtype and place of one stored tensor."""

    shape: tuple[int, ...]
    dtype: str
    part: Part

    @property
    def bytes(self) -> int:
        return prod(self.shape) * BYTES[self.dtype]


@dataclass(frozen=True)
class Quantization:
    """Encoding of the packed linears: groups of ``group_size`` inputs (-1: all) share one scale and one zero point."""

    bits: int
    group_size: int
    symmetric: bool
    others: tuple[tuple[str, int], ...] = ()  # regular expression → bits of the modules it matches, first match wins

    def bits_of(self, module: str) -> int:
        """Bits of a weight of the module of this full name."""
        return next((bits for pattern, bits in self.others if re.match(pattern, module)), self.bits)

    def group_of(self, columns: int) -> int:
        """Inputs in a group of a linear with so many inputs."""
        return columns if self.group_size == -1 else self.group_size


@dataclass(frozen=True)
class ModelFacts:
    """A model as numbers. Stages map facts to facts; chaining them checks a recipe before any compute.

    What stages write is stored in bf16 (packed linears aside), whatever the origin is in: their plans say so.
    """

    config: Mapping[str, Any]
    task: str = "causal-lm"
    tokenizer: str | None = None  # SHA-256 of tokenizer.json
    side_bytes: int = 0  # config, tokenizer and other files a runtime needs beside the weights
    stored: bool = True  # False: the folder holds a config but no weights, so it can be planned and not run
    adapter: Adapter | None = None  # low-rank matrices beside packed linears, in a folder of their own

    def changed(self, **config: Any) -> "ModelFacts":
        """The same facts with some config keys replaced (``None`` removes a key)."""
        merged = {k: v for k, v in {**self.config, **config}.items() if v is not None or k not in config}
        return replace(self, config=merged)

    @property
    def dtype(self) -> str:
        return str(self.config.get("dtype") or self.config.get("torch_dtype") or "bfloat16")

    @property
    def numbers(self) -> architecture.Numbers:
        return architecture.numbers(self.config)

    @property
    def hidden(self) -> int:
        return self.numbers.hidden

    @property
    def layers(self) -> int:
        return self.numbers.layers

    @property
    def heads(self) -> int:
        return self.numbers.heads

    @property
    def kv_heads(self) -> int:
        return self.numbers.kv_heads

    @property
    def head_dim(self) -> int:
        return self.numbers.head_dim

    @property
    def ffn(self) -> int:
        return self.numbers.ffn

    def apart(self, other: "ModelFacts") -> str | None:
        """Why next-token distributions of two models cannot be held against each other; None where they can.

        Heads that are padded to different sizes are apart, too: what a row beyond the tokens stands for, nobody says.
        """
        if self.tokenizer != other.tokenizer:
            return "the tokenizer.json differs"
        if self.vocabulary != other.vocabulary:
            return f"the vocabulary differs ({self.vocabulary:,} and {other.vocabulary:,} rows)"
        return None

    @property
    def vocabulary(self) -> int:
        return self.numbers.vocabulary

    @property
    def quantization(self) -> Quantization | None:
        q = self.config.get("quantization_config")
        if q is None:
            return None
        known = {"quant_method": ("gptq",), "checkpoint_format": ("gptq", None), "bits": BITS}
        strange = [key for key, values in known.items() if q.get(key) not in values]
        strange += [key for key in ("desc_act", "lm_head") if q.get(key)]
        others = q.get("dynamic") or {}
        if not isinstance(others, dict) or not all(_only_bits(rule) for rule in others.values()):
            strange.append("dynamic")
        size = q.get("group_size")
        if strange or not isinstance(size, int) or (size < 1 and size != -1):
            key = strange[0] if strange else "group_size"
            raise BadInput(
                f"the model is quantized with {key}={q.get(key)!r}, which Attar does not read; it opens dense "
                "checkpoints and GPTQ of 2, 3, 4 or 8 bits (checkpoint_format gptq, no desc_act, dense head, dynamic "
                "with bits only)"
            )
        patterns = tuple((pattern.removeprefix("+:"), int(rule["bits"])) for pattern, rule in others.items())
        return Quantization(int(q["bits"]), size, bool(q.get("sym", True)), patterns)

    @property
    def packed_modules(self) -> dict[str, tuple[int, int]]:
        """Full module name → (out, in) of every packed linear; empty for a dense model."""
        return {} if self.quantization is None else architecture.linear_modules(self.config)

    def tensors(self) -> dict[str, TensorFact]:
        """Every tensor the checkpoint's files hold, by name."""
        dense = DTYPES[self.dtype]
        facts = {n: TensorFact(s, dense, self.part(n)) for n, s in architecture.tensors(self.config).items()}
        q = self.quantization
        for module, (rows, columns) in self.packed_modules.items():
            assert q is not None
            del facts[f"{module}.weight"]
            groups, bits = columns // q.group_of(columns), q.bits_of(module)
            facts[f"{module}.qweight"] = TensorFact((columns * bits // 32, rows), "I32", "body")
            facts[f"{module}.qzeros"] = TensorFact((groups, rows * bits // 32), "I32", "body")
            facts[f"{module}.scales"] = TensorFact((groups, rows), "F16", "body")
            facts[f"{module}.g_idx"] = TensorFact((columns,), "I32", "body")
        if self.adapter is not None:
            dtype, shapes = self.adapter.dtype, self.adapter.tensors(self.config)
            facts |= {name: TensorFact(shape, dtype, "body") for name, shape in shapes.items()}
        return facts

    @property
    def parameters(self) -> int:
        """Logical parameters: what the dense form of this model would hold."""
        return sum(prod(shape) for shape in architecture.tensors(self.config).values())

    @property
    def body_parameters(self) -> int:
        """Logical parameters of the transformer's layers."""
        return sum(prod(s) for n, s in architecture.tensors(self.config).items() if self.part(n) == "body")

    def part(self, tensor: str) -> Part:
        """Which part of the model a tensor belongs to; a learned table of positions is an embedding."""
        family = architecture.family(self.config)
        if tensor.startswith(family.layers + "."):
            return "body"
        if tensor in architecture.embeddings(self.config):
            return "embeddings"
        return "head" if tensor == family.head else "rest"

    def weight_bytes(self) -> dict[Part, int]:
        """Bytes of the stored tensors by part."""
        total: dict[Part, int] = {"embeddings": 0, "body": 0, "head": 0, "rest": 0}
        for fact in self.tensors().values():
            total[fact.part] += fact.bytes
        return total

    @property
    def bytes(self) -> int:
        """All bytes a runtime needs: weights, an adapter's among them, config, tokenizer."""
        return sum(self.weight_bytes().values()) + self.side_bytes

    def opened_bytes(self, width: int) -> int:
        """Bytes of this model opened in a dtype of ``width`` bytes; the integers of packed linears take one or two."""
        q, packed, total = self.quantization, self.packed_modules, 0
        for name, fact in self.tensors().items():
            module, _, leaf = name.rpartition(".")
            numbers = prod(fact.shape)
            if q is None or module not in packed or leaf == "bias":
                total += width * numbers
            elif leaf == "qweight":
                total += numbers * 32 // q.bits_of(module) * (2 if q.bits_of(module) == 8 else 1)
            elif leaf == "scales":
                total += 5 * numbers  # fp32, and a zero point in a byte
        return total

    @property
    def bf16_bytes(self) -> int:
        """Bytes of the dense model in bf16: the reference of every compression ratio."""
        return 2 * self.parameters + self.side_bytes


def _only_bits(rule: Any) -> bool:
    """A rule of ``dynamic`` that gives modules other bits and nothing else."""
    return isinstance(rule, dict) and set(rule) == {"bits"} and rule["bits"] in BITS
