"""The training loop: a student moves towards a teacher, the text, or both; it goes on where a crash left it.

The order of the data is a function of (seed, step) alone, and the state holds everything else, so a training that was
killed and started again ends bit for bit where an undisturbed one does.
"""

import math
import zlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from attar import architecture
from attar.attention import quick_attention
from attar.divergence import HeadLoss, Objective, Softcaps, TopK, head_loss
from attar.errors import BadInput, Cancelled, ProofFailed
from attar.model import head_weight, last_hidden, softcap
from attar.optimizer import MasterAdamW
from attar.store import Store
from attar.teacher_cache import Hidden, Keep, TeacherCache, open_cache
from attar.training_settings import TrainingSettings
from attar.training_state import load_state, save_state

if TYPE_CHECKING:
    from attar.data import Corpus
    from attar.model import Model


class Surroundings(Protocol):
    """What training needs of a stage's context."""

    @property
    def teacher(self) -> "Model | None": ...
    @property
    def data(self) -> "Corpus": ...
    @property
    def torch_dtype(self) -> torch.dtype: ...
    @property
    def device(self) -> str: ...
    @property
    def seed(self) -> int: ...
    @property
    def state(self) -> Path: ...
    @property
    def store(self) -> Store: ...
    @property
    def cancelled(self) -> Callable[[], bool]: ...
    def lock(self, fingerprint: str) -> AbstractContextManager[object]: ...
    def report(self, name: str, value: float, step: int | None = None) -> None: ...
    def progress(self, done: int, total: int, unit: str) -> None: ...
    def log(self, text: str, level: str = "info") -> None: ...


def fit(
    student: nn.Module,
    source: "Model",
    settings: TrainingSettings,
    context: Surroundings,
    rates: Mapping[str, float] | None = None,
) -> None:
    """:func:`train` with the teacher and the text of a stage's context; ``source`` lends the tokenizer."""
    asked = asked_teacher(source, settings, context)
    windows = context.data.windows("train", source.tokenizer_file, settings.windows, settings.length, context.seed)
    if not len(windows):  # plans count the tokens of the origin's tokenizer, and a student may have another
        raise BadInput(
            f"the training text is shorter than one window of length={settings.length} tokens of the model "
            f"{source.folder}; lower length, or name a longer text in data.source"
        )
    if asked is None:
        train(student, None, windows, settings, context, rates)
    elif settings.cache == "none":
        teacher = asked.materialize(context.torch_dtype, context.device).requires_grad_(False)
        train(student, teacher, windows, settings, context, rates)
    else:
        cache = open_cache(asked, windows, Keep(settings.cache, settings.top_k, settings.temperature), context)
        report_missed(student, asked, cache, windows, settings, context, step=0)
        train(student, cache, windows, settings, context, rates)
        whole = student.float().eval()  # what learned is fp32 by now, and what is frozen would not multiply with it
        report_missed(whole, asked, cache, windows, settings, context, step=settings.steps)


def asked_teacher(source: "Model", settings: TrainingSettings, context: Surroundings) -> "Model | None":
    """The teacher of a stage's context, with the tokens of ``source``; None when ``alpha`` is 0."""
    if settings.alpha == 0:
        return None
    if context.teacher is None:
        raise BadInput(f"alpha={settings.alpha:g} asks for a teacher and there is none; alpha=0 needs none")
    _require_same_tokens(source, context.teacher)
    return context.teacher


def train(
    student: nn.Module,
    teacher: nn.Module | TeacherCache | None,
    windows: npt.NDArray[np.int64],
    settings: TrainingSettings,
    context: Surroundings,
    rates: Mapping[str, float] | None = None,
) -> None:
    """:func:`learn` from whole windows of text.

    Args:
        student: a causal language model of transformers.
        teacher: the same kind with the same vocabulary, or a cache of what it says about ``windows``; not needed, and
            not asked, when ``alpha`` is 0.
        windows: token ids [n, length]; read in a new order every epoch, as often as the budget needs.
        settings, context, rates: as in :func:`learn`.
    """
    online = teacher if isinstance(teacher, nn.Module) else None

    def lesson(step: int) -> HeadLoss:
        rows = batch_rows(len(windows), settings.batch, context.seed, step)
        ids_BT = torch.from_numpy(windows[rows]).to(context.device)
        with quick_attention(student, online, length=ids_BT.shape[1], device=context.device):
            return loss_of(student, teacher, ids_BT, settings, rows)

    learn(student, lesson, settings, context, rates)


def learn(
    student: nn.Module,
    lesson: Callable[[int], HeadLoss],
    settings: TrainingSettings,
    context: Surroundings,
    rates: Mapping[str, float] | None = None,
) -> None:
    """Train, in place, every parameter of ``student`` that requires a gradient; at the end they are fp32.

    Args:
        student: a module.
        lesson: the loss of a step on the student as it is then; a function of the step's number alone.
        settings: budget, schedule, loss.
        context: where the state lies, seed, events.
        rates: peak learning rates by parameter name where they differ from ``settings.learning_rate``.

    Raises:
        ProofFailed: the loss left the numbers, or a parameter never got a gradient or never moved.
        Cancelled: the state of this step is saved.
    """
    learning = {name: p for name, p in student.named_parameters() if p.requires_grad}
    optimizer = MasterAdamW(
        learning,
        {name: (rates or {}).get(name, settings.learning_rate) for name in learning},
        settings.weight_decay,
        decayed=frozenset(n for n, p in learning.items() if p.ndim == 2 and n.endswith("weight")),
    )
    started_as = {name: _digest(master, name) for name, master in optimizer.masters.items()}
    alive: set[str] = set()  # parameters that ever got a gradient other than zero
    load_state(optimizer, alive, context.state, context.log)
    tokens_a_step = settings.batch * settings.length
    for step in range(optimizer.steps, settings.steps):
        if context.cancelled():
            save_state(optimizer, alive, context.state)
            raise Cancelled(f"training was stopped after {step} of {settings.steps} steps, which are saved")
        torch.manual_seed(int(np.random.SeedSequence((context.seed, step)).generate_state(1)[0]))  # for dropout
        losses = lesson(step)
        losses.loss.backward()  # type: ignore[no-untyped-call]
        norms = optimizer.gradient_norms()
        norm = math.hypot(*norms.values())
        _require_numbers(losses, norm, step, settings)
        alive |= {name for name, value in norms.items() if value > 0}
        factor = settings.rate_factor(step)
        optimizer.step(factor, min(1.0, settings.clip / norm) if settings.clip and norm else 1.0)
        _report(context, settings, losses, norm, factor, step)
        context.progress((step + 1) * tokens_a_step, settings.steps * tokens_a_step, "tokens")
        if (step + 1) % settings.save_every == 0 and step + 1 < settings.steps:
            save_state(optimizer, alive, context.state)
    _require_movement(optimizer, started_as, alive, context)
    optimizer.publish()


def loss_of(
    student: nn.Module,
    teacher: nn.Module | TeacherCache | None,
    ids_BT: Tensor,
    settings: TrainingSettings,
    rows: npt.NDArray[np.int64] | None = None,
    learned_BT: Tensor | None = None,
) -> HeadLoss:
    """The objective on rows of token ids [batch, tokens], each token but the last predicting the next.

    ``rows`` [batch] are their places in what a cache was made of. ``learned_BT`` [batch, tokens − 1] says which of the
    predictions count, for a teacher that is no cache; all do by default.
    """
    counting = slice(None) if learned_BT is None else learned_BT.reshape(-1)
    objective = Objective(settings.alpha, settings.temperature, settings.divergence, settings.mix)
    labels_N = ids_BT[:, 1:].reshape(-1)[counting]
    hidden_NE = head_VE = cap = top = None
    if teacher is not None and settings.alpha > 0:
        said = _targets(teacher, ids_BT, rows)
        if isinstance(said, TopK):
            top = said
        else:
            hidden_NE, head_VE, cap = said
            hidden_NE = hidden_NE[counting]
    hidden_ND, caps = last_hidden(student, ids_BT)[counting], Softcaps(softcap(student), cap)
    return head_loss(hidden_ND, head_weight(student), labels_N, objective, hidden_NE, head_VE, softcaps=caps, top=top)


def _targets(teacher: nn.Module | TeacherCache, ids_BT: Tensor, rows: npt.NDArray[np.int64] | None) -> Hidden | TopK:
    if isinstance(teacher, TeacherCache):
        if rows is None:
            raise ValueError("a cache needs to know which windows it is asked about")
        return teacher.targets(rows)
    with torch.no_grad():
        return Hidden(last_hidden(teacher, ids_BT), head_weight(teacher).detach(), softcap(teacher))


@torch.no_grad()
def report_missed(
    student: nn.Module,
    teacher: "Model",
    cache: TeacherCache,
    windows: npt.NDArray[np.int64],
    settings: TrainingSettings,
    context: Surroundings,
    step: int,
) -> None:
    """Report what a cache of top tokens misses: mass of the rest, and nats of the divergence on some windows."""
    if cache.keep.what != "topk":
        return
    dtype = next(student.parameters()).dtype
    count, exact_NE = cache.probe()
    exact_head_VE = teacher.head(dtype, context.device)
    ids_BT = torch.from_numpy(windows[:count]).to(context.device)
    objective = Objective(1.0, settings.temperature, settings.divergence, settings.mix)
    caps = Softcaps(softcap(student), architecture.softcap(teacher.facts.config))
    learned = (last_hidden(student, ids_BT), head_weight(student), ids_BT[:, 1:].reshape(-1), objective)
    whole = head_loss(*learned, exact_NE.to(dtype), exact_head_VE, softcaps=caps).divergence.item()
    kept = head_loss(*learned, softcaps=caps, top=cache.top(np.arange(count))).divergence.item()
    context.report("topk_tail_mass", 1 - cache.mass, step)
    context.report("topk_bias", whole - kept, step)
    context.log(
        f"cache=topk: the {cache.keep.top_k} tokens kept hold {cache.mass:.1%} of the teacher's probability at "
        f"temperature {cache.keep.temperature:g}; of a divergence of {whole:.4f} nats a token they see {kept:.4f}"
    )


def batch(windows: npt.NDArray[np.int64], size: int, seed: int, step: int) -> npt.NDArray[np.int64]:
    """Windows [size, length] of a step."""
    rows: npt.NDArray[np.int64] = windows[batch_rows(len(windows), size, seed, step)]
    return rows


def batch_rows(count: int, size: int, seed: int, step: int) -> npt.NDArray[np.int64]:
    """Which of ``count`` windows a step reads [size]: every epoch is a permutation, drawn from (seed, epoch)."""
    places = range(step * size, (step + 1) * size)
    orders = {epoch: np.random.default_rng((seed, epoch)).permutation(count) for epoch in {p // count for p in places}}
    return np.array([orders[place // count][place % count] for place in places], dtype=np.int64)


def _require_same_tokens(student: "Model", teacher: "Model") -> None:
    if why := teacher.facts.apart(student.facts):
        raise BadInput(
            f"{why} of the teacher {teacher.folder} and the student {student.folder}, so their next-token "
            "distributions cannot be compared; choose a teacher with the same tokenizer.json and vocabulary, or let "
            "this one write answers with generate.responses and learn from them with distill.response"
        )


def _digest(master: Tensor, name: str) -> int:
    """Of the parameter as it will be stored: what only moved in fp32 has not moved for any reader."""
    stored = master.detach().cpu().to(torch.float16 if name.endswith(".scales") else torch.bfloat16)
    return zlib.crc32(stored.contiguous().view(torch.uint8).numpy().data)


def _kind(name: str) -> str:
    """Parameters that play the same part and learn at the same rate."""
    if name.endswith((".scales", ".bias")):
        return name.rpartition(".")[2]
    if "norm" in name or ".ln_" in name:
        return "norms"
    return "embedding" if any(part in name for part in ("embed", "lm_head", ".wte.", ".wpe.")) else "weights"


def _report(
    context: Surroundings, settings: TrainingSettings, losses: HeadLoss, norm: float, factor: float, step: int
) -> None:
    context.report("loss", losses.loss.item(), step)
    if settings.alpha > 0:
        context.report("divergence", losses.divergence.item(), step)
    context.report("cross_entropy", losses.cross_entropy.item(), step)
    context.report("gradient_norm", norm, step)
    context.report("learning_rate", settings.learning_rate * factor, step)


def _require_numbers(losses: HeadLoss, norm: float, step: int, settings: TrainingSettings) -> None:
    loss_holds = math.isfinite(losses.loss.item())
    if loss_holds and math.isfinite(norm):
        return
    what = "gradient" if loss_holds else "loss"
    raise ProofFailed(
        f"training diverged: the {what} at step {step} is not a finite number (learning_rate="
        f"{settings.learning_rate:g}, clip={settings.clip:g}); try a learning_rate of "
        f"{settings.learning_rate / 10:g}, a longer warmup or a smaller clip"
    )


def _require_movement(
    optimizer: MasterAdamW, started_as: Mapping[str, int], alive: set[str], context: Surroundings
) -> None:
    silent = [name for name in optimizer.parameters if name not in alive]
    if silent:
        raise ProofFailed(
            f"{len(silent)} of {len(optimizer.parameters)} tensors that should learn never got a gradient other than "
            f"zero, {silent[0]} for one"
        )
    moved = {_kind(n) for n, master in optimizer.masters.items() if _digest(master, n) != started_as[n]}
    still = sorted({_kind(name) for name in optimizer.parameters} - moved)
    text = (
        f"the {' and '.join(still)} should learn, and not one of them moved by as much as its stored precision; "
        "try a higher learning rate or more train_tokens"
    )
    if set(still) - {"norms", "bias"}:
        raise ProofFailed(text)
    if still:  # values near 1 whose bf16 steps are wide: a gentle training may leave them
        context.log(text, level="warning")
