"""Opens a model folder in a process of its own and writes its logits on the probe.

A dense folder is opened by transformers alone, as any user of the result would: this file imports Attar only for
packed models, which Attar's own linear opens.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


def main(folder: Path, out: Path) -> None:
    """Read the probe tokens from ``out``, write the logits [tokens, vocabulary] in fp32 beside it."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    ids = load_file(out)["tokens"]
    if "quantization_config" in json.loads((folder / "config.json").read_text()):
        from attar.model import Model

        model = Model(folder).materialize(torch.float32)
    else:
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits[0].float()
    save_file({"tokens": ids, "logits": logits.contiguous()}, out)


def start(folder: str, out: str) -> int:
    """Entry point of the process."""
    main(Path(folder), Path(out))
    return 0
