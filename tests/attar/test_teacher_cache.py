"""Laws of teacher caches: they say what the teacher says, are made once, and are never trusted when damaged."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from attar import teacher_cache
from attar.errors import BadInput, Cancelled
from attar.model import Model
from attar.store import Store
from attar.teacher_cache import Keep, TeacherCache, open_cache
from attar.tiny import tiny_model
from attar.training import fit, loss_of
from attar.training_settings import TrainingSettings

WINDOWS = np.random.default_rng(0).integers(0, 512, (10, 32))
ROWS = np.array([7, 2, 9])
HIDDEN = Keep("hidden")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return Model(tiny_model(tmp_path_factory.mktemp("teacher")), fingerprint="a-teacher")


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return Model(tiny_model(tmp_path_factory.mktemp("student"), seed=1, hidden_size=32, num_hidden_layers=2))


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four windows a shard: ten windows make three."""
    monkeypatch.setattr(teacher_cache, "SHARD_TOKENS", 4 * 31)
    monkeypatch.setattr(teacher_cache, "FORWARD_TOKENS", 64)


class Surroundings:
    """A context of a stage, as far as caches and training look."""

    def __init__(self, home: Path, dtype: torch.dtype = torch.bfloat16, stop_after: int = 10**9) -> None:
        self.store, self.state = Store(home / "store"), home / "state"
        self.device, self.seed, self.torch_dtype = "cpu", 7, dtype
        self.teacher: Any = None
        self.data: Any = SimpleNamespace(windows=lambda *_: WINDOWS)
        self.metrics: dict[str, list[float]] = {}
        self.messages: list[str] = []
        self.shards = 0
        self.stop_after = stop_after

    @property
    def cancelled(self) -> Callable[[], bool]:
        return lambda: self.shards >= self.stop_after

    def report(self, name: str, value: float, step: int | None = None) -> None:
        self.metrics.setdefault(name, []).append(value)

    def progress(self, done: int, total: int, unit: str) -> None:
        self.shards += unit == "tokens of the teacher" and (done == total or done % teacher_cache.SHARD_TOKENS == 0)

    def lock(self, fingerprint: str) -> AbstractContextManager[object]:
        return self.store.lock(fingerprint)

    def log(self, text: str, level: str = "info") -> None:
        self.messages.append(text)


def loss_and_gradient(
    student: nn.Module, teacher: nn.Module | TeacherCache, settings: TrainingSettings
) -> tuple[float, torch.Tensor]:
    student.requires_grad_(True).zero_grad()
    losses = loss_of(student, teacher, torch.from_numpy(WINDOWS[ROWS]), settings, ROWS)
    torch.autograd.backward(losses.loss)
    grads = [p.grad.float().flatten() for p in student.parameters() if p.grad is not None]
    return losses.loss.item(), torch.cat(grads)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("temperature", [1.0, 4.0, 10.0])
@pytest.mark.parametrize("divergence", ["forward", "jsd"])
def test_hidden_states_are_the_online_teacher_at_every_temperature(
    teacher: Model, student: Model, tmp_path: Path, dtype: torch.dtype, temperature: float, divergence: str
) -> None:
    settings = TrainingSettings.model_validate({"temperature": temperature, "divergence": divergence, "alpha": 0.9})
    cache = open_cache(teacher, WINDOWS, HIDDEN, Surroundings(tmp_path, dtype))
    learner = student.materialize(dtype)
    online, online_grad = loss_and_gradient(learner, teacher.materialize(dtype).requires_grad_(False), settings)
    cached, cached_grad = loss_and_gradient(learner, cache, settings)
    noise = 1e-5 if dtype == torch.float32 else 1e-2
    assert cached == pytest.approx(online, rel=noise)
    assert (cached_grad - online_grad).norm() <= noise * online_grad.norm()


def test_top_tokens_approach_the_online_teacher_from_below(teacher: Model, student: Model, tmp_path: Path) -> None:
    learner, settings = student.materialize(torch.float32), TrainingSettings()
    online, online_grad = loss_and_gradient(learner, teacher.materialize(torch.float32), settings)
    losses = []
    for top_k in (200, 400, 4096):
        keep = Keep("topk", top_k)
        cache = open_cache(teacher, WINDOWS, keep, Surroundings(tmp_path, torch.float32))
        loss, grad = loss_and_gradient(learner, cache, settings)
        losses.append(loss)
        assert teacher_cache.LEAST_MASS < cache.mass <= 1
    assert losses == sorted(losses)
    assert losses[0] < online and losses[-1] == pytest.approx(online, rel=1e-5)  # all tokens but one lose nothing
    assert (grad - online_grad).norm() <= 1e-4 * online_grad.norm()


def test_trainings_that_differ_in_temperature_share_one_cache_of_hidden_states(
    teacher: Model, student: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    materialize = Model.materialize

    def counted(self: Model, *arguments: Any) -> nn.Module:
        asked.append(self.fingerprint)
        return materialize(self, *arguments)

    monkeypatch.setattr(Model, "materialize", counted)
    steps: dict[str, Any] = {"train_tokens": 2 * 32 * 4, "batch": 4, "length": 32, "learning_rate": 1e-2}
    for number, changes in enumerate(
        ({"temperature": 1.0}, {"temperature": 4.0}, {"divergence": "reverse", "batch": 2})
    ):
        context = Surroundings(tmp_path)
        context.teacher, context.state = teacher, tmp_path / str(number)
        settings = TrainingSettings(**{**steps, **changes, "cache": "hidden"})
        fit(student.materialize(torch.bfloat16).requires_grad_(True), student, settings, context)
        assert len(context.metrics["loss"]) == settings.steps
    assert asked.count(teacher.fingerprint) == 1
    assert len(list((tmp_path / "store" / "teacher-cache").iterdir())) == 1
    assert not any((tmp_path / "store" / "state").iterdir())


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_what_top_tokens_miss_is_reported(teacher: Model, student: Model, tmp_path: Path, temperature: float) -> None:
    context = Surroundings(tmp_path)
    context.teacher = teacher
    steps: dict[str, Any] = {"train_tokens": 256, "batch": 4, "length": 32, "learning_rate": 1e-2}
    settings = TrainingSettings(**steps, temperature=temperature, cache="topk", top_k=256)
    fit(student.materialize(torch.bfloat16).requires_grad_(True), student, settings, context)
    assert 0 < context.metrics["topk_tail_mass"][0] < 0.5
    assert len(context.metrics["topk_bias"]) == 2 and min(context.metrics["topk_bias"]) > 0
    assert any("of the teacher's probability" in text for text in context.messages)
    (made,) = (tmp_path / "store" / "teacher-cache").iterdir()
    kept = context.store.open("teacher-cache", made.name).manifest["settings"]
    assert kept == {"what": "topk", "top_k": 256, "temperature": temperature}


def test_top_tokens_that_hold_too_little_are_refused(teacher: Model, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"the 32 likeliest tokens hold .*% .* temperature 4.*use cache=hidden"):
        open_cache(teacher, WINDOWS, Keep("topk", 32, 4.0), Surroundings(tmp_path))
    assert not any((tmp_path / "store" / "state").glob("*"))


def test_top_tokens_are_judged_before_anything_is_kept_and_never_again(
    teacher: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Cancelled, match="after 1 of 3 shards"):
        open_cache(teacher, WINDOWS, Keep("topk", 300), Surroundings(tmp_path, stop_after=1))
    monkeypatch.setattr(teacher_cache, "LEAST_MASS", 1.0)  # as if the text went on with what is harder to foresee
    cache = open_cache(teacher, WINDOWS, Keep("topk", 300), Surroundings(tmp_path))
    assert cache.mass < 1 and cache.probe()[0] == teacher_cache.PROBES


def test_a_text_without_one_window_is_a_sentence(teacher: Model, student: Model, tmp_path: Path) -> None:
    context = Surroundings(tmp_path)
    context.teacher, context.data = teacher, SimpleNamespace(windows=lambda *_: WINDOWS[:0])
    with pytest.raises(BadInput, match="shorter than one window of length=32"):
        fit(student.materialize(torch.float32), student, TrainingSettings(length=32), context)


@pytest.mark.parametrize("capped", ["teacher", "student", "both"])
def test_caches_know_the_cap_of_the_teachers_logits(
    teacher: Model, student: Model, tmp_path: Path, capped: str
) -> None:
    """Hidden states are the online teacher exactly, and so are all tokens but one."""
    gemma = Model(tiny_model(tmp_path / "gemma", "gemma2", num_hidden_layers=2), "capped")
    asked, learns = (student if capped == "student" else gemma), (student if capped == "teacher" else gemma)
    asked = Model(asked.folder, "asked")
    learner, settings = learns.materialize(torch.float32), TrainingSettings(temperature=2.0, alpha=0.9)
    online, online_grad = loss_and_gradient(learner, asked.materialize(torch.float32).requires_grad_(False), settings)
    uncapped = asked.materialize(torch.float32).requires_grad_(False)
    uncapped.config.final_logit_softcapping = None  # type: ignore[union-attr]
    told_apart = capped != "student"
    assert (abs(loss_and_gradient(learner, uncapped, settings)[0] - online) > 1e-3 * online) == told_apart
    for keep in (HIDDEN, Keep("topk", 4096, 2.0)):
        cache = open_cache(asked, WINDOWS, keep, Surroundings(tmp_path, torch.float32))
        cached, cached_grad = loss_and_gradient(learner, cache, settings)
        assert cached == pytest.approx(online, rel=1e-5)
        assert (cached_grad - online_grad).norm() <= 1e-4 * online_grad.norm()


def test_an_interrupted_cache_goes_on_and_ends_with_the_same_bytes(teacher: Model, tmp_path: Path) -> None:
    whole = open_cache(teacher, WINDOWS, HIDDEN, Surroundings(tmp_path / "a")).artifact
    with pytest.raises(Cancelled, match="after 2 of 3 shards"):
        open_cache(teacher, WINDOWS, HIDDEN, Surroundings(tmp_path / "b", stop_after=2))
    state = tmp_path / "b" / "store" / "state" / whole.fingerprint
    (state / "shard-00001.safetensors").write_bytes(b"torn")  # as a killed process without a disk flush may leave it
    (state / "shard-00002.safetensors.draft").write_bytes(b"half")
    context = Surroundings(tmp_path / "b")
    resumed = open_cache(teacher, WINDOWS, HIDDEN, context).artifact
    assert context.shards == 2 and "goes on after 1 of 3 shards" in context.messages[0]
    assert resumed.fingerprint == whole.fingerprint and resumed.manifest["files"] == whole.manifest["files"]


def test_a_damaged_cache_is_noticed_and_made_again(teacher: Model, tmp_path: Path) -> None:
    first = open_cache(teacher, WINDOWS, HIDDEN, Surroundings(tmp_path)).artifact
    again = Surroundings(tmp_path)
    open_cache(teacher, WINDOWS, HIDDEN, again)
    assert again.shards == 0 and "is not asked" in again.messages[0]
    path = first.folder / "shard-00001.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    context = Surroundings(tmp_path)
    remade = open_cache(teacher, WINDOWS, HIDDEN, context).artifact
    assert context.shards == 3 and "is not what was stored" in context.messages[0]
    assert remade.manifest["files"] == first.manifest["files"]
    remade.verify()


def test_whatever_changes_what_the_teacher_says_changes_the_name(teacher: Model) -> None:
    def name(windows: Any = WINDOWS, keep: Keep = HIDDEN, dtype: str = "bfloat16", model: Model = teacher) -> str:
        return teacher_cache.fingerprint(model, windows, keep, dtype)

    other = WINDOWS.copy()
    other[3, 4] += 1
    different = [
        name(),
        name(windows=other),
        name(windows=WINDOWS[:9]),
        name(dtype="float32"),
        name(keep=Keep("topk", 32)),
        name(keep=Keep("topk", 64)),
        name(keep=Keep("topk", 32, 2.0)),
        name(model=Model(teacher.folder, "another")),
    ]
    assert len(set(different)) == len(different)
    assert name(windows=WINDOWS.copy(), keep=Keep("hidden", 64, 4.0)) == name()
    with pytest.raises(ValueError, match="has no fingerprint"):
        name(model=Model(teacher.folder))
