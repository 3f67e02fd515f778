"""Proofs after every stage: something changed, nothing is missing or NaN, the bytes are there, the folder reopens.

A stage that did nothing, or broke the model, ends here with a sentence; nothing of it reaches the store.
"""

import os
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from attar import fresh, probe
from attar.checkpoint import read_facts, stored_tensors, weight_files
from attar.errors import BadInput, ProofFailed
from attar.facts import ModelFacts
from attar.model import Model
from attar.writer import Writer

TOLERANCE = 1e-3  # of the largest logit, in fp32: an order above rounding, far below any real difference


def prove(trains: bool, source: Model, promised: ModelFacts, writer: Writer, device: str) -> dict[str, Any]:
    """All proofs on a saved folder. Returns its facts and what was found; raises :class:`ProofFailed`."""
    folder = writer.folder
    try:
        facts = read_facts(folder, promised.task)
    except BadInput as error:
        raise ProofFailed(f"the saved model does not open: {error}") from None
    asked = {name: (fact.dtype, fact.shape) for name, fact in promised.tensors().items()}
    stored = stored_tensors(folder)
    if asked != stored:
        raise ProofFailed(f"the saved tensors differ from the plan: {_first_difference(asked, stored)}")
    _finite(folder)
    changed = _changed(trains, source, folder, facts)
    difference = _reopens(writer, facts)
    return {"facts": facts, "changed": changed, "reopened_logits_difference": difference}


def _finite(folder: Path) -> None:
    for name, path in weight_files(folder).items():
        with safe_open(path, framework="pt") as file:
            tensor = file.get_tensor(name)
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ProofFailed(f"{name} of the saved model holds NaN or infinite values")


def _changed(trains: bool, source: Model, folder: Path, facts: ModelFacts) -> str:
    """What the stage changed, in words; a stage that changed nothing is an error."""
    before, after = source.facts, facts
    if after.parameters < before.parameters:
        return f"{before.parameters - after.parameters:,} parameters fewer"
    if sum(after.weight_bytes().values()) < sum(before.weight_bytes().values()):
        return f"{sum(before.weight_bytes().values()) - sum(after.weight_bytes().values()):,} bytes fewer"
    if not trains:
        raise ProofFailed("the stage took away neither parameters nor bytes; the model is what it was")
    result = Model(folder)
    moved = sum(
        1
        for name in result.names
        if name not in source.names or not torch.equal(result.tensor(name), source.tensor(name))
    )
    if not moved:
        raise ProofFailed("training moved no tensor; the model is what it was")
    return f"{moved} of {len(result.names)} tensors moved"


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
