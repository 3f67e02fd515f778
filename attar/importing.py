"""Turns what is no safetensors folder into one: dequantizes a GGUF, makes a random model, fetches a hub id."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import torch

from attar.checkpoint import INDEX, WEIGHTS, read_json
from attar.errors import BadInput
from attar.events import Events
from attar.slots import Slot
from attar.sources import Source
from attar.store import Store
from attar.tiny import tiny_model
from attar.waiting import Waiter


def import_source(source: Source, store: Store, events: Events, who: str = "") -> None:
    """Make ``source.folder`` complete. Raises :class:`BadInput` when the file is of an unknown kind.

    ``who`` is how others that wait for the same model call this process.
    """
    if source.repo is not None:
        from huggingface_hub import snapshot_download

        name, commit = source.repo
        index = source.folder / INDEX  # here already
        sharded = set(read_json(index)["weight_map"].values()) if index.is_file() else set()
        snapshot_download(name, revision=commit, allow_patterns=sorted(sharded) or [WEIGHTS])
        return
    waiter = Waiter(who, events.waiting)
    with store.lock(source.fingerprint, waiter=waiter):
        if store.find("model", source.fingerprint) is not None:
            return
        started = time.time()
        draft = store.draft("model", source.fingerprint)
        try:
            if source.kind == "gguf":
                assert source.file is not None
                with Slot("cpu", waiter):
                    _from_gguf(source.file, draft, events)
            else:
                tiny_model(draft)
            manifest = {"stage": "import", "spec": source.spec, "inputs": {}, "seconds": time.time() - started}
            store.commit("model", source.fingerprint, draft, manifest)
        finally:
            shutil.rmtree(draft, ignore_errors=True)  # renamed away when all went well


def _from_gguf(file: Path, folder: Path, events: Events) -> None:
    """Dequantize with transformers' reader, save as plain bf16 safetensors with a fast tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    events.log(f"converting {file.name} to bf16 safetensors (once)")
    arguments: dict[str, Any] = {"gguf_file": file.name, "local_files_only": True}
    try:
        loaded = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.bfloat16, **arguments)
        tokenizer = AutoTokenizer.from_pretrained(file.parent, **arguments)
    except (ValueError, KeyError, OSError) as error:
        raise BadInput(f"{file} cannot be converted: {str(error).splitlines()[0]}") from None
    kept = {k: v for k, v in loaded.config.to_dict().items() if k != "quantization_config" and not k.startswith("_")}
    config = type(loaded.config)(**kept)
    config.architectures = [type(loaded).__name__]
    # A model that was opened from GGUF refuses to be saved: its tensors go into a fresh one.
    plain = type(loaded)(config).to(torch.bfloat16)
    plain.load_state_dict(loaded.state_dict())
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    settings = read_json(folder / "tokenizer_config.json")
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"  # readers older than transformers 5 know this name only
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
