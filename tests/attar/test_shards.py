"""Weight files written tensor by tensor are what the safetensors library reads."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from attar.checkpoint import weight_files
from attar.errors import ProofFailed
from attar.facts import TensorFact
from attar.model import Model
from attar.shards import Shards
from attar.tiny import tiny_model
from attar.writer import Writer

TENSORS = {
    "odd": torch.randn(7).bfloat16(),
    "words": torch.randint(-(2**31), 2**31 - 1, (3, 4), dtype=torch.int32),
    "half": torch.randn(5, 3).half(),
    "wide": torch.randn(2, 2),
}
DTYPES = {torch.bfloat16: "BF16", torch.int32: "I32", torch.float16: "F16", torch.float32: "F32"}
FACTS = {name: TensorFact(tuple(t.shape), DTYPES[t.dtype], "body") for name, t in TENSORS.items()}


@pytest.mark.parametrize("limit", [10**9, 60, 1])
def test_the_library_reads_what_was_written_in_any_order(tmp_path: Path, limit: int) -> None:
    shards = Shards(tmp_path, FACTS, limit)
    for name in reversed(TENSORS):
        shards.write(name, TENSORS[name])
    shards.close()
    assert not shards.missing
    found = weight_files(tmp_path)  # through the index, where there is one
    assert set(found) == set(TENSORS)
    assert len(set(found.values())) == {10**9: 1, 60: 3, 1: 4}[limit]
    for name, path in found.items():
        assert torch.equal(load_file(path)[name], TENSORS[name])
    if limit < 10**9:
        index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
        assert index["metadata"]["total_size"] == sum(t.numel() * t.element_size() for t in TENSORS.values())


def test_a_writer_tells_of_tensors_that_came_twice_or_never(tmp_path: Path) -> None:
    source = Model(tiny_model(tmp_path / "model", num_hidden_layers=1))
    (tmp_path / "out").mkdir()
    writer = Writer(tmp_path / "out", source.facts, tokenizer_from=source.folder)
    name, *others = source.facts.tensors()
    writer.tensor(name, source.tensor(name))
    with pytest.raises(ProofFailed, match=f"wrote {name} twice"):
        writer.tensor(name, source.tensor(name))
    for other in others[1:]:
        writer.tensor(other, source.tensor(other))
    with pytest.raises(ProofFailed, match=f"never wrote {others[0]}"):
        writer.close()
