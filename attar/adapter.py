"""A low-rank adapter beside a frozen model, as facts and as the folder that peft reads. Torch-free."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from attar import architecture
from attar.errors import BadInput, nearest

FOLDER = "adapter"  # within the model's folder
CONFIG = f"{FOLDER}/adapter_config.json"
WEIGHTS = f"{FOLDER}/adapter_model.safetensors"
PREFIX = "base_model.model."  # what peft puts before the name of a module
SIDES = ("lora_A", "lora_B")

Shapes = Mapping[str, tuple[int, int]]


@dataclass(frozen=True)
class Adapter:
    """Which linears have low-rank matrices A [r, in] and B [out, r] beside them: y = W x + scale · B A x."""

    r: int
    alpha: float
    modules: tuple[str, ...]  # full names, in the model's order
    rslora: bool = False
    dropout: float = 0.0
    dtype: str = "BF16"  # of the stored matrices, as safetensors calls it

    @property
    def scale(self) -> float:
        """alpha / r (Hu et al., arXiv 2106.09685), or alpha / √r (rank-stabilised, arXiv 2312.03732)."""
        return self.alpha / (self.r**0.5 if self.rslora else self.r)

    def tensors(self, config: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
        """Names in the adapter's file → shapes, beside a model of this config."""
        shapes = architecture.linear_modules(config)
        found = {}
        for module in self.modules:
            rows, columns = shapes[module]
            found[tensor_name(module, "lora_A")] = (self.r, columns)
            found[tensor_name(module, "lora_B")] = (rows, self.r)
        return found

    def as_config(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """``adapter_config.json``. Modules that every layer adapts are named by their last part, as readers expect."""
        leaves = {name.rpartition(".")[2] for name in self.modules}
        everywhere = {name for name in architecture.linear_modules(config) if name.rpartition(".")[2] in leaves}
        return {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "inference_mode": True,
            "base_model_name_or_path": None,  # the folder around the adapter's own, wherever it is moved
            "r": self.r,
            "lora_alpha": self.alpha,
            "lora_dropout": self.dropout,
            "use_rslora": self.rslora,
            "bias": "none",
            "fan_in_fan_out": False,
            "init_lora_weights": True,
            "target_modules": sorted(leaves) if everywhere == set(self.modules) else list(self.modules),
        }


def read_adapter(settings: Mapping[str, Any], stored: Mapping[str, str], config: Mapping[str, Any]) -> Adapter:
    """The adapter of an ``adapter_config.json`` and the tensors (name → dtype) stored beside it.

    Raises:
        BadInput: it is no plain LoRA on linears of the layers.
    """
    known: dict[str, tuple[Any, ...]] = {"peft_type": ("LORA",), "bias": ("none", None), "use_dora": (False, None)}
    strange = [key for key, values in known.items() if settings.get(key) not in values]
    strange += [key for key in ("rank_pattern", "alpha_pattern", "modules_to_save", "use_qalora") if settings.get(key)]
    if not isinstance(settings.get("r"), int) or not isinstance(settings.get("lora_alpha"), int | float):
        strange.append("r" if not isinstance(settings.get("r"), int) else "lora_alpha")
    if strange:
        raise BadInput(
            f"the adapter has {strange[0]}={settings.get(strange[0])!r}, which Attar does not read; it opens plain "
            "LoRA with one rank for all modules"
        )
    possible = architecture.linear_modules(config)
    modules = tuple(name for name in possible if tensor_name(name, "lora_A") in stored)
    surplus = set(stored) - {tensor_name(name, side) for name in modules for side in SIDES}
    if surplus or not modules:
        what = f"the tensor {min(surplus)}, which fits no linear of the layers" if surplus else "no tensor"
        raise BadInput(f"the adapter holds {what}")
    return Adapter(
        r=int(settings["r"]),
        alpha=float(settings["lora_alpha"]),
        modules=modules,
        rslora=bool(settings.get("use_rslora")),
        dropout=float(settings.get("lora_dropout") or 0.0),
        dtype=stored[tensor_name(modules[0], "lora_A")],
    )


def tensor_name(module: str, side: str) -> str:
    """Name in the adapter's file of one side of a module's adapter."""
    return f"{PREFIX}{module}.{side}.weight"


def choose_modules(patterns: Iterable[str], config: Mapping[str, Any], stage: str) -> tuple[str, ...]:
    """Full names of the linears that the patterns match, in the model's order.

    A pattern is matched against the name or the end of it: ``q_proj``, ``mlp.*``, ``layers.3.self_attn.o_proj``.

    Raises:
        BadInput: a pattern matches nothing.
    """
    names = list(architecture.linear_modules(config))
    chosen: set[str] = set()
    for pattern in patterns:
        found = {name for name in names if fnmatchcase(name, pattern) or fnmatchcase(name, f"*.{pattern}")}
        if not found:
            leaves = {name.rpartition(".")[2] for name in names}
            raise BadInput(f"{stage}: target_modules={pattern!r} matches no linear; {nearest(pattern, leaves)}")
        chosen |= found
    return tuple(name for name in names if name in chosen)
