"""Opens two folders of one model, one after the other, and says how far what they compute is apart.

It runs in a process of its own, as everything does that opens a model only to look whether it opens.
"""

import json
from pathlib import Path

from safetensors.torch import load_file, save_file

from attar import probe, reopen
from attar.checkpoint import read_facts
from attar.proofs import TOLERANCE

SENTENCE = "Compression keeps what matters:\n\tx = [1, 2.5, 'drei'] # 日本"


def compare(one: Path, other: Path, out: Path) -> None:
    """Write into ``out``, as JSON, the largest difference of logits on the probe (as a share of the largest logit),
    how many of the likeliest tokens agree, and whether the tokenizers cut a sentence alike."""
    logits = []
    for folder in (one, other):
        exchange = out.with_suffix(".safetensors")
        save_file({"tokens": probe.tokens(read_facts(folder).vocabulary)}, exchange)
        reopen.main(folder, exchange)
        logits.append(load_file(exchange)["logits"])
        exchange.unlink()
    first, second = logits
    difference = float((first - second).abs().max()) / max(1.0, float(first.abs().max()))
    tokenizer = _cut(one) == _cut(other)
    found = {
        "same": difference <= TOLERANCE and tokenizer,
        "difference": difference,
        "greedy": int((first.argmax(-1) == second.argmax(-1)).sum()),
        "tokens": len(first),
        "tokenizer": tokenizer,
    }
    out.write_text(json.dumps(found))


def _cut(folder: Path) -> list[int]:
    from transformers import AutoTokenizer

    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        return []
    found: list[int] = AutoTokenizer.from_pretrained(folder, local_files_only=True)(SENTENCE)["input_ids"]
    return found


def start(one: str, other: str, out: str) -> int:
    """Entry point of the process."""
    compare(Path(one), Path(other), Path(out))
    return 0
