"""A model on disk, seen lazily: facts and single tensors without loading it, the whole module when asked."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from attar import architecture, lora
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
    def _files(self) -> dict[str, tuple[Path, str]]:
        """Name → the file that holds the tensor, and what that file calls it."""
        config = self.facts.config
        return {architecture.canonical(config, n): (path, n) for n, path in weight_files(self.folder).items()}

    @property
    def names(self) -> list[str]:
        """Names of all tensors in the files."""
        return list(self._files)

    def tensor(self, name: str) -> torch.Tensor:
        """One tensor as stored."""
        path, stored = self._files[name]
        with safe_open(path, framework="pt") as file:
            tensor: torch.Tensor = file.get_tensor(stored)
            return tensor

    def head(self, dtype: torch.dtype, device: str = "cpu") -> torch.Tensor:
        """Weight of the head alone [vocabulary, width]; the embedding's where the two are one."""
        return self.tensor(architecture.head(self.facts.config)).to(device, dtype)

    def hf_config(self) -> Any:
        """The transformers config without its quantization part (packed linears are ours)."""
        return hf_config(self.facts.config)

    def materialize(self, dtype: torch.dtype, device: str = "cpu") -> nn.Module:
        """The whole model in evaluation mode; packed linears become :class:`PackedLinear`, with their adapter on.

        Dense tensors are cast to ``dtype``; integers and scales stay as they are stored.
        """
        config = self.facts.config
        model = skeleton(self.hf_config(), dtype)
        packed = self.facts.packed_modules
        dense = {
            architecture.parameter(config, n): self.tensor(n).to(device, dtype)
            for n in architecture.tensors(config)
            if n in self._files
        }
        for name in packed:
            _replace(model, name, self._packed(name, dtype).to(device))
        missing, unexpected = model.load_state_dict(dense, strict=False, assign=True)
        expected_gaps = {f"{name}.{leaf}" for name in packed for leaf in model.get_submodule(name).state_dict()}
        absent = set(missing) - expected_gaps - ({architecture.PARAMETER} if architecture.tied(config) else set())
        if absent or unexpected:
            raise BadInput(f"{self.folder}: tensors do not fit the config: {sorted(absent | set(unexpected))[:3]}")
        if architecture.tied(config):
            model.tie_weights()
        materialize_buffers(model, device)
        if self.facts.adapter is not None:
            lora.attach(model, self.facts.adapter, self.tensor, dtype, device)
        model.eval()
        return model  # type: ignore[no-any-return]

    def _packed(self, name: str, dtype: torch.dtype) -> PackedLinear:
        quantization = self.facts.quantization
        assert quantization is not None
        bias = self.tensor(f"{name}.bias").to(dtype) if f"{name}.bias" in self._files else None
        columns = self.facts.packed_modules[name][1]
        return PackedLinear(
            qweight=self.tensor(f"{name}.qweight"),
            qzeros=self.tensor(f"{name}.qzeros"),
            scales=self.tensor(f"{name}.scales"),
            bias=bias,
            bits=quantization.bits_of(name),
            group_size=quantization.group_of(columns),
            dtype=dtype,
        )


def hf_config(config: Mapping[str, Any]) -> Any:
    """The transformers config of ``config.json`` without its quantization part."""
    return AutoConfig.for_model(**{k: v for k, v in config.items() if k != "quantization_config"})


def fresh(config: Mapping[str, Any], dtype: torch.dtype, device: str) -> nn.Module:
    """A model with random weights as transformers initialises them, drawn in fp32 from torch's generator."""
    model: nn.Module = AutoModelForCausalLM.from_config(hf_config(config), dtype=torch.float32)
    for parameter in model.parameters():  # and no buffer: rotary tables stay in fp32, as in an opened model
        parameter.data = parameter.data.to(dtype)
    return model.to(device).eval()


def last_hidden(model: nn.Module, ids_BT: torch.Tensor) -> torch.Tensor:
    """Hidden states after the final norm of all tokens that have a next one, [batch · (tokens − 1), width]."""
    body: Any = model.base_model
    hidden: torch.Tensor = body(input_ids=ids_BT, use_cache=False).last_hidden_state
    return hidden[:, :-1].flatten(0, 1)


def head_weight(model: nn.Module) -> torch.Tensor:
    """Weight of the head [vocabulary, width], which may be the embedding's."""
    decoder: Any = model
    weight: torch.Tensor = decoder.get_output_embeddings().weight
    return weight


def softcap(model: nn.Module | None) -> float | None:
    """Logits of the model are ``cap · tanh(logits / cap)`` of its head's, where its config says so (Gemma 2)."""
    cap = getattr(getattr(model, "config", None), "final_logit_softcapping", None)
    return float(cap) if cap else None


def skeleton(config: Any, dtype: torch.dtype) -> Any:
    """A transformers model of this config without memory for its weights."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=dtype)


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)


def keep_layers(model: nn.Module, config: Mapping[str, Any], kept: Sequence[int]) -> None:
    """Take all other layers out of a model, in place.

    Args:
        config: what the result's config will be (``architecture.with_layers``).
        kept: indices, rising.
    """
    family = architecture.family(config)
    layers = model.get_submodule(family.layers)
    assert isinstance(layers, nn.ModuleList)
    chosen = nn.ModuleList(layers[i] for i in kept)
    _replace(model, family.layers, chosen)
    for index, layer in enumerate(chosen):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = index  # type: ignore[assignment]
    setattr(model.config, family.keys.layers, len(chosen))
    if "layer_types" in config:
        model.config.layer_types = list(config["layer_types"])  # type: ignore[union-attr]


def materialize_buffers(model: nn.Module, device: str) -> None:
    """What no file holds: rotary tables, built anew, and the factor of Gemma's embedding."""
    for name, module in list(model.named_modules()):
        if not any(buffer.is_meta for buffer in module.buffers(recurse=False)):
            continue
        if isinstance(module, nn.Embedding):
            module.embed_scale = torch.tensor(module.scalar_embed_scale, device=device)
        else:
            _replace(model, name, type(module)(config=module.config).to(device))
