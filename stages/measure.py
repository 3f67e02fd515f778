"""Measures one model and stores the result as an evaluation artifact beside it; never touches the model."""

import json
import shutil
import time
from dataclasses import asdict
from functools import partial
from math import isfinite, log
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from attar import architecture, machine, scores
from attar.calibration import SURE, bins_of, sure_and_wrong
from attar.contention import Account
from attar.data import Corpus, Measured, Split, open_corpus
from attar.errors import StageFailed
from attar.events import Events
from attar.exam import GENERATION, Exam, set_exam
from attar.examining import ANSWERS, Found, examine
from attar.fingerprint import hash_json
from attar.inputs import open_model
from attar.latency import measure_latencies
from attar.model import Model
from attar.quality import Reference, TextQuality, measure_text
from attar.scores import Scores
from attar.slots import Slot
from attar.speed import measure_speed
from attar.stamp import KEY, stamp
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
            store.require_room(spec.disk)
            return _make(spec, store, events, waiter)


def _make(spec: MeasureSpec, store: Store, events: Events, waiter: Waiter) -> Artifact:
    started = time.time()
    model, origin = open_model(spec.model, store), open_model(spec.origin, store)
    draft = store.draft("evaluation", spec.fingerprint)
    try:
        result, scored, hidden, answers = _measure(spec, model, origin, store, events, waiter)
        (draft / RESULT).write_text(json.dumps(result, indent=1) + "\n")
        if answers:
            (draft / ANSWERS).write_text(json.dumps(answers, indent=1) + "\n")
        scores.save(scored, draft)
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
    spec: MeasureSpec, model_on_disk: Model, origin: Model, store: Store, events: Events, waiter: Waiter
) -> tuple[dict[str, Any], dict[str, Scores], dict[str, torch.Tensor], dict[str, str]]:
    suite = spec.suite
    dtype = getattr(torch, spec.machine.dtype)
    model = model_on_disk.materialize(dtype, spec.machine.device)
    timed, account = partial(events.progress, unit="timed passes"), Account.read()
    speed = measure_speed(model, model_on_disk.facts.vocabulary, suite, timed) if suite.speed else None
    # Before the text, the questions and the buffers of quality, none of which a server would hold.
    peak = machine.peak_memory(spec.machine.device)
    latencies = measure_latencies(model, model_on_disk.facts.vocabulary, suite, timed)
    lost = account.lost_since() if suite.speed else None
    corpus, exam = _open_texts(spec, store, waiter)
    apart = model_on_disk.facts.apart(origin.facts)
    kept = {} if apart else _origin_hidden(spec, store)
    texts: dict[str, Measured] = {
        text: corpus.measured(text, model_on_disk.tokenizer_file, suite.windows, suite.length, seed=0) for text in TEXTS
    }
    total, done = sum(int(measured.windows.size) for measured in texts.values()), 0

    def progress(tokens: int) -> None:
        nonlocal done
        done += tokens
        events.progress(done, total, "tokens")

    qualities: dict[str, TextQuality] = {}
    hidden: dict[str, torch.Tensor] = {}
    for text, measured in texts.items():
        reference = _reference(kept[text], origin, dtype, spec.machine.device) if kept else None
        qualities[text], hidden[text] = measure_text(model, torch.from_numpy(measured.windows), reference, progress)
    for text, quality in qualities.items():
        if not all(isfinite(value) for value in (quality.perplexity, quality.kl or 0.0)):
            raise StageFailed(
                f"the model's logits on the {text} text are not finite in {spec.machine.dtype}, so it is no model any "
                "more (or overflows in that dtype: try dtype=float32)"
            )
    itself = spec.origin_evaluation is None
    sat = examine(exam, model, model_on_disk, _origin_answers(spec, exam, store), events.progress)
    result = {
        "perplexity": {t: q.perplexity for t, q in qualities.items()},
        "bits_per_byte": {
            t: q.bits_per_byte(corpus.text_bytes(model_on_disk.tokenizer_file, texts[t].windows))
            for t, q in qualities.items()
        },
        "calibration_error": {t: q.calibration_error for t, q in qualities.items()},
        "confidently_wrong": {t: q.confidently_wrong for t, q in qualities.items()},
        "confident_from": SURE,
        "kl": {t: q.kl if kept or itself else None for t, q in qualities.items()},
        "agreement": {t: q.agreement if kept or itself else None for t, q in qualities.items()},
        **({"not_beside_origin": apart} if apart else {}),  # why there is neither
        "scored_tokens": {t: q.scored_tokens for t, q in qualities.items()},
        "prefill_tokens_per_second": speed.prefill if speed else None,
        "decode_tokens_per_second": speed.decode if speed else None,
        "cpu_lost": lost,
        "peak_memory_bytes": peak,
        "batches": {str(batch): asdict(latency) for batch, latency in latencies.items()},
        "runtime": _runtime(model_on_disk),
        "dtype": spec.machine.dtype,
        "threads": spec.machine.threads,
        "tasks": sat.figures,
        KEY: _stamp(spec, model_on_disk, sat, _asked(exam, sat, spec.origin.fingerprint)),
    }
    scored = sat.scores | {name: found for t, q in qualities.items() for name, found in _scores(t, q, texts[t]).items()}
    return result, scored, hidden, sat.answers


def _open_texts(spec: MeasureSpec, store: Store, waiter: Waiter) -> tuple[Corpus, Exam]:
    """What the model is measured on, as the run was planned with."""
    cache = store.root / "dataset"
    corpus = open_corpus(spec.data, cache, waiter=waiter)
    exam = set_exam(spec.suite, corpus, cache, waiter=waiter)
    corpus.require_unchanged(spec.inputs)
    exam.require_unchanged(spec.inputs)
    return corpus, exam


def _asked(exam: Exam, sat: Found, origin: str) -> dict[str, str]:
    """What every task asked: a group of lm-eval's tasks gives figures under names that the recipe does not have."""
    contents = exam.contents()
    if GENERATION in contents:  # is likeness to one origin
        contents[GENERATION] = hash_json([contents[GENERATION], origin])
    heads = {name.partition("/")[0] for name in sat.figures}
    return {head: contents.get(head) or hash_json(contents) for head in sorted(heads)}


def _stamp(spec: MeasureSpec, model: Model, sat: Found, asked: dict[str, str]) -> dict[str, Any]:
    suite, timed = spec.suite, spec.suite.speed
    return stamp(
        **{name: fingerprint for name, fingerprint in spec.inputs.items() if name.startswith("data.")},
        suite=suite.version,
        origin=spec.origin.fingerprint,
        windows=suite.windows,
        length=suite.length,
        dtype=spec.machine.dtype,
        tokenizer=model.facts.tokenizer,
        device=spec.machine.device.partition(":")[0],
        threads=spec.machine.threads,
        processor=machine.describe(spec.machine.device, spec.machine.threads).get("gpu") or machine.cpu_name(),
        memory=machine.memory_version(spec.machine.device) if timed else None,
        prompt=suite.prompt if timed else None,
        new_tokens=suite.new_tokens if timed else None,
        prompt_format=sat.prompt_format,
        tasks=asked or None,
    )


def _scores(text: str, quality: TextQuality, measured: Measured) -> dict[str, Scores]:
    """What was measured on every document of a text, by measure and text."""
    tokens, owners = quality.tokens, measured.owners[:, 1:].ravel()
    found = {"loss": tokens.loss, "sure-wrong": sure_and_wrong(tokens.confidence, tokens.right).astype(np.float64)}
    found |= {name: value for name, value in (("kl", tokens.kl), ("agreed", tokens.agreed)) if value is not None}
    named = {f"{name}/{text}": scores.by_owner(measured.names, owners, value) for name, value in found.items()}
    gap, bins = tokens.confidence - tokens.right, bins_of(tokens.confidence)
    for number in range(int(bins.max()) + 1):  # what the calibration error adds up, a bin at a time
        inside = np.where(bins == number, gap, 0.0)
        named[f"gap/{text}/{number}"] = scores.by_owner(measured.names, owners, inside)
    loss, size = named[f"loss/{text}"], dict(zip(measured.names, measured.text_bytes.tolist(), strict=True))
    spelled = [i for i, name in enumerate(loss.ids) if size[name]]  # an end of text alone stands for no byte
    bits = Scores(
        tuple(loss.ids[i] for i in spelled),
        tuple(loss.sums[i] / log(2) for i in spelled),
        tuple(size[loss.ids[i]] for i in spelled),
    )
    return {**named, f"bits/{text}": bits}


def _runtime(model: Model) -> str:
    packed = "attar PackedLinear" if model.facts.quantization else "transformers"
    return packed if model.facts.adapter is None else f"{packed} with adapter"


def _origin_hidden(spec: MeasureSpec, store: Store) -> dict[str, torch.Tensor]:
    if spec.origin_evaluation is None:
        return {}
    kept: dict[str, torch.Tensor] = load_file(store.open("evaluation", spec.origin_evaluation).folder / HIDDEN)
    return kept


def _origin_answers(spec: MeasureSpec, exam: Exam, store: Store) -> dict[str, str] | None:
    if spec.origin_evaluation is None or not exam.prompts:
        return None
    kept: dict[str, str] = json.loads((store.open("evaluation", spec.origin_evaluation).folder / ANSWERS).read_text())
    return kept


def _reference(hidden_NTH: torch.Tensor, origin: Model, dtype: torch.dtype, device: str) -> Reference:
    return Reference(hidden_NTH, origin.head(dtype, device), architecture.softcap(origin.facts.config))
