"""Proofs after every stage: something changed, nothing is missing or NaN, the bytes are there, the folder reopens.

A stage that did nothing, or broke the model, ends here with a sentence; nothing of it reaches the store.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from attar import adapter, fresh, probe
from attar.checkpoint import INDEX, PICKLES, SIDE_FILES, read_facts, stored_tensors, weight_files
from attar.errors import BadInput, ProofFailed
from attar.facts import ModelFacts
from attar.model import Model
from attar.writer import Writer

TOLERANCE = 1e-3  # of the largest logit, in fp32: an order above rounding, far below any real difference


def prove(trains: bool, source: Model, origin: Model, promised: ModelFacts, writer: Writer) -> dict[str, Any]:
    """All proofs on a saved folder. Returns its facts and what was found; raises :class:`ProofFailed`."""
    folder = writer.folder
    _only_known_files(folder)
    try:
        facts = read_facts(folder, promised.task)
    except BadInput as error:
        raise ProofFailed(f"the saved model does not open: {error}") from None
    asked = {name: (fact.dtype, fact.shape) for name, fact in promised.tensors().items()}
    stored = stored_tensors(folder)
    if asked != stored:
        raise ProofFailed(f"the saved tensors differ from the plan: {_first_difference(asked, stored)}")
    if facts.tokenizer != promised.tokenizer:
        raise ProofFailed("the saved tokenizer.json is not the one that the plan promised, byte for byte")
    _finite(folder)
    changed = _changed(trains, source, origin, Model(folder))
    difference = _reopens(writer, facts)
    return {"facts": facts, "changed": changed, "reopened_logits_difference": difference}


def _only_known_files(folder: Path) -> None:
    """Raise :class:`ProofFailed` for a file that no runtime needs and nobody counted, a pickle above all."""
    try:
        counted = {str(path.relative_to(folder)) for path in weight_files(folder).values()}
    except BadInput as error:
        raise ProofFailed(f"the saved model does not open: {error}") from None
    for path in sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()):
        name = str(path.relative_to(folder))
        if path.is_symlink() or not path.is_file():
            raise ProofFailed(f"the stage left {name}, which is no plain file; an artifact holds its own bytes only")
        if path.suffix in PICKLES or _begins_as_pickle(path):
            raise ProofFailed(
                f"the stage left the pickle {name}, which can run code when opened; artifacts are safetensors and JSON"
            )
        if name not in {*counted, *SIDE_FILES, INDEX, adapter.CONFIG}:
            raise ProofFailed(f"the stage left the file {name}, which no runtime reads and its report does not count")


def _begins_as_pickle(path: Path) -> bool:
    """By what pickle (protocols 2 to 5) and torch.save (a zip) write first."""
    if path.suffix == ".safetensors":  # begins with a length, which may be any byte; its header has been read
        return False
    with open(path, "rb") as file:
        start = file.read(4)
    return start == b"PK\x03\x04" or (start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"))


def _finite(folder: Path) -> None:
    for name, path in weight_files(folder).items():
        with safe_open(path, framework="pt") as file:
            tensor = file.get_tensor(name)
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ProofFailed(f"{name} of the saved model holds NaN or infinite values")


def _changed(trains: bool, source: Model, origin: Model, result: Model) -> str:
    """What the stage changed, in words; a stage that changed nothing is an error."""
    told = _fewer(source.facts, result.facts)
    if told is None:
        if not trains:
            raise ProofFailed("the stage took away neither parameters nor bytes; the model is what it was")
        moved = sum(_moved(result, source))
        if not moved:
            raise ProofFailed("training moved no tensor; the model is what it was")
        told = f"{moved} of {len(result.names)} tensors moved"
    if not any(_moved(result, origin)) and any(_moved(source, origin, of=result)):
        raise ProofFailed("the stage handed back the origin, every tensor of it, and not what its source had become")
    return told


def _fewer(before: ModelFacts, after: ModelFacts) -> str | None:
    if after.parameters < before.parameters:
        return f"{before.parameters - after.parameters:,} parameters fewer"
    saved = _compared_bytes(before) - _compared_bytes(after)
    return f"{saved:,} bytes fewer" if saved > 0 else None


def _compared_bytes(facts: ModelFacts) -> int:
    """Bytes of the weights; of floats as in bf16, which every stage writes and which is no compression."""
    return sum(facts.changed(dtype="bfloat16", torch_dtype=None).weight_bytes().values())


def _moved(result: Model, other: Model, of: Model | None = None) -> Iterator[bool]:
    """For every tensor of ``result`` (that ``of`` has too) whether it is another one than that of ``other``.

    It is cast to the same dtype. A new one counts if it is not zero; the first half of an adapter, which starts at
    random, never does.
    """
    known, asked = set(other.names), set(result.names if of is None else of.names)
    names = (name for name in result.names if name in asked)
    return (_differs(result.tensor(name), name, other if name in known else None) for name in names)


def _differs(tensor: torch.Tensor, name: str, other: Model | None) -> bool:
    if other is None:
        return ".lora_A." not in name and bool(tensor.any())
    before = other.tensor(name)
    return before.shape != tensor.shape or not torch.equal(tensor, before.to(tensor.dtype))


def _reopens(writer: Writer, facts: ModelFacts) -> float:
    """Largest difference between the logits in the stage's memory and those of a fresh process, relative."""
    if writer.probe_logits is None:
        raise ProofFailed("the stage handed over no logits on the probe, so its result cannot be checked")
    exchange = writer.folder.with_name(writer.folder.name + ".probe.safetensors")
    save_file({"tokens": probe.tokens(facts.vocabulary)}, exchange)
    try:
        with TemporaryFile() as said:
            process = fresh.start("attar.reopen", [str(writer.folder), str(exchange)], os.environ, said)
            if process.wait() != 0:
                said.seek(0)
                lines = said.read().decode(errors="replace").strip().splitlines()
                reason = lines[-1] if lines else f"exit code {process.returncode}"
                raise ProofFailed(f"the saved model does not open in a fresh process: {reason}")
        reopened = load_file(exchange)["logits"]
    finally:
        exchange.unlink(missing_ok=True)
    scale = max(1.0, float(writer.probe_logits.abs().max()))
    difference = float((reopened - writer.probe_logits).abs().max()) / scale
    if not difference <= TOLERANCE:
        raise ProofFailed(
            f"the saved model reopens as another function: its logits differ by {difference:.2g} of the largest one, "
            f"{TOLERANCE:g} is allowed"
        )
    return difference


def _first_difference(asked: dict[str, Any], stored: dict[str, Any]) -> str:
    name = next(n for n in sorted(set(asked) | set(stored)) if asked.get(n) != stored.get(n))
    return f"{name} was promised as {asked.get(name, 'nothing')} and is {stored.get(name, 'missing')}"
