"""What a teacher says about the windows of a training, kept on disk: asked once, read by every run that needs it.

Shape suffixes: W windows, T tokens of a window that have a next one, N = W · T predictions, E width of the teacher,
V vocabulary, K kept tokens.

Kept are either the last hidden states [W, T, E] after the final norm, from which the head makes the logits of any
temperature, or the K likeliest tokens of one temperature and the log-probability of all others together. The cache is
an artifact of the store, named by teacher, windows and what is kept; its shards are written one by one, so that making
it goes on where a crash left it, and are mapped into memory, not read, when a training opens them.
"""

import hashlib
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from attar import architecture, machine
from attar.attention import quick_attention
from attar.divergence import TopK, top_of
from attar.errors import BadInput, Cancelled, StageFailed
from attar.fingerprint import environment_versions, hash_json
from attar.model import head_weight, last_hidden, softcap
from attar.store import Artifact, Store

if TYPE_CHECKING:
    from attar.model import Model

VERSION = 1  # bump when the same teacher and windows give other numbers
FORWARD_TOKENS = 2048  # of one pass of the teacher; not the batch of the training, so that all trainings share
SHARD_TOKENS = 16_384  # what a crash costs at most is the making of one shard
MOST_SHARDS = 4096  # of a large cache, whose shards are larger
LEAST_MASS = 0.5  # of the teacher's probability that the top tokens must hold
PROBES = 2  # windows whose hidden states a cache of top tokens keeps as well, to show what it misses

Windows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Keep:
    """What is kept of a teacher: its last hidden states, or ``top_k`` tokens at a temperature."""

    what: Literal["hidden", "topk"]
    top_k: int = 0
    temperature: float = 1.0

    def as_json(self) -> dict[str, Any]:
        """As it goes into the name: hidden states serve every temperature."""
        if self.what == "hidden":
            return {"what": "hidden"}
        return {"what": "topk", "top_k": self.top_k, "temperature": self.temperature}


class Hidden(NamedTuple):
    """Last hidden states of the teacher, the weight of its head and the cap of its logits, where it has one."""

    hidden_NE: Tensor
    head_VE: Tensor
    softcap: float | None


class Surroundings(Protocol):
    """What making a cache needs of a stage's context."""

    @property
    def store(self) -> Store: ...
    @property
    def torch_dtype(self) -> torch.dtype: ...
    @property
    def device(self) -> str: ...
    @property
    def cancelled(self) -> Callable[[], bool]: ...
    def lock(self, fingerprint: str) -> AbstractContextManager[object]: ...
    def report(self, name: str, value: float, step: int | None = None) -> None: ...
    def progress(self, done: int, total: int, unit: str) -> None: ...
    def log(self, text: str, level: str = "info") -> None: ...


class TeacherCache:
    """An opened cache: gives, window by window, what an online teacher would have said. Loads no teacher."""

    def __init__(
        self, artifact: Artifact, keep: Keep, head_VE: Tensor | None, softcap: float | None, device: str
    ) -> None:
        self.artifact = artifact
        self.keep = keep
        self.head_VE = head_VE
        self.softcap = softcap
        self.device = device
        self.per_shard = int(artifact.manifest["windows_per_shard"])
        self._shards: dict[int, Any] = {}

    @property
    def mass(self) -> float:
        """Share of the teacher's probability in what is kept, at the cache's temperature; 1 for hidden states."""
        return float(self.artifact.manifest["mass"])

    def targets(self, rows: npt.NDArray[np.int64]) -> Hidden | TopK:
        """What the teacher says about the windows ``rows`` [B]: N = B · T predictions, window after window."""
        if self.keep.what == "hidden":
            assert self.head_VE is not None
            return Hidden(self._read("hidden", rows), self.head_VE, self.softcap)
        return self.top(rows)

    def probe(self) -> tuple[int, Tensor]:
        """Of a cache of top tokens the first windows exactly: how many, and the teacher's hidden states [N, E]."""
        hidden_WTE: Tensor = self._shard(0).get_tensor("probe")
        return len(hidden_WTE), hidden_WTE.to(self.device).flatten(0, 1)

    def top(self, rows: npt.NDArray[np.int64]) -> TopK:
        """What a cache of top tokens says about the windows ``rows``."""
        return TopK(self._read("index", rows).long(), self._read("log_p", rows), self._read("tail", rows))

    def _read(self, name: str, rows: npt.NDArray[np.int64]) -> Tensor:
        parts = [self._shard(row // self.per_shard).get_slice(name)[row % self.per_shard] for row in rows.tolist()]
        return torch.cat(parts).to(self.device)

    def _shard(self, number: int) -> Any:
        if number not in self._shards:
            self._shards[number] = safe_open(self.artifact.folder / _shard_name(number), framework="pt")
        return self._shards[number]


def open_cache(teacher: "Model", windows: Windows, keep: Keep, context: Surroundings) -> TeacherCache:
    """The cache of ``teacher`` on ``windows`` [W, T + 1], made first if the store has none or a damaged one.

    Raises:
        BadInput: the top tokens hold too little of the teacher's probability to stand for it.
        Cancelled: somebody stopped it; the shards made so far are kept.
    """
    if keep.what == "topk":  # the rest must hold at least one token
        keep = Keep("topk", min(keep.top_k, teacher.facts.vocabulary - 1), keep.temperature)
    name = fingerprint(teacher, windows, keep, str(context.torch_dtype).removeprefix("torch."))
    with context.lock(name):
        artifact = _intact(context.store, name, context)
        if artifact is None:
            artifact = _make(teacher, windows, keep, name, context)
        else:
            context.log(f"the teacher is not asked: cache {name} holds what it says about the {len(windows)} windows")
    head_VE = teacher.head(context.torch_dtype, context.device) if keep.what == "hidden" else None
    return TeacherCache(artifact, keep, head_VE, architecture.softcap(teacher.facts.config), context.device)


def fingerprint(teacher: "Model", windows: Windows, keep: Keep, dtype: str) -> str:
    """Name of a cache. The windows count by their tokens: whoever selects the same ones shares it."""
    if not teacher.fingerprint:
        raise ValueError(f"the model {teacher.folder} has no fingerprint, so its cache would pass for that of another")
    return hash_json(
        {
            "version": VERSION,
            "teacher": teacher.fingerprint,
            "windows": [list(windows.shape), hashlib.sha256(windows.tobytes()).hexdigest()],
            "keep": keep.as_json(),
            "dtype": dtype,
            "versions": environment_versions(),
        }
    )


def _intact(store: Store, name: str, context: Surroundings) -> Artifact | None:
    if store.find("teacher-cache", name) is None:
        return None
    try:
        return store.open("teacher-cache", name)
    except StageFailed:
        context.log(f"the teacher cache {name} is not what was stored; it is made again", level="warning")
        return None


def _make(teacher: "Model", windows: Windows, keep: Keep, name: str, context: Surroundings) -> Artifact:
    """Ask the teacher shard by shard; the shards lie in the store's state until all of them are there."""
    started = time.time()
    folder = context.store.state(name)
    for draft in folder.glob("*.draft"):
        draft.unlink()
    count, tokens = len(windows), windows.shape[1] - 1
    per_shard = max(1, min(count, max(SHARD_TOKENS, count * tokens // MOST_SHARDS) // tokens))
    starts = range(0, count, per_shard)
    missing = [s for s in starts if not _complete(folder / _shard_name(s // per_shard), min(per_shard, count - s))]
    if len(missing) < len(starts):
        context.log(f"the teacher cache {name} goes on after {len(starts) - len(missing)} of {len(starts)} shards")
    if missing:
        model = teacher.materialize(context.torch_dtype, context.device).requires_grad_(False)
        for done, start in enumerate(missing):
            if context.cancelled():
                raise Cancelled(f"the teacher was stopped after {done} of {len(missing)} shards, which are kept")

            def progress(asked: int, before: int = start) -> None:
                context.progress((before + asked) * tokens, count * tokens, "tokens of the teacher")

            shard = _ask(model, windows[start : start + per_shard], keep, context, progress, first=start == 0)
            _save(shard, folder / _shard_name(start // per_shard))
    manifest = {
        "stage": "teacher-cache",
        "version": VERSION,
        "settings": keep.as_json(),
        "inputs": {"teacher": teacher.fingerprint},
        "windows": [count, tokens + 1],
        "windows_per_shard": per_shard,
        "dtype": str(context.torch_dtype).removeprefix("torch."),
        "mass": _mass(folder, len(starts)) if keep.what == "topk" else 1.0,
        "machine": machine.describe(context.device, torch.get_num_threads()),
        "versions": machine.versions(),
        "seconds": time.time() - started,
        "peak_memory_bytes": machine.peak_memory(context.device),
    }
    return context.store.commit("teacher-cache", name, folder, manifest)


@torch.no_grad()
def _ask(
    model: nn.Module,
    windows: Windows,
    keep: Keep,
    context: Surroundings,
    progress: Callable[[int], None],
    first: bool,
) -> dict[str, Tensor]:
    """One shard, on the CPU. The ``first`` one of top tokens tells whether they will do, and holds the probe.

    ``progress`` hears how many windows were asked: a shard may take a slow machine longer than a run's patience.
    """
    size = max(1, FORWARD_TOKENS // windows.shape[1])

    def by_window(column_N: Tensor) -> Tensor:
        return column_N.reshape(-1, windows.shape[1] - 1, *column_N.shape[1:]).cpu()

    parts: list[dict[str, Tensor]] = []
    probe: Tensor | None = None
    for start in range(0, len(windows), size):
        ids_BT = torch.from_numpy(windows[start : start + size]).to(context.device)
        with quick_attention(model, length=ids_BT.shape[1], device=context.device):
            hidden_NE = last_hidden(model, ids_BT)
        progress(min(start + size, len(windows)))
        if keep.what == "hidden":
            parts.append({"hidden": by_window(hidden_NE)})
            continue
        top = top_of(hidden_NE, head_weight(model), keep.top_k, keep.temperature, softcap(model))
        if first and probe is None:
            probe = by_window(hidden_NE)[:PROBES].clone()
            _require_mass(float(top.log_p_NK.exp().sum(-1).mean()), keep)
        named = {"index": top.index_NK.int(), "log_p": top.log_p_NK, "tail": top.tail_N}
        parts.append({name: by_window(column) for name, column in named.items()})
    shard = {n: torch.cat([part[n] for part in parts]) for n in parts[0]}
    return shard if probe is None else {**shard, "probe": probe}


def _shard_name(number: int) -> str:
    return f"shard-{number:05d}.safetensors"


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.draft")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, draft)
    draft.chmod(0o644)
    with open(draft, "rb") as file:
        os.fsync(file.fileno())
    draft.replace(path)


def _complete(path: Path, windows: int) -> bool:
    try:
        with safe_open(path, framework="pt") as file:
            names = set(file.keys()) - {"probe"}
            return bool(names) and all(file.get_slice(name).get_shape()[0] == windows for name in names)
    except (OSError, SafetensorError):
        return False


def _mass(folder: Path, shards: int) -> float:
    """Mean probability of the top tokens over all windows."""
    rest, counted = 0.0, 0
    for number in range(shards):
        with safe_open(folder / _shard_name(number), framework="pt") as file:
            tail = file.get_tensor("tail")
        rest += float(tail.double().exp().sum())
        counted += tail.numel()
    return 1 - rest / counted


def _require_mass(mass: float, keep: Keep) -> None:
    if mass < LEAST_MASS:
        raise BadInput(
            f"cache=topk: the {keep.top_k} likeliest tokens hold {mass:.1%} of the teacher's probability at "
            f"temperature {keep.temperature:g}, and {LEAST_MASS:.0%} must stand for the whole; use cache=hidden, "
            "which is exact at every temperature, a lower temperature or a larger top_k"
        )
