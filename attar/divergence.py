"""How far a student's next-token distributions are from a teacher's, and the loss that training minimises.

Shape suffixes: N tokens, C tokens of a chunk, S some of those, R rows of one block; V vocabulary, D width of the
student, E width of the teacher, K top tokens.

The head of a language model turns [N, D] hidden states into [N, V] logits, by far the largest matrices of a training
step. :func:`head_loss` therefore takes hidden states and heads: it forms the student's logits of a thousand tokens at a
time and the teacher's of fewer, finishes loss *and* gradient for them, and lets go. The elementwise work runs in fp32
over blocks that stay in cache. K tokens may stand for the whole of what the teacher says: see :class:`TopK`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

Kind = Literal["forward", "reverse", "jsd", "skew"]
CHUNK = 1024  # tokens whose student logits exist at one time: the head's gradient is best made of many at once
TEACHER_ROWS = 256  # tokens of a chunk whose teacher logits exist at one time
TOP_ROWS = 64  # tokens whose logits exist at one time while the likeliest are picked
BLOCK_BYTES = 1 << 20  # of fp32 logits in one elementwise block on a CPU: what a core's own cache holds


@dataclass(frozen=True)
class Objective:
    """alpha · T² · D(teacher ‖ student at temperature T) + (1 − alpha) · cross-entropy on the labels.

    The factor T² keeps the size of the gradient independent of T (Hinton et al., arXiv 1503.02531, §2.1).
    """

    alpha: float = 1.0
    temperature: float = 1.0
    kind: Kind = "forward"
    mix: float = 0.1  # weight of the teacher inside the mixture of both: β of jsd, λ of skew


class TopK(NamedTuple):
    """What a teacher found likeliest, at the objective's temperature; all other tokens together are one more event.

    On these K + 1 events every divergence is at most what it is on the whole vocabulary: what is missing is how the
    student spreads the rest (the chain rule of KL; a merging of events never adds to an f-divergence).
    """

    index_NK: Tensor  # int64 token ids
    log_p_NK: Tensor  # their log-probabilities, fp32
    tail_N: Tensor  # log-probability of the rest, finite, fp32

    def at(self, part: slice) -> "TopK":
        """The same for some of the tokens."""
        return TopK(*(column[part] for column in self))


def top_of(hidden_NE: Tensor, head_VE: Tensor, k: int, temperature: float, softcap: float | None = None) -> TopK:
    """The ``k`` likeliest tokens of softmax(logits ÷ temperature), ``k`` below the vocabulary's size.

    Logits are hidden · headᵀ, under ``softcap`` where there is one.
    """
    blocks = (_capped(block_RE @ head_VE.T, softcap) for block_RE in torch.split(hidden_NE, TOP_ROWS))
    parts = [_top_of_logits(logits_RV, k, temperature) for logits_RV in blocks]
    return TopK(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _top_of_logits(logits_RV: Tensor, k: int, temperature: float) -> TopK:
    log_p_RV = _log_softmax(logits_RV, temperature)
    log_p_RK, index_RK = log_p_RV.topk(k)
    tail_R = log_p_RV.exp_().scatter_(1, index_RK, 0.0).sum(-1)  # summed, not subtracted: exact where it is small
    return TopK(index_RK, log_p_RK, tail_R.clamp_min_(torch.finfo(tail_R.dtype).tiny).log_())


class Softcaps(NamedTuple):
    """Caps of logits, ``cap · tanh(logits / cap)``, which some models (Gemma 2) put behind their head."""

    student: float | None = None
    teacher: float | None = None


UNCAPPED = Softcaps()


class HeadLoss(NamedTuple):
    """Means over tokens; only ``loss`` carries a gradient."""

    loss: Tensor
    divergence: Tensor  # nats per token at the objective's temperature, without T²; 0 without a teacher
    cross_entropy: Tensor  # nats per token


def divergence(teacher_NV: Tensor, student_NV: Tensor, kind: Kind = "forward", mix: float = 0.1) -> Tensor:
    """D(teacher ‖ student) of each row [N], in nats, from logits. fp32 inside (fp64 for fp64 logits)."""
    value, _ = _KINDS[kind](_log_softmax(teacher_NV), _log_softmax(student_NV), mix)
    return value


def head_loss(
    hidden_ND: Tensor,
    head_VD: Tensor,
    labels_N: Tensor,
    objective: Objective,
    teacher_NE: Tensor | None = None,
    teacher_head_VE: Tensor | None = None,
    chunk: int = CHUNK,
    softcaps: Softcaps = UNCAPPED,
    top: TopK | None = None,
) -> HeadLoss:
    """Mean loss over N tokens, differentiable in ``hidden_ND`` and ``head_VD``.

    Args:
        hidden_ND: the student's last hidden states, after its final norm.
        head_VD: weight of its head; may be frozen.
        labels_N: the tokens that really came next.
        objective: which loss.
        teacher_NE, teacher_head_VE: the same of the teacher, without gradient; needed unless ``alpha`` is 0.
        chunk: tokens whose student logits exist at one time.
        softcaps: of both models' logits; top tokens are kept of what the teacher's cap has made of its own.
        top: stands in for the teacher's hidden states and head.
    """
    if top is None and (teacher_NE is None or teacher_head_VE is None) and objective.alpha > 0:
        raise ValueError("alpha > 0 needs the teacher's hidden states and head, or its top tokens")
    options = (labels_N, objective, teacher_NE, teacher_head_VE, top, chunk, head_VD.requires_grad, softcaps)
    return HeadLoss(*_HeadLoss.apply(hidden_ND, head_VD, *options))  # type: ignore[no-untyped-call]


class _HeadLoss(torch.autograd.Function):
    """Forward computes both gradients for an upstream gradient of 1, backward scales them."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        head_VD: Tensor,
        labels_N: Tensor,
        objective: Objective,
        teacher_NE: Tensor | None,
        teacher_head_VE: Tensor | None,
        top: TopK | None,
        chunk: int,
        head_learns: bool,
        softcaps: Softcaps,
    ) -> tuple[Tensor, Tensor, Tensor]:
        count = len(hidden_ND)
        accumulate = torch.promote_types(head_VD.dtype, torch.float32)
        totals = torch.zeros(2, dtype=torch.float64, device=hidden_ND.device)
        grad_hidden_ND = torch.empty_like(hidden_ND)
        grad_head_VD: Tensor | None = None
        for start in range(0, count, chunk):
            part = slice(start, start + chunk)
            student_CV = hidden_ND[part] @ head_VD.T
            for offset in range(0, len(student_CV), TEACHER_ROWS):
                student_SV = student_CV[offset : offset + TEACHER_ROWS]
                some = slice(start + offset, start + offset + len(student_SV))
                teacher_S: Tensor | TopK | None = None if top is None else top.at(some)
                if teacher_NE is not None and teacher_head_VE is not None and top is None:
                    teacher_S = teacher_NE[some] @ teacher_head_VE.T
                totals += _in_blocks(student_SV, teacher_S, labels_N[some], objective, softcaps, 1 / count)
            torch.mm(student_CV, head_VD, out=grad_hidden_ND[part])
            if head_learns:
                product_VD = student_CV.T @ hidden_ND[part]
                if count <= chunk:
                    grad_head_VD = product_VD
                else:
                    grad_head_VD = product_VD.to(accumulate) if grad_head_VD is None else grad_head_VD.add_(product_VD)
        if grad_head_VD is not None:
            grad_head_VD = grad_head_VD.to(head_VD.dtype)
        ctx.save_for_backward(grad_hidden_ND, grad_head_VD)
        distance, cross_entropy = (totals / count).to(accumulate)
        loss = objective.alpha * objective.temperature**2 * distance + (1 - objective.alpha) * cross_entropy
        ctx.mark_non_differentiable(distance, cross_entropy)
        return loss, distance, cross_entropy

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden_ND, grad_head_VD = ctx.saved_tensors
        factor = upstream[0]
        if factor.item() != 1:
            grad_hidden_ND = grad_hidden_ND * factor.to(grad_hidden_ND.dtype)
            grad_head_VD = None if grad_head_VD is None else grad_head_VD * factor.to(grad_head_VD.dtype)
        return grad_hidden_ND, grad_head_VD, *(None,) * 8


def _in_blocks(
    student_SV: Tensor,
    teacher_S: Tensor | TopK | None,
    labels_S: Tensor,
    objective: Objective,
    softcaps: Softcaps,
    scale: float,
) -> Tensor:
    """Sums of divergence and cross-entropy [2]; replaces the student's logits by ``scale`` times their gradient."""
    rows = len(student_SV)
    if student_SV.device.type == "cpu":
        rows = max(1, BLOCK_BYTES // (4 * student_SV.shape[1]))
    totals = torch.zeros(2, dtype=torch.float64, device=student_SV.device)
    for start in range(0, len(student_SV), rows):
        block = slice(start, start + rows)
        student_RV = _capped(student_SV[block], softcaps.student)
        if isinstance(teacher_S, TopK):
            teacher_R: Tensor | TopK | None = teacher_S.at(block)
        else:
            teacher_R = None if teacher_S is None else _capped(teacher_S[block], softcaps.teacher)
        distance_R, cross_R, grad_RV = _losses(student_RV, teacher_R, labels_S[block], objective)
        if softcaps.student:
            grad_RV.mul_(1 - (student_RV / softcaps.student).square())
        totals[0] += distance_R.sum(dtype=torch.float64)
        totals[1] += cross_R.sum(dtype=torch.float64)
        student_SV[block] = grad_RV.mul_(scale)
    return totals


def _capped(logits_RV: Tensor, cap: float | None) -> Tensor:
    if not cap:
        return logits_RV
    wide = logits_RV.to(torch.promote_types(logits_RV.dtype, torch.float32))
    return torch.tanh(wide / cap).mul_(cap)


def _losses(
    student_RV: Tensor, teacher_R: Tensor | TopK | None, labels_R: Tensor, objective: Objective
) -> tuple[Tensor, Tensor, Tensor]:
    """Divergence [R], cross-entropy [R], and the gradient of the objective in the student's logits [R, V]."""
    temperature, alpha = objective.temperature, objective.alpha
    labels_R1 = labels_R[:, None]
    log_q_RV = _log_softmax(student_RV)
    cross_R = -log_q_RV.gather(1, labels_R1)[:, 0]
    if teacher_R is None or alpha == 0:
        grad_RV = log_q_RV.exp_()
        grad_RV.scatter_add_(1, labels_R1, grad_RV.new_full(labels_R1.shape, -1.0))
        return torch.zeros_like(cross_R), cross_R, grad_RV
    warm_RV = log_q_RV if temperature == 1 else _log_softmax(student_RV, temperature)
    if isinstance(teacher_R, TopK):
        distance_R, grad_RV = _on_top(teacher_R, warm_RV, objective)
    else:
        distance_R, grad_RV = _KINDS[objective.kind](_log_softmax(teacher_R, temperature), warm_RV, objective.mix)
    if alpha * temperature != 1:
        grad_RV.mul_(alpha * temperature)  # T² of the objective over T of the softmax
    if alpha < 1:
        grad_RV.add_(log_q_RV.exp_(), alpha=1 - alpha)
        grad_RV.scatter_add_(1, labels_R1, grad_RV.new_full(labels_R1.shape, alpha - 1))
    return distance_R, cross_R, grad_RV


def _on_top(top: TopK, log_q_RV: Tensor, objective: Objective) -> tuple[Tensor, Tensor]:
    """The divergence over the K top tokens and the rest as one event, and its gradient in all logits [R, V].

    The logit of the rest is the log-sum-exp of its tokens', so that each of them gets its share of the rest's gradient.
    """
    q_RV = log_q_RV.exp()
    q_RV.scatter_(1, top.index_NK, 0.0)
    rest_R1 = q_RV.sum(1, keepdim=True).clamp_min_(torch.finfo(q_RV.dtype).tiny)
    log_q_RK = log_q_RV.gather(1, top.index_NK)
    log_p_RE = torch.cat([top.log_p_NK, top.tail_N[:, None]], 1).to(log_q_RV.dtype)
    value_R, grad_RE = _KINDS[objective.kind](log_p_RE, torch.cat([log_q_RK, rest_R1.log()], 1), objective.mix)
    q_RV.mul_(grad_RE[:, -1:] / rest_R1)
    return value_R, q_RV.scatter_(1, top.index_NK, grad_RE[:, :-1])


def _log_softmax(logits_RV: Tensor, temperature: float = 1.0) -> Tensor:
    wide = logits_RV.to(torch.promote_types(logits_RV.dtype, torch.float32))
    return functional.log_softmax(wide if temperature == 1 else wide / temperature, dim=-1)


# Each kind: (log p, log q, mix) → value [R] and its gradient in the logits of q [R, V]; p teaches, q learns.


def _forward(log_p_RV: Tensor, log_q_RV: Tensor, mix: float) -> tuple[Tensor, Tensor]:
    """KL(p ‖ q)."""
    p_RV = log_p_RV.exp()
    value_R = torch.linalg.vecdot(p_RV, log_p_RV - log_q_RV)
    return value_R, log_q_RV.exp().sub_(p_RV)


def _reverse(log_p_RV: Tensor, log_q_RV: Tensor, mix: float) -> tuple[Tensor, Tensor]:
    """KL(q ‖ p): the student keeps to what the teacher finds likely (MiniLLM, arXiv 2306.08543)."""
    return _through_softmax(log_q_RV.exp(), slope_RV=log_q_RV - log_p_RV)


def _jsd(log_p_RV: Tensor, log_q_RV: Tensor, mix: float) -> tuple[Tensor, Tensor]:
    """mix · KL(p ‖ m) + (1 − mix) · KL(q ‖ m), m = mix · p + (1 − mix) · q (GKD, arXiv 2306.13649)."""
    p_RV, q_RV = log_p_RV.exp(), log_q_RV.exp()
    log_m_RV = _log_mixture(p_RV, q_RV, mix)
    excess_RV = log_q_RV - log_m_RV
    teacher_R = torch.linalg.vecdot(p_RV, log_p_RV - log_m_RV)
    student_R, grad_RV = _through_softmax(q_RV, slope_RV=excess_RV)
    return mix * teacher_R + (1 - mix) * student_R, grad_RV.mul_(1 - mix)


def _skew(log_p_RV: Tensor, log_q_RV: Tensor, mix: float) -> tuple[Tensor, Tensor]:
    """KL(p ‖ mix · p + (1 − mix) · q): never infinite, gentler gradients (DistiLLM, arXiv 2402.03898)."""
    p_RV, q_RV = log_p_RV.exp(), log_q_RV.exp()
    log_m_RV = _log_mixture(p_RV, q_RV, mix)
    value_R = torch.linalg.vecdot(p_RV, log_p_RV - log_m_RV)
    _, grad_RV = _through_softmax(q_RV, slope_RV=-(1 - mix) * (log_p_RV - log_m_RV).exp_())
    return value_R, grad_RV


def _log_mixture(p_RV: Tensor, q_RV: Tensor, mix: float) -> Tensor:
    tiny = torch.finfo(p_RV.dtype).tiny  # where both underflow: the product with either is 0
    return p_RV.mul(mix).add_(q_RV, alpha=1 - mix).clamp_min_(tiny).log_()


def _through_softmax(q_RV: Tensor, slope_RV: Tensor) -> tuple[Tensor, Tensor]:
    """⟨q, slope⟩ [R], and the gradient in the logits of q of a function whose gradient in q is ``slope``."""
    mean_R = torch.linalg.vecdot(q_RV, slope_RV)
    return mean_R, q_RV * (slope_RV - mean_R[:, None])


_KINDS: dict[Kind, Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]]] = {
    "forward": _forward,
    "reverse": _reverse,
    "jsd": _jsd,
    "skew": _skew,
}
