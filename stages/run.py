"""The life of one stage: open → seed → apply → save → prove → manifest → rename. The only way to an artifact."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from attar import machine
from attar.data import Corpus, open_corpus
from attar.errors import BadInput, Cancelled
from attar.events import Events
from attar.inputs import open_dataset, open_model
from attar.model import Model
from attar.proofs import prove
from attar.slots import Slot
from attar.store import Artifact, Store
from attar.waiting import Waiter
from attar.writer import Writer
from stages.base import Context, Stage, stage_seed
from stages.spec import StageSpec


def run_stage(stage: Stage, spec: StageSpec, events: Events, cancelled: Callable[[], bool] = lambda: False) -> Artifact:
    """Make the artifact ``spec.fingerprint`` unless the store has it; a failed proof leaves nothing behind."""
    store = Store(Path(spec.home) / "store")
    waiter = Waiter(spec.who, events.waiting, cancelled)
    with store.lock(spec.fingerprint, waiter=waiter):
        found = store.find(stage.makes, spec.fingerprint)
        if found is not None:
            # of a process that died after its last rename
            shutil.rmtree(store.state(spec.fingerprint), ignore_errors=True)
            return found
        data = open_corpus(spec.data, store.root / "dataset", waiter=waiter)  # it may wait for another process
        with Slot(spec.machine.device, waiter) as slot:
            store.require_room(spec.disk)
            return _compute(stage, spec, data, store, events, cancelled, slot)


def _compute(
    stage: Stage,
    spec: StageSpec,
    data: Corpus,
    store: Store,
    events: Events,
    cancelled: Callable[[], bool],
    slot: Slot,
) -> Artifact:
    source, origin = open_model(spec.source, store), open_model(spec.origin, store)
    state = store.state(spec.fingerprint)
    state.mkdir(parents=True, exist_ok=True)
    data.require_unchanged(spec.inputs)
    _require_unchanged(stage, spec)
    context = Context(
        origin=origin,
        teacher=open_model(spec.teacher, store) if spec.teacher else None,
        data=data,
        device=spec.machine.device,
        dtype=spec.machine.dtype,
        seed=stage_seed(spec.seed, stage.stage),
        state=state,
        store=store,
        events=events,
        cancelled=cancelled,
        responses=open_dataset(spec.responses, store) if spec.responses else None,
        slot=slot,
    )
    draft = store.draft(stage.makes, spec.fingerprint)
    make = _make if stage.makes == "model" else _make_dataset
    try:
        return make(stage, source, context, store, draft, spec)
    except KeyboardInterrupt:
        raise Cancelled(f"{stage.stage} was cancelled; what training had saved is kept") from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)  # renamed away when all went well


def _require_unchanged(stage: Stage, spec: StageSpec) -> None:
    for role, found in stage.named_inputs().items():
        if spec.inputs.get(role, found) != found:
            raise BadInput(
                f"{stage.stage}: the {role} have changed since this run was planned; run it again to plan anew"
            )


def earlier_seconds(state: Path) -> float:
    """Seconds that earlier processes put into what they saved here; begins this process's count.

    A killed process cannot say how long it worked: from its start to its last save is what the result owes it.
    """
    clock = state / "clock.json"
    earlier = 0.0
    try:
        before = json.loads(clock.read_text())
        saves = [path.stat().st_mtime for path in state.rglob("*") if path.is_file() and path != clock]
        earlier = before["earlier"] + max(0.0, max(saves, default=0.0) - before["started"])
    except (OSError, ValueError, KeyError, TypeError):  # the first process, or a file that a power cut emptied
        pass
    draft = clock.with_suffix(".draft")
    draft.write_text(json.dumps({"earlier": earlier, "started": time.time()}))
    draft.replace(clock)
    return earlier


def _make(stage: Stage, source: Model, context: Context, store: Store, draft: Path, spec: StageSpec) -> Artifact:
    started = _begin(context)
    promised = stage.plan(source.facts)
    writer = Writer(draft, promised, tokenizer_from=source.folder)
    stage.apply(source, writer, context)
    writer.close()
    applied = time.time()
    context.log("saved; what was made is proved now")
    proofs = prove(stage.trains, source, context.origin, promised, writer)
    facts = proofs.pop("facts")
    manifest = _told(stage, spec, applied - started) | {
        "proof_seconds": time.time() - applied,
        "parameters": facts.parameters,
        "bytes": facts.bytes,
        "weight_bytes": facts.weight_bytes(),
        "proofs": proofs,
        "notes": writer.notes,
    }
    artifact = store.commit("model", spec.fingerprint, draft, manifest)
    shutil.rmtree(context.state, ignore_errors=True)
    return artifact


def _make_dataset(
    stage: Stage, source: Model, context: Context, store: Store, draft: Path, spec: StageSpec
) -> Artifact:
    started = _begin(context)
    counts = stage.generate(source, draft, context)
    manifest = _told(stage, spec, time.time() - started) | {"counts": counts}
    artifact = store.commit("dataset", spec.fingerprint, draft, manifest)
    shutil.rmtree(context.state, ignore_errors=True)
    return artifact


def _begin(context: Context) -> float:
    """Seed everything; when the work began, had one process done all of it."""
    torch.manual_seed(context.seed)
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Filling every new tensor before it is written costs a twentieth of a training, and nothing reads it unwritten.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return time.time() - earlier_seconds(context.state)


def _told(stage: Stage, spec: StageSpec, seconds: float) -> dict[str, Any]:
    """What every manifest says."""
    return {
        "stage": stage.stage,
        "version": stage.version,
        "settings": stage.settings(),
        "seed": spec.seed,
        "dtype": spec.machine.dtype,
        "inputs": spec.inputs,
        "source": {"folder": spec.source.folder, "fingerprint": spec.source.fingerprint},
        "teacher": {"folder": spec.teacher.folder, "fingerprint": spec.teacher.fingerprint} if spec.teacher else None,
        "data": spec.data.model_dump(),
        "machine": machine.describe(spec.machine.device, spec.machine.threads),
        "versions": machine.versions(),
        "seconds": seconds,
        "peak_memory_bytes": machine.peak_memory(spec.machine.device),
    }
