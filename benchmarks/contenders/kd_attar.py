"""Attar's training loop with an online teacher or with a cache of it. ``python kd_attar.py JOB.json``"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal, cast

import torch
from kd_meter import Meter, job
from safetensors.torch import load_file

from attar.model import Model
from attar.store import Store
from attar.teacher_cache import Keep, open_cache
from attar.training import train
from attar.training_settings import TrainingSettings


class Surroundings:
    """A stage's context as far as training looks; the loop asks ``cancelled`` before a step, ``progress`` ends it."""

    def __init__(self, told: dict[str, Any], meter: Meter) -> None:
        self.store, self.state = Store(Path(told["scratch"]) / "store"), Path(told["scratch"]) / "state"
        self.teacher: Model | None = None
        self.data: Any = None
        self.device, self.seed, self.torch_dtype = "cpu", told["seed"], torch.bfloat16
        self.meter = meter
        self.loss = 0.0
        self.training = False

    @property
    def cancelled(self) -> Callable[[], bool]:
        def begin() -> bool:
            if self.training:
                self.meter.begin()
            return False

        return begin

    def lock(self, fingerprint: str) -> AbstractContextManager[object]:
        return self.store.lock(fingerprint)

    def report(self, name: str, value: float, step: int | None = None) -> None:
        if name == "loss":
            self.loss = value

    def progress(self, done: int, total: int, unit: str) -> None:
        if self.training:
            self.meter.end(self.loss)

    def log(self, text: str, level: str = "info") -> None:
        pass


def main() -> None:
    told = job()
    torch.set_num_threads(told["threads"])
    torch.use_deterministic_algorithms(True, warn_only=True)  # as a stage runs
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    what = told["contender"].removeprefix("attar-")
    windows = load_file(told["windows"])["windows"].numpy()
    meter = Meter()
    context = Surroundings(told, meter)
    origin = Model(Path(told["teacher"]), told["teacher_fingerprint"])
    settings = TrainingSettings(
        train_tokens=told["steps"] * told["batch"] * windows.shape[1],
        batch=told["batch"],
        length=windows.shape[1],
        learning_rate=told["learning_rate"],
        schedule="constant",
        warmup=0.0,
        save_every=told["steps"] + 1,
    )
    started = time.perf_counter()
    teacher: Any
    if what == "online":
        teacher = origin.materialize(torch.bfloat16).requires_grad_(False)
    else:
        kind = cast(Literal["hidden", "topk"], what)
        teacher = open_cache(origin, windows, Keep(kind, told["top_k"], 1.0), context)
    made = time.perf_counter() - started
    student = Model(Path(told["student"])).materialize(torch.bfloat16).requires_grad_(True)
    context.training = True
    train(student, teacher, windows, settings, context)
    meter.save(told["result"], teacher_seconds=made)


if __name__ == "__main__":
    main()
