"""A model on disk, seen lazily: facts and single tensors without loading it, the whole module when asked."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from attar import architecture
from attar.checkpoint import read_facts, weight_files
from attar.errors import BadInput
from attar.facts import ModelFacts
from attar.packed import PackedLinear


class Model:
    """A checkpoint folder. Nothing is read before it is asked for."""

    def __init__(self, folder: Path, fingerprint: str = "", task: str = "causal-lm") -> None:
        self.folder = folder
        self.fingerprint = fingerprint
        self.task = task

    @cached_property
    def facts(self) -> ModelFacts:
        return read_facts(self.folder, self.task)

    @property
    def tokenizer_file(self) -> Path:
        """The ``tokenizer.json`` of the model, or a sentence that it has none."""
        path = self.folder / "tokenizer.json"
        if not path.is_file():
            raise BadInput(f"the model {self.folder} has no tokenizer.json; save its tokenizer as a fast one there")
        return path

    @cached_property
    def _files(self) -> dict[str, Path]:
        return weight_files(self.folder)

    @property
    def names(self) -> list[str]:
        """Names of all tensors in the files."""
        return list(self._files)

    def tensor(self, name: str) -> torch.Tensor:
        """One tensor as stored."""
        with safe_open(self._files[name], framework="pt") as file:
            tensor: torch.Tensor = file.get_tensor(name)
            return tensor

    def head(self, dtype: torch.dtype, device: str = "cpu") -> torch.Tensor:
        """Weight of the head alone [vocabulary, width]; the embedding's where the two are one."""
        name = architecture.HEAD if architecture.HEAD in self._files else architecture.EMBEDDING
        return self.tensor(name).to(device, dtype)

    def hf_config(self) -> Any:
        """The transformers config without its quantization part (packed linears are ours)."""
        return hf_config(self.facts.config)

    def materialize(self, dtype: torch.dtype, device: str = "cpu") -> nn.Module:
        """The whole model in evaluation mode; packed linears become :class:`PackedLinear`.

        Dense tensors are cast to ``dtype``; integers and scales stay as they are stored.
        """
        model = skeleton(self.hf_config(), dtype)
        packed = self.facts.packed_modules
        dense = {
            n: self.tensor(n).to(device, dtype) for n in architecture.tensors(self.facts.config) if n in self._files
        }
        for name in packed:
            _replace(model, name, self._packed(name, dtype).to(device))
        missing, unexpected = model.load_state_dict(dense, strict=False, assign=True)
        expected_gaps = {f"{name}.{leaf}" for name in packed for leaf in model.get_submodule(name).state_dict()}
        absent = set(missing) - expected_gaps - {architecture.HEAD}
        if absent or unexpected:
            raise BadInput(f"{self.folder}: tensors do not fit the config: {sorted(absent | set(unexpected))[:3]}")
        if self.facts.config.get("tie_word_embeddings"):
            model.tie_weights()
        _materialize_buffers(model, device)
        model.eval()
        return model  # type: ignore[no-any-return]

    def _packed(self, name: str, dtype: torch.dtype) -> PackedLinear:
        quantization = self.facts.quantization
        assert quantization is not None
        bias = self.tensor(f"{name}.bias").to(dtype) if f"{name}.bias" in self._files else None
        return PackedLinear(
            qweight=self.tensor(f"{name}.qweight"),
            qzeros=self.tensor(f"{name}.qzeros"),
            scales=self.tensor(f"{name}.scales"),
            bias=bias,
            bits=quantization.bits,
            group_size=quantization.group_size,
            dtype=dtype,
        )


def hf_config(config: Mapping[str, Any]) -> Any:
    """The transformers config of ``config.json`` without its quantization part."""
    return AutoConfig.for_model(**{k: v for k, v in config.items() if k != "quantization_config"})


def fresh(config: Mapping[str, Any], dtype: torch.dtype, device: str) -> nn.Module:
    """A model with random weights as transformers initialises them, drawn in fp32 from torch's generator."""
    model: nn.Module = AutoModelForCausalLM.from_config(hf_config(config), dtype=torch.float32)
    return model.to(device, dtype).eval()


def skeleton(config: Any, dtype: torch.dtype) -> Any:
    """A transformers model of this config without memory for its weights."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=dtype)


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)


def _materialize_buffers(model: nn.Module, device: str) -> None:
    """Rotary tables are not in any file: build each rotary module anew where the skeleton had none."""
    for name, module in list(model.named_modules()):
        if any(buffer.is_meta for buffer in module.buffers(recurse=False)):
            _replace(model, name, type(module)(config=module.config).to(device))
