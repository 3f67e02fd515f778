"""How far a student's next-token distributions are from a teacher's, and the loss that training minimises.

Shape suffixes: N tokens, V vocabulary, D width of the student, E width of the teacher, R rows of one block.

The head of a language model turns [N, D] hidden states into [N, V] logits, by far the largest matrices of a training
step. :func:`head_loss` therefore takes hidden states and heads: it forms the logits of a few hundred tokens at a time,
finishes loss *and* gradient for them, and lets go. The elementwise work runs in fp32 over blocks that stay in cache.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

Kind = Literal["forward", "reverse", "jsd", "skew"]
CHUNK = 512  # tokens whose logits exist at one time
BLOCK_BYTES = 1 << 20  # of fp32 logits in one elementwise block on a CPU: what a core's own cache holds


@dataclass(frozen=True)
class Objective:
    """alpha · T² · D(teacher ‖ student at temperature T) + (1 − alpha) · cross-entropy on the labels.

    The factor T² keeps the size of the gradient independent of T (Hinton et al., arXiv 1503.02531, §2.1).
    """

    alpha: float = 1.0
    temperature: float = 1.0
    kind: Kind = "forward"
    mix: float = 0.1  # weight of the teacher (jsd, skew) inside the mixture of both


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
) -> HeadLoss:
    """Mean loss over N tokens, differentiable in ``hidden_ND`` and ``head_VD``.

    Args:
        hidden_ND: the student's last hidden states, after its final norm.
        head_VD: weight of its head; may be frozen.
        labels_N: the tokens that really came next.
        objective: which loss.
        teacher_NE, teacher_head_VE: the same of the teacher, without gradient; needed unless ``alpha`` is 0.
        chunk: tokens whose logits exist at one time.
        softcaps: of both models' logits.
    """
    if (teacher_NE is None or teacher_head_VE is None) and objective.alpha > 0:
        raise ValueError("alpha > 0 needs the teacher's hidden states and head")
    options = (labels_N, objective, teacher_NE, teacher_head_VE, chunk, head_VD.requires_grad, softcaps)
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
            teacher_CV = None
            if teacher_NE is not None and teacher_head_VE is not None:
                teacher_CV = teacher_NE[part] @ teacher_head_VE.T
            totals += _in_blocks(student_CV, teacher_CV, labels_N[part], objective, softcaps, 1 / count)
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
        return grad_hidden_ND, grad_head_VD, *[None] * 7


def _in_blocks(
    student_CV: Tensor,
    teacher_CV: Tensor | None,
    labels_C: Tensor,
    objective: Objective,
    softcaps: Softcaps,
    scale: float,
) -> Tensor:
    """Sums of divergence and cross-entropy [2]; replaces the student's logits by ``scale`` times their gradient."""
    rows = len(student_CV)
    if student_CV.device.type == "cpu":
        rows = max(1, BLOCK_BYTES // (4 * student_CV.shape[1]))
    totals = torch.zeros(2, dtype=torch.float64, device=student_CV.device)
    for start in range(0, len(student_CV), rows):
        block = slice(start, start + rows)
        student_RV = _capped(student_CV[block], softcaps.student)
        teacher_RV = None if teacher_CV is None else _capped(teacher_CV[block], softcaps.teacher)
        distance_R, cross_R, grad_RV = _losses(student_RV, teacher_RV, labels_C[block], objective)
        if softcaps.student:
            grad_RV.mul_(1 - (student_RV / softcaps.student).square())
        totals[0] += distance_R.sum(dtype=torch.float64)
        totals[1] += cross_R.sum(dtype=torch.float64)
        student_CV[block] = grad_RV.mul_(scale)
    return totals


def _capped(logits_RV: Tensor, cap: float | None) -> Tensor:
    if not cap:
        return logits_RV
    wide = logits_RV.to(torch.promote_types(logits_RV.dtype, torch.float32))
    return torch.tanh(wide / cap).mul_(cap)


def _losses(
    student_RV: Tensor, teacher_RV: Tensor | None, labels_R: Tensor, objective: Objective
) -> tuple[Tensor, Tensor, Tensor]:
    """Divergence [R], cross-entropy [R], and the gradient of the objective in the student's logits [R, V]."""
    temperature, alpha = objective.temperature, objective.alpha
    labels_R1 = labels_R[:, None]
    log_q_RV = _log_softmax(student_RV)
    cross_R = -log_q_RV.gather(1, labels_R1)[:, 0]
    if teacher_RV is None or alpha == 0:
        grad_RV = log_q_RV.exp_()
        grad_RV.scatter_add_(1, labels_R1, grad_RV.new_full(labels_R1.shape, -1.0))
        return torch.zeros_like(cross_R), cross_R, grad_RV
    warm_RV = log_q_RV if temperature == 1 else _log_softmax(student_RV, temperature)
    distance_R, grad_RV = _KINDS[objective.kind](_log_softmax(teacher_RV, temperature), warm_RV, objective.mix)
    if alpha * temperature != 1:
        grad_RV.mul_(alpha * temperature)  # T² of the objective over T of the softmax
    if alpha < 1:
        grad_RV.add_(log_q_RV.exp_(), alpha=1 - alpha)
        grad_RV.scatter_add_(1, labels_R1, grad_RV.new_full(labels_R1.shape, alpha - 1))
    return distance_R, cross_R, grad_RV


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
