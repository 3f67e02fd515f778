"""Safetensors files whose content is known beforehand, written tensor by tensor.

Every tensor has its place in a file from the start, so none has to wait in memory until its file is complete, and they
may come in any order.
"""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch

from attar.checkpoint import INDEX, WEIGHTS
from attar.facts import BYTES, TensorFact

SHARD_BYTES = 2_000_000_000
ALIGNMENT = 8  # of the data in a file, by its header's length


@dataclass(frozen=True)
class _Place:
    file: BinaryIO
    offset: int


class Shards:
    """The weight files of a model folder: one ``model.safetensors``, or several with an index.

    Args:
        folder: holds the files; they have their full size at once.
        facts: name → shape and dtype of every tensor; decides the order and the number of files.
    """

    def __init__(self, folder: Path, facts: Mapping[str, TensorFact], limit: int = SHARD_BYTES) -> None:
        parts = _parts(facts, limit)
        names = [WEIGHTS] if len(parts) == 1 else [_name(i, len(parts)) for i in range(len(parts))]
        self._places: dict[str, _Place] = {}
        self._files: list[BinaryIO] = []
        self.missing = set(facts)
        for part, name in zip(parts, names, strict=True):
            self._lay_out(folder / name, {tensor: facts[tensor] for tensor in part})
        if len(parts) > 1:
            index = {
                "metadata": {"total_size": sum(fact.bytes for fact in facts.values())},
                "weight_map": dict(sorted((t, n) for part, n in zip(parts, names, strict=True) for t in part)),
            }
            (folder / INDEX).write_text(json.dumps(index, indent=1))

    def write(self, name: str, tensor: torch.Tensor) -> None:
        """Put a tensor, on the CPU and of the promised shape and dtype, in its place."""
        place = self._places[name]
        place.file.seek(place.offset)
        place.file.write(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
        self.missing.discard(name)

    def close(self) -> None:
        """Nothing is written after this."""
        for file in self._files:
            file.close()

    def _lay_out(self, path: Path, facts: Mapping[str, TensorFact]) -> None:
        """Make a file with its header, and remember where its tensors begin."""
        entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
        offset = 0
        # Wide numbers first: every tensor then begins at a multiple of the size of its numbers.
        for name, fact in sorted(facts.items(), key=lambda item: -BYTES[item[1].dtype]):
            span = [offset, offset + fact.bytes]
            entries[name] = {"dtype": fact.dtype, "shape": list(fact.shape), "data_offsets": span}
            offset = span[1]
        header = json.dumps(entries, separators=(",", ":")).encode()
        header += b" " * (-len(header) % ALIGNMENT)
        file = open(path, "wb")  # noqa: SIM115  (closed by close)
        self._files.append(file)
        file.write(struct.pack("<Q", len(header)) + header)
        start = file.tell()
        file.truncate(start + offset)
        for name in facts:
            entry = entries[name]
            assert isinstance(entry, dict)
            self._places[name] = _Place(file, start + entry["data_offsets"][0])


def _parts(facts: Mapping[str, TensorFact], limit: int) -> list[list[str]]:
    """The tensors of each file: in their order, as many as fit (a single larger one has a file of its own)."""
    parts: list[list[str]] = [[]]
    size = 0
    for name, fact in facts.items():
        if parts[-1] and size + fact.bytes > limit:
            parts.append([])
            size = 0
        parts[-1].append(name)
        size += fact.bytes
    return parts


def _name(index: int, count: int) -> str:
    return f"model-{index + 1:05d}-of-{count:05d}.safetensors"
