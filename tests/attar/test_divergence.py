"""Laws of the divergences and of the loss that never holds all logits."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from attar.divergence import Kind, Objective, Softcaps, TopK, divergence, head_loss
from attar.divergence import top_of as top_of_head

KINDS: tuple[Kind, ...] = ("forward", "reverse", "jsd", "skew")
N, D, E, V = 11, 6, 5, 17


def setting(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Hidden states and heads of a student and a wider teacher, and labels."""
    generator = torch.Generator().manual_seed(0)
    student_ND, head_VD, teacher_NE, teacher_head_VE = (
        torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
        for shape in ((N, D), (V, D), (N, E), (V, E))
    )
    return student_ND, head_VD, torch.randint(V, (N,), generator=generator), teacher_NE, teacher_head_VE


def plain(teacher_NV: Tensor, student_NV: Tensor, kind: Kind, mix: float) -> Tensor:
    """The definitions, word by word, differentiable by autograd."""
    p, q = teacher_NV.softmax(-1), student_NV.softmax(-1)
    m = mix * p + (1 - mix) * q

    def kl(a: Tensor, b: Tensor) -> Tensor:
        return (a * (a.log() - b.log())).sum(-1)

    return {
        "forward": lambda: kl(p, q),
        "reverse": lambda: kl(q, p),
        "jsd": lambda: mix * kl(p, m) + (1 - mix) * kl(q, m),
        "skew": lambda: kl(p, m),
    }[kind]()


@pytest.mark.parametrize("kind", KINDS)
def test_a_distribution_is_at_no_distance_from_itself(kind: Kind) -> None:
    logits = 10 * torch.randn(4, V, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert divergence(logits, logits + 3.0, kind, 0.3).abs().max() < 1e-12  # softmax does not see a shift


@pytest.mark.parametrize("kind", KINDS)
def test_divergences_are_their_definitions_and_never_negative(kind: Kind) -> None:
    student, head, _, teacher, teacher_head = setting()
    found = divergence(teacher @ teacher_head.T, student @ head.T, kind, 0.3)
    assert torch.allclose(found, plain(teacher @ teacher_head.T, student @ head.T, kind, 0.3), atol=1e-12)
    assert (found >= 0).all()


def two_distributions() -> tuple[Tensor, Tensor]:
    student, head, _, teacher, teacher_head = setting()
    return teacher @ teacher_head.T, student @ head.T


def test_half_and_half_jsd_is_symmetric_and_never_above_ln_2() -> None:
    p, q = two_distributions()
    assert torch.allclose(divergence(p, q, "jsd", 0.5), divergence(q, p, "jsd", 0.5), atol=1e-12)
    apart = 300 * torch.eye(V, dtype=torch.float64)
    found = divergence(apart, apart.flip(0), "jsd", 0.5)
    assert (found <= math.log(2) + 1e-12).all() and torch.allclose(found[0], torch.tensor(math.log(2)).double())


def test_jsd_becomes_either_kl_at_its_ends() -> None:
    """GKD (arXiv 2306.13649, §2): JSD(β) / β tends to the forward KL for β → 0; by symmetry the other end."""
    p, q = two_distributions()
    near = 1e-9
    assert torch.allclose(divergence(p, q, "jsd", near) / near, divergence(p, q, "forward"), rtol=1e-3)
    assert torch.allclose(divergence(p, q, "jsd", 1 - near) / near, divergence(p, q, "reverse"), rtol=1e-3)


def test_no_skew_is_the_forward_kl_and_more_skew_is_less_divergence() -> None:
    p, q = two_distributions()
    assert torch.allclose(divergence(p, q, "skew", 0.0), divergence(p, q, "forward"), atol=1e-12)
    by_skew = torch.stack([divergence(p, q, "skew", skew) for skew in (0.0, 0.1, 0.5, 0.9)])
    assert (by_skew.diff(dim=0) < 0).all()


def top_of(teacher_NV: Tensor, temperature: float, k: int) -> TopK:
    log_p_NV = (teacher_NV / temperature).log_softmax(-1)
    index_NK = log_p_NV.topk(k).indices
    rest_NV = log_p_NV.scatter(1, index_NK, -math.inf)
    return TopK(index_NK, log_p_NV.gather(1, index_NK), rest_NV.logsumexp(-1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("alpha", "temperature"), [(1.0, 1.0), (1.0, 4.0), (0.3, 2.0)])
def test_all_tokens_but_one_at_the_top_are_the_whole_teacher(kind: Kind, alpha: float, temperature: float) -> None:
    student, head, labels, teacher, teacher_head = setting()
    student.requires_grad_(), head.requires_grad_()
    objective = Objective(alpha, temperature, kind, 0.3)
    whole = head_loss(student, head, labels, objective, teacher, teacher_head)
    top = top_of(teacher @ teacher_head.T, temperature, V - 1)
    kept = head_loss(student, head, labels, objective, chunk=4, top=top)
    assert torch.allclose(whole.loss, kept.loss, atol=1e-12)
    expected = torch.autograd.grad(whole.loss, (student, head))
    for one, other in zip(torch.autograd.grad(kept.loss, (student, head)), expected, strict=True):
        assert torch.allclose(one, other, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_top_tokens_and_the_rest_as_one_event(kind: Kind) -> None:
    """Value and gradient are those of the definition on K + 1 events, which is never above the whole divergence."""
    student, head, labels, teacher, teacher_head = setting()
    student.requires_grad_(), head.requires_grad_()
    top = top_of(teacher @ teacher_head.T, 2.0, 5)
    kept = head_loss(student, head, labels, Objective(1.0, 2.0, kind, 0.3), top=top)

    log_q_NV = (student @ head.T / 2).log_softmax(-1)
    inside_NK = log_q_NV.gather(1, top.index_NK)
    rest_N1 = log_q_NV.scatter(1, top.index_NK, -math.inf).logsumexp(-1, keepdim=True)
    log_p_NE = torch.cat([top.log_p_NK, top.tail_N[:, None]], 1)
    expected = 4 * plain(log_p_NE, torch.cat([inside_NK, rest_N1], 1), kind, 0.3).mean()
    assert torch.allclose(kept.loss, expected, atol=1e-12)
    grads = torch.autograd.grad(expected, (student, head))
    for one, other in zip(torch.autograd.grad(kept.loss, (student, head)), grads, strict=True):
        assert torch.allclose(one, other, atol=1e-12)
    whole = head_loss(student, head, labels, Objective(1.0, 2.0, kind, 0.3), teacher, teacher_head)
    assert 0 < kept.divergence < whole.divergence


@pytest.mark.parametrize("kind", KINDS)
def test_certain_distributions_give_finite_gradients(kind: Kind) -> None:
    hidden, head = torch.eye(2).requires_grad_(), 500.0 * torch.eye(2)
    loss = head_loss(hidden, head, torch.tensor([1, 0]), Objective(0.5, 1.0, kind), torch.eye(2).flip(0), head)
    torch.autograd.backward(loss.loss)
    assert hidden.grad is not None and hidden.grad.isfinite().all() and loss.loss.isfinite()


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_capped_logits_keep_value_and_gradient(alpha: float) -> None:
    student, head, labels, teacher, teacher_head = setting()
    student.requires_grad_(), head.requires_grad_()
    student_NV = 2.0 * torch.tanh(student @ head.T / 2.0)
    teacher_NV = 3.0 * torch.tanh(teacher @ teacher_head.T / 3.0)
    expected = alpha * 4 * plain(teacher_NV / 2, student_NV / 2, "forward", 0.3).mean()
    expected = expected + (1 - alpha) * functional.cross_entropy(student_NV, labels)
    objective, caps = Objective(alpha, temperature=2.0), Softcaps(student=2.0, teacher=3.0)
    found = head_loss(student, head, labels, objective, teacher, teacher_head, chunk=4, softcaps=caps)
    assert torch.allclose(found.loss, expected, atol=1e-12)
    top = top_of_head(teacher, teacher_head, V - 1, 2.0, softcap=3.0)
    kept = head_loss(student, head, labels, objective, chunk=4, softcaps=caps, top=top)
    assert torch.allclose(kept.loss, expected, atol=1e-12)
    expected_grads = torch.autograd.grad(expected, (student, head))
    for loss in (found.loss, kept.loss):
        for one, other in zip(torch.autograd.grad(loss, (student, head)), expected_grads, strict=True):
            assert torch.allclose(one, other, atol=1e-12)


@pytest.mark.parametrize("chunk", [3, 4, N, 100])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("alpha", "temperature"), [(1.0, 1.0), (1.0, 4.0), (0.5, 1.0), (0.3, 2.0), (0.0, 1.0)])
def test_in_chunks_as_in_one(chunk: int, kind: Kind, alpha: float, temperature: float) -> None:
    student, head, labels, teacher, teacher_head = setting()
    student.requires_grad_(), head.requires_grad_()

    student_NV, teacher_NV = student @ head.T, teacher @ teacher_head.T
    distance = plain(teacher_NV / temperature, student_NV / temperature, kind, 0.3).mean()
    cross = functional.cross_entropy(student_NV, labels)
    expected = alpha * temperature**2 * distance + (1 - alpha) * cross
    expected_grads = torch.autograd.grad(expected, (student, head))

    found = head_loss(student, head, labels, Objective(alpha, temperature, kind, 0.3), teacher, teacher_head, chunk)
    grads = torch.autograd.grad(found.loss, (student, head))
    assert torch.allclose(found.loss, expected, atol=1e-12)
    assert torch.allclose(found.cross_entropy, cross, atol=1e-12)
    assert alpha == 0 or torch.allclose(found.divergence, distance, atol=1e-12)
    for one, other in zip(grads, expected_grads, strict=True):
        assert torch.allclose(one, other, atol=1e-12)


def test_upstream_gradients_scale_the_whole() -> None:
    student, head, labels, teacher, teacher_head = setting()
    student.requires_grad_(), head.requires_grad_()

    def grads(factor: float) -> tuple[Tensor, ...]:
        loss = head_loss(student, head, labels, Objective(), teacher, teacher_head).loss
        return torch.autograd.grad(factor * loss, (student, head))

    for once, thrice in zip(grads(1.0), grads(3.0), strict=True):
        assert torch.allclose(3 * once, thrice)


def test_a_frozen_head_gets_no_gradient_and_changes_nothing() -> None:
    student, head, labels, teacher, teacher_head = setting()
    student.requires_grad_()
    found = head_loss(student, head, labels, Objective(0.5), teacher, teacher_head)
    torch.autograd.backward(found.loss)
    assert head.grad is None
    assert student.grad is not None and student.grad.abs().max() > 0


def test_temperature_keeps_the_size_of_the_gradient() -> None:
    """For soft targets and high T, T² D tends to half the squared distance of the centred logits over V."""
    student, head, labels, teacher, teacher_head = setting()
    gap = teacher @ teacher_head.T - student @ head.T
    gap = gap - gap.mean(-1, keepdim=True)
    found = head_loss(student, head, labels, Objective(1.0, 3000.0), teacher, teacher_head)
    assert torch.allclose(found.loss, (gap**2).sum(-1).mean() / (2 * V), rtol=1e-2)


def test_bf16_inputs_are_judged_in_fp32() -> None:
    exact = setting()
    rough = [t.bfloat16() if t.is_floating_point() else t for t in exact]
    loss = head_loss(rough[0], rough[1], rough[2], Objective(0.5), rough[3], rough[4])
    expected = head_loss(exact[0], exact[1], exact[2], Objective(0.5), exact[3], exact[4])
    assert loss.loss.dtype == torch.float32
    assert torch.allclose(loss.loss.double(), expected.loss, rtol=2e-2)


def test_a_divergence_needs_a_teacher() -> None:
    student, head, labels, _, _ = setting()
    with pytest.raises(ValueError, match="teacher"):
        head_loss(student, head, labels, Objective(alpha=0.1))
