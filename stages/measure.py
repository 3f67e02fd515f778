"""Measures one model and stores the result as an evaluation artifact beside it; never touches the model."""

import json
import shutil
import time
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from attar import architecture, machine
from attar.data import Corpus, Split, open_corpus
from attar.errors import StageFailed
from attar.events import Events
from attar.footprint import measure_speed
from attar.inputs import open_model
from attar.model import Model
from attar.quality import Reference, TextQuality, measure_text
from attar.slots import Slot
from attar.store import Artifact, Store
from attar.waiting import Waiter
from stages.spec import MeasureSpec

TEXTS: tuple[Split, ...] = ("held-out", "other")
RESULT = "result.json"
HIDDEN = "hidden.safetensors"  # the origin's evaluation keeps its last hidden states for those that come after


def run_measure(spec: MeasureSpec, events: Events) -> Artifact:
    """Make the evaluation ``spec.fingerprint`` unless the store has it."""
    store = Store(Path(spec.home) / "store")
    waiter = Waiter(spec.who, events.waiting)
    with store.lock(spec.fingerprint, waiter=waiter):
        found = store.find("evaluation", spec.fingerprint)
        if found is not None:
            return found
        with Slot(spec.machine.device, waiter):
            return _make(spec, store, events)


def _make(spec: MeasureSpec, store: Store, events: Events) -> Artifact:
    started = time.time()
    corpus = open_corpus(spec.data, store.root / "dataset")
    corpus.require_unchanged(spec.inputs)
    model, origin = open_model(spec.model, store), open_model(spec.origin, store)
    draft = store.draft("evaluation", spec.fingerprint)
    try:
        result, hidden = _measure(spec, model, origin, store, corpus, events)
        (draft / RESULT).write_text(json.dumps(result, indent=1) + "\n")
        if spec.origin_evaluation is None:
            save_file(hidden, draft / HIDDEN)
        manifest = {
            "suite": spec.suite.model_dump(),
            "inputs": spec.inputs,
            "machine": machine.describe(spec.machine.device, spec.machine.threads),
            "versions": machine.versions(),
            "seconds": time.time() - started,
        }
        return store.commit("evaluation", spec.fingerprint, draft, manifest)
    finally:
        shutil.rmtree(draft, ignore_errors=True)  # renamed away when all went well


def _measure(
    spec: MeasureSpec, model_on_disk: Model, origin: Model, store: Store, corpus: Corpus, events: Events
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    suite = spec.suite
    dtype = getattr(torch, spec.machine.dtype)
    model = model_on_disk.materialize(dtype, spec.machine.device)
    timed = partial(events.progress, unit="timed passes")
    speed = measure_speed(model, model_on_disk.facts.vocabulary, suite, timed) if suite.speed else None
    peak = machine.peak_memory(spec.machine.device)  # before quality, whose buffers no server would hold
    comparable = model_on_disk.facts.tokenizer == origin.facts.tokenizer
    kept = _origin_hidden(spec, store) if comparable else {}
    windows: dict[str, Any] = {
        text: corpus.windows(text, model_on_disk.tokenizer_file, suite.windows, suite.length, seed=0) for text in TEXTS
    }
    total, done = sum(int(ids.size) for ids in windows.values()), 0

    def progress(tokens: int) -> None:
        nonlocal done
        done += tokens
        events.progress(done, total, "tokens")

    qualities: dict[str, TextQuality] = {}
    hidden: dict[str, torch.Tensor] = {}
    for text, ids in windows.items():
        reference = _reference(kept[text], origin, dtype, spec.machine.device) if kept else None
        qualities[text], hidden[text] = measure_text(model, torch.from_numpy(ids), reference, progress)
    for text, quality in qualities.items():
        if not all(isfinite(value) for value in (quality.perplexity, quality.kl or 0.0)):
            raise StageFailed(
                f"the model's logits on the {text} text are not finite in {spec.machine.dtype}, so it is no model any "
                "more (or overflows in that dtype: try dtype=float32)"
            )
    itself = spec.origin_evaluation is None
    result = {
        "perplexity": {t: q.perplexity for t, q in qualities.items()},
        "bits_per_byte": {
            t: q.bits_per_byte(corpus.text_bytes(model_on_disk.tokenizer_file, windows[t]))
            for t, q in qualities.items()
        },
        "kl": {t: q.kl if kept or itself else None for t, q in qualities.items()},
        "agreement": {t: q.agreement if kept or itself else None for t, q in qualities.items()},
        "scored_tokens": {t: q.scored_tokens for t, q in qualities.items()},
        "prefill_tokens_per_second": speed.prefill if speed else None,
        "decode_tokens_per_second": speed.decode if speed else None,
        "peak_memory_bytes": peak,
        "runtime": _runtime(model_on_disk),
        "dtype": spec.machine.dtype,
        "threads": spec.machine.threads,
    }
    return result, hidden


def _runtime(model: Model) -> str:
    packed = "attar PackedLinear" if model.facts.quantization else "transformers"
    return packed if model.facts.adapter is None else f"{packed} with adapter"


def _origin_hidden(spec: MeasureSpec, store: Store) -> dict[str, torch.Tensor]:
    if spec.origin_evaluation is None:
        return {}
    kept: dict[str, torch.Tensor] = load_file(store.open("evaluation", spec.origin_evaluation).folder / HIDDEN)
    return kept


def _reference(hidden_NTH: torch.Tensor, origin: Model, dtype: torch.dtype, device: str) -> Reference:
    return Reference(hidden_NTH, origin.head(dtype, device), architecture.softcap(origin.facts.config))
