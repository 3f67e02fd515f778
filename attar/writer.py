"""Writes a model folder: safetensors shards, config and tokenizer, exactly what the plan promised."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from attar import adapter, architecture, lora, probe
from attar.checkpoint import TOKENIZER_FILES
from attar.errors import ProofFailed
from attar.facts import ModelFacts
from attar.packed import PackedLinear, to_gptq
from attar.shards import Shards

_TORCH = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "I32": torch.int32}


class Writer:
    """Takes tensors one by one, or a whole module, and lays them down as a folder that AutoModel opens.

    ``facts`` is what the stage's plan promised: its config is saved, and a tensor it does not know is refused.
    """

    def __init__(self, folder: Path, facts: ModelFacts, tokenizer_from: Path) -> None:
        self.folder = folder
        self.facts = facts
        self.tokenizer_from = tokenizer_from
        self.expected = facts.tensors()
        self.probe_logits: torch.Tensor | None = None
        self.notes: dict[str, Any] = {}  # what the stage found out about its result, for the manifest
        self._beside: dict[str, torch.Tensor] = {}  # of the adapter, which has a file of its own
        self._shards = Shards(folder, {name: f for name, f in self.expected.items() if not _of_adapter(name)})

    def tensor(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """Add one tensor, cast to the dtype the plan promised for it; returns it as it will be stored."""
        fact = self.expected.get(name)
        if fact is None or tuple(tensor.shape) != fact.shape:
            promised = "nothing of that name" if fact is None else f"shape {list(fact.shape)}"
            raise ProofFailed(f"the stage wrote {name} of shape {list(tensor.shape)}, its plan promised {promised}")
        if name in self._beside or (not _of_adapter(name) and name not in self._shards.missing):
            raise ProofFailed(f"the stage wrote {name} twice")
        stored = tensor.detach().to("cpu", _TORCH[fact.dtype])
        if _of_adapter(name):
            self._beside[name] = stored.contiguous().clone()
        else:
            self._shards.write(name, stored)
        return stored

    def packed(self, module: str, codes: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor) -> None:
        """Add a quantized linear.

        Args:
            module: full name, e.g. ``model.layers.0.mlp.up_proj``.
            codes: integers [out, in] (uint8); scales: [groups, out] (fp16); zeros: [groups, out] (uint8).
        """
        quantization = self.facts.quantization
        if quantization is None:
            raise ProofFailed(f"the stage wrote {module} as integers, its plan promised a dense model")
        bits, group_size = quantization.bits_of(module), quantization.group_of(codes.shape[1])
        for leaf, tensor in to_gptq(codes, scales, zeros, bits, group_size).items():
            self.tensor(f"{module}.{leaf}", tensor)

    def module(self, model: nn.Module) -> None:
        """Add everything a module holds, and take its logits on the probe as the proof's reference."""
        modules = dict(model.named_modules())
        dense = {**model.state_dict(keep_vars=True), **lora.stored(model)}
        for name, fact in self.expected.items():
            owner, _, leaf = name.rpartition(".")
            holder = modules.get(owner)
            held = architecture.parameter(self.facts.config, name)
            if isinstance(holder, PackedLinear):
                self.tensor(name, holder.to_tensors()[leaf])
            elif held in dense:
                self.tensor(name, dense[held])
                dense[held].data = dense[held].data.to(_TORCH[fact.dtype])  # the reference is what was stored
        for holder in modules.values():
            if isinstance(holder, PackedLinear):
                holder.scales.data = holder.scales.data.half().float()
                if holder.bias is not None:
                    holder.bias.data = holder.bias.data.to(torch.bfloat16)
        self.probe(probe.logits(model.float().eval(), self.facts.vocabulary))

    def settle(self, facts: ModelFacts) -> None:
        """Save the config of ``facts``: for what only the data could decide. The promised tensors stay as they are."""
        if facts.tensors() != self.expected:
            raise ProofFailed("the stage settled on a config whose tensors are not those that its plan promised")
        self.facts = facts

    def note(self, name: str, value: Any) -> None:
        """Record a finding (plain JSON) in the manifest, such as which layers went."""
        self.notes[name] = value

    def probe(self, logits: torch.Tensor) -> None:
        """fp32 logits [64, vocabulary] on the probe tokens, of what the stage holds in memory."""
        self.probe_logits = logits

    def close(self) -> None:
        """Write the config, the tokenizer and an adapter's folder.

        Raises:
            ProofFailed: a promised tensor never came.
        """
        self._shards.close()
        adapter_missing = {name for name in self.expected if _of_adapter(name)} - set(self._beside)
        if missing := self._shards.missing | adapter_missing:
            raise ProofFailed(f"the stage never wrote {min(missing)}, which its plan promised")
        config = dict(self.facts.config)
        (self.folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        if "quantization_config" in config:  # older readers look here
            quantize = json.dumps(config["quantization_config"], indent=2, sort_keys=True)
            (self.folder / "quantize_config.json").write_text(quantize + "\n")
        if self.facts.adapter is not None:
            self._close_adapter(self.facts.adapter)
        for path in (path for path in self.folder.rglob("*") if path.is_file()):
            path.chmod(0o644)  # the safetensors library makes files that nobody else may read
        for name in TOKENIZER_FILES:
            if (self.tokenizer_from / name).is_file():
                shutil.copyfile(self.tokenizer_from / name, self.folder / name)

    def _close_adapter(self, facts: adapter.Adapter) -> None:
        (self.folder / adapter.FOLDER).mkdir()
        save_file(self._beside, self.folder / adapter.WEIGHTS, metadata={"format": "pt"})
        config = json.dumps(facts.as_config(self.facts.config), indent=2, sort_keys=True)
        (self.folder / adapter.CONFIG).write_text(config + "\n")


def _of_adapter(tensor: str) -> bool:
    return tensor.startswith(adapter.PREFIX)
