"""Laws of the loop: deterministic, resumable bit for bit, honest about what learned."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from attar.errors import Cancelled, ProofFailed
from attar.training import batch, loss_of, train
from attar.training_settings import TrainingSettings
from attar.training_state import STATE_FILE

WINDOWS = np.random.default_rng(0).integers(0, 64, (10, 16))
SETTINGS = TrainingSettings(train_tokens=8 * 3 * 16, batch=3, length=16, learning_rate=1e-2, save_every=3)


def model(seed: int, dtype: torch.dtype = torch.float32, tied: bool = True, **config: Any) -> nn.Module:
    torch.manual_seed(seed)
    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 64}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    made: nn.Module = LlamaForCausalLM(LlamaConfig(**{**sizes, **heads, **config}, tie_word_embeddings=tied))
    return made.to(dtype).eval()


class Surroundings:
    """A context of a stage, as far as the loop looks."""

    def __init__(self, state: Path, stop_after: int = 10**9) -> None:
        self.device, self.seed, self.state = "cpu", 7, state
        self.teacher: Any = None
        self.data: Any = SimpleNamespace()
        self.torch_dtype = torch.float32
        self.metrics: dict[str, list[float]] = {}
        self.messages: list[str] = []
        self.done: list[tuple[int, int]] = []
        self.stop_after = stop_after

    @property
    def cancelled(self) -> Callable[[], bool]:
        return lambda: len(self.done) >= self.stop_after

    def report(self, name: str, value: float, step: int | None = None) -> None:
        self.metrics.setdefault(name, []).append(value)

    def progress(self, done: int, total: int, unit: str) -> None:
        self.done.append((done, total))

    def log(self, text: str, level: str = "info") -> None:
        self.messages.append(text)


def weights(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def same(one: nn.Module, other: nn.Module) -> bool:
    left, right = weights(one), weights(other)
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_interrupted_training_ends_bit_for_bit_like_an_undisturbed_one(tmp_path: Path, dtype: torch.dtype) -> None:
    teacher = model(1, dtype)
    undisturbed, interrupted = model(2, dtype), model(2, dtype)
    train(undisturbed, teacher, WINDOWS, SETTINGS, Surroundings(tmp_path / "a"))

    state = tmp_path / "b"
    with pytest.raises(Cancelled, match="after 4 of 8 steps"):
        train(interrupted, teacher, WINDOWS, SETTINGS, Surroundings(state, stop_after=4))
    resumed, context = model(2, dtype), Surroundings(state)
    train(resumed, teacher, WINDOWS, SETTINGS, context)
    assert len(context.done) == 4, "steps were repeated or skipped"
    assert same(undisturbed, resumed)


def test_a_killed_training_loses_no_more_than_its_save_interval(tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    class Deadly(Surroundings):
        def progress(self, done: int, total: int, unit: str) -> None:
            super().progress(done, total, unit)
            if len(self.done) == 5:
                raise Killed

    teacher, undisturbed, victim, resumed = model(1), model(2), model(2), model(2)
    train(undisturbed, teacher, WINDOWS, SETTINGS, Surroundings(tmp_path / "a"))
    with pytest.raises(Killed):
        train(victim, teacher, WINDOWS, SETTINGS, Deadly(tmp_path / "b"))
    context = Surroundings(tmp_path / "b")
    train(resumed, teacher, WINDOWS, SETTINGS, context)
    assert len(context.done) == 8 - 3
    assert same(undisturbed, resumed)


def test_the_save_interval_never_changes_the_numbers(tmp_path: Path) -> None:
    teacher, often, never = model(1), model(2), model(2)
    train(often, teacher, WINDOWS, SETTINGS.model_copy(update={"save_every": 1}), Surroundings(tmp_path / "a"))
    train(never, teacher, WINDOWS, SETTINGS.model_copy(update={"save_every": 99}), Surroundings(tmp_path / "b"))
    assert same(often, never)
    assert (tmp_path / "a" / STATE_FILE).exists() and not (tmp_path / "b" / STATE_FILE).exists()


def test_a_state_that_does_not_fit_is_left_aside(tmp_path: Path) -> None:
    teacher, small, clean = model(1), model(2), model(2)
    with pytest.raises(Cancelled):
        train(model(2, num_hidden_layers=1), teacher, WINDOWS, SETTINGS, Surroundings(tmp_path / "a", stop_after=3))
    context = Surroundings(tmp_path / "a")
    train(small, teacher, WINDOWS, SETTINGS, context)
    train(clean, teacher, WINDOWS, SETTINGS, Surroundings(tmp_path / "b"))
    assert same(small, clean) and "another training" in context.messages[0]
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / STATE_FILE).write_bytes(b"torn")
    again, context = model(2), Surroundings(tmp_path / "c")
    train(again, teacher, WINDOWS, SETTINGS, context)
    assert same(again, clean) and "cannot be read" in context.messages[0]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_training_lowers_what_it_minimises(tmp_path: Path, alpha: float, tied: bool) -> None:
    settings = SETTINGS.model_copy(update={"alpha": alpha, "train_tokens": 40 * 3 * 16})
    context = Surroundings(tmp_path)
    student = model(2, tied=tied)
    train(student, model(1) if alpha else None, WINDOWS, settings, context)
    losses = context.metrics["loss"]
    assert len(losses) == 40 and sum(losses[-5:]) < 0.95 * sum(losses[:5])
    assert ("divergence" in context.metrics) == (alpha > 0)
    assert context.done[-1] == (40 * 48, 40 * 48)


@pytest.mark.parametrize("length", [16, 40])
def test_the_loss_is_that_of_the_whole_models(length: int) -> None:
    student, teacher = model(2).double(), model(1).double()
    ids = torch.randint(64, (3, length), generator=torch.Generator().manual_seed(0))
    settings = TrainingSettings(alpha=0.5, temperature=2.0)
    found = loss_of(student, teacher, ids, settings)
    q, p = student(input_ids=ids).logits[:, :-1].flatten(0, 1), teacher(input_ids=ids).logits[:, :-1].flatten(0, 1)
    cross = functional.cross_entropy(q, ids[:, 1:].flatten())
    distance = functional.kl_div(
        (q / 2).log_softmax(-1), (p / 2).log_softmax(-1), log_target=True, reduction="batchmean"
    )
    assert torch.allclose(found.loss, 0.5 * 4 * distance + 0.5 * cross, atol=1e-9)
    parameters = list(student.parameters())
    expected = torch.autograd.grad(0.5 * 4 * distance + 0.5 * cross, parameters)
    for one, other in zip(torch.autograd.grad(found.loss, parameters), expected, strict=True):
        assert torch.allclose(one, other, atol=1e-9)


def test_every_window_is_read_once_an_epoch_in_an_order_of_its_own() -> None:
    windows = np.arange(10)[:, None]
    read = np.concatenate([batch(windows, 4, seed=3, step=step) for step in range(5)])[:, 0].tolist()
    first, second = read[:10], read[10:]
    assert sorted(first) == sorted(second) == list(range(10)) and first != second
    assert batch(windows, 4, seed=3, step=2).tolist() == [[i] for i in read[8:12]]
    assert [r for r in read if r >= 0] != np.concatenate([batch(windows, 4, 4, s) for s in range(5)])[:, 0].tolist()


def test_only_what_requires_a_gradient_gets_one_and_moves(tmp_path: Path) -> None:
    student = model(2).requires_grad_(False)
    norm = student.get_parameter("model.norm.weight").requires_grad_(True)
    before, start = weights(student), norm.detach().clone()
    train(student, model(1), WINDOWS, SETTINGS, Surroundings(tmp_path))
    assert not torch.equal(norm, start)
    frozen = {n: p for n, p in student.named_parameters() if p is not norm}
    assert all(p.grad is None and torch.equal(p, before[n]) for n, p in frozen.items())


def test_rates_of_their_own(tmp_path: Path) -> None:
    student = model(2)
    name = "model.norm.weight"
    start = student.get_parameter(name).detach().clone()
    one_step = SETTINGS.model_copy(update={"train_tokens": 48})
    train(student, model(1), WINDOWS, one_step, Surroundings(tmp_path), rates={name: 1e-6})
    moved = (student.get_parameter(name) - start).abs().max()
    assert 0 < moved < 2e-6


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({}, {"learning_rate": 5e-3}),
        ({}, {"warmup": 0.5}),
        ({}, {"schedule": "linear"}),
        ({}, {"schedule": "constant"}),
        ({}, {"alpha": 0.5}),
        ({}, {"temperature": 2.0}),
        ({}, {"divergence": "reverse"}),
        ({"divergence": "jsd"}, {"divergence": "jsd", "beta": 0.2}),
        ({"divergence": "skew"}, {"divergence": "skew", "skew": 0.5}),
        ({}, {"weight_decay": 0.1}),
        ({"clip": 1e-2}, {"clip": 0.0}),
    ],
    ids=lambda changes: "-".join(f"{k}={v}" for k, v in changes.items()),
)
def test_every_setting_reaches_the_numbers(tmp_path: Path, one: dict[str, Any], other: dict[str, Any]) -> None:
    made = []
    for place, changes in enumerate((one, other)):
        made.append(model(2))
        settings = TrainingSettings(**SETTINGS.model_dump(exclude_unset=True) | changes)
        train(made[-1], model(1), WINDOWS, settings, Surroundings(tmp_path / str(place)))
    assert not same(*made)


def test_decay_pulls_at_matrices_and_at_nothing_else(tmp_path: Path) -> None:
    step = SETTINGS.model_copy(update={"train_tokens": 48})
    start, made = weights(model(2)), []
    for decay in (0.0, 0.1):
        made.append(model(2))
        settings = step.model_copy(update={"weight_decay": decay})
        train(made[-1], model(1), WINDOWS, settings, Surroundings(tmp_path / str(decay)))
    plain, decayed = map(weights, made)
    pull = step.learning_rate * step.rate_factor(0) * 0.1
    for name, weight in decayed.items():
        expected = plain[name] - (pull * start[name] if weight.ndim == 2 else 0.0)
        torch.testing.assert_close(weight, expected, rtol=0, atol=1e-6)


def test_a_loss_that_is_not_a_number_is_an_error(tmp_path: Path) -> None:
    student = model(2)
    student.get_parameter("model.norm.weight").data[0] = float("nan")
    with pytest.raises(ProofFailed, match=r"loss at step 0 is not a finite number.*learning_rate"):
        train(student, model(1), WINDOWS, SETTINGS, Surroundings(tmp_path))


def test_a_tensor_without_gradient_is_an_error(tmp_path: Path) -> None:
    student = model(2)
    student.register_parameter("idle", nn.Parameter(torch.ones(3)))
    with pytest.raises(ProofFailed, match=r"1 of \d+ tensors .* never got a gradient .* idle"):
        train(student, model(1), WINDOWS, SETTINGS, Surroundings(tmp_path))


def test_a_tensor_that_did_not_move_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ProofFailed, match="not one of them moved"):
        train(model(2), model(1), WINDOWS, SETTINGS.model_copy(update={"learning_rate": 1e-30}), Surroundings(tmp_path))
