"""The stage: frozen settings, a plan, one verb. What every technique shares lives here, and only here."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, final

from pydantic import BaseModel, ConfigDict

from attar.facts import ModelFacts
from attar.fingerprint import environment_versions, hash_json

if TYPE_CHECKING:
    import torch

    from attar.data import Corpus
    from attar.events import Events
    from attar.model import Model
    from attar.slots import Slot
    from attar.store import Artifact, Store
    from attar.writer import Writer
    from stages.spec import StageSpec

Use = Literal["teacher", "train", "names", "calibration", "responses"]  # names: what train's documents are called
Makes = Literal["model", "dataset"]


@dataclass(frozen=True)
class Cost:
    """What a stage will take, as estimates: FLOPs in the compute dtype, bytes at the peak of its process, bytes of the
    state that it saves while it trains, and bytes of the teacher cache that it adds to the store at most."""

    flops: float
    memory: int
    state: int = 0
    cache: int = 0


@dataclass(frozen=True)
class Context:
    """All that a stage may know of the world it runs in."""

    origin: Model
    teacher: Model | None
    data: Corpus
    device: str  # "cpu", "cuda", "cuda:1"
    dtype: str  # compute dtype: "bfloat16" or "float32"
    seed: int
    state: Path  # folder for what the stage needs to go on after a crash; the base removes it at the end
    store: Store  # for what stages share, such as teacher caches
    events: Events
    cancelled: Callable[[], bool]
    responses: Path | None = None  # folder of the dataset that an earlier stage of the recipe made
    slot: Slot | None = None  # the device's, held for this job

    def report(self, name: str, value: float, step: int | None = None) -> None:
        """Record a metric (a loss curve when ``step`` is given)."""
        self.events.metric(name, value, step)

    def progress(self, done: int, total: int, unit: str) -> None:
        """Move the progress bar."""
        self.events.progress(done, total, unit)

    def log(self, text: str, level: str = "info") -> None:
        """One line for the reader of the log."""
        self.events.log(text, level)

    @contextmanager
    def lock(self, fingerprint: str) -> Iterator[None]:
        """Hold the lock of what stages share, such as a teacher cache; while it waits, others get the device."""
        with ExitStack() as held:
            if not held.enter_context(self.store.lock(fingerprint, wait=False)):
                held.close()
                if self.slot is None:
                    held.enter_context(self.store.lock(fingerprint))
                else:
                    with self.slot.lent():
                        held.enter_context(self.store.lock(fingerprint, waiter=self.slot.waiter))
            yield

    @property
    def torch_dtype(self) -> torch.dtype:
        import torch

        return {"bfloat16": torch.bfloat16, "float32": torch.float32}[self.dtype]


class Stage(BaseModel):
    """Base of all techniques. A subclass adds fields, :meth:`plan`, :meth:`cost` and :meth:`apply`.

    A stage that makes a dataset has :meth:`generate` instead of :meth:`apply`: the model passes it unchanged, and what
    it makes lies in the store for the stages after it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    stage: str
    version: ClassVar[int] = 1  # bump when the numbers it produces, or a default, change
    makes: ClassVar[Makes] = "model"  # a dataset's fingerprint does not hold the source, only what :meth:`needs` names
    uses: ClassVar[frozenset[Use]] = frozenset()  # which inputs beside the source go into the fingerprint
    trains: ClassVar[bool] = False
    # Fields that never change the numbers (save intervals and the like): tracked, not hashed.
    unhashed: ClassVar[frozenset[str]] = frozenset()

    def plan(self, facts: ModelFacts) -> ModelFacts:
        """What comes out of this stage, or :class:`BadInput` with a sentence why it cannot work."""
        raise NotImplementedError

    def starts_as_source(self, facts: ModelFacts) -> bool:
        """Whether what begins to learn computes what the source computes, so that a copy of it could teach nothing."""
        return self.plan(facts).changed(dtype=None) == facts.changed(dtype=None)

    def warnings(self, facts: ModelFacts) -> list[str]:
        """What experience says against doing this to a source with these facts: predicates to the stage's name."""
        return []

    def cost(self, facts: ModelFacts, teacher: ModelFacts) -> Cost:
        """Estimated compute and peak memory on a source with these facts."""
        raise NotImplementedError

    def tokens(self) -> dict[Literal["train", "calibration"], tuple[int, int]]:
        """Split → (number of windows, window length) that :meth:`apply` will ask for."""
        return {}

    def apply(self, source: Model, out: Writer, context: Context) -> None:
        """Do the work: read ``source``, hand every tensor of the result to ``out``."""
        raise NotImplementedError

    def generate(self, source: Model, folder: Path, context: Context) -> dict[str, Any]:
        """The verb of a stage that makes a dataset: write its files into ``folder``; the counts for its manifest."""
        raise NotImplementedError

    @staticmethod
    def job(data: dict[str, Any]) -> StageSpec:
        """A child's job from plain data."""
        from stages.spec import StageSpec

        return StageSpec(**data)

    @final
    def run(self, job: StageSpec, events: Events, cancelled: Callable[[], bool] = lambda: False) -> Artifact:
        """The whole life of the stage, from opened inputs to a proven artifact; ``job.settings`` are this stage's."""
        from stages.run import run_stage

        return run_stage(self, job, events, cancelled)

    def teacher_spec(self) -> str | None:
        """Which model teaches: ``origin``, ``previous``, or a model as a recipe names it."""
        return getattr(self, "teacher", "origin") if "teacher" in self.uses else None

    def needs(self) -> frozenset[Use]:
        """Which of ``uses`` these very settings ask for."""
        return self.uses

    def named_inputs(self) -> dict[str, str]:
        """Role → fingerprint of what the settings themselves name beside models and text, such as a user's file.

        Raises :class:`BadInput` when it is missing or malformed.
        """
        return {}

    def ready(self) -> None:
        """Raise :class:`BadInput` if what the stage needs from outside (a key, a server) is not there.

        Asked only of a stage that will run.
        """

    def student_spec(self) -> str | None:
        """The model that this stage works on instead of the previous one, as a recipe names it; None: the previous."""
        return None

    def settings(self) -> dict[str, Any]:
        """All settings, defaults included, as JSON."""
        return self.model_dump(mode="json")

    def fingerprint(self, inputs: dict[str, str], dtype: str, seed: int) -> str:
        """Name of the artifact this stage makes from these inputs (role → fingerprint).

        Teacher and student count by what they are, among the inputs, and not by how the recipe spells them. Of a
        setting that is a mapping the order counts, since the first pattern that matches decides.
        """
        spelled = {"stage", "teacher"} if self.student_spec() is None else {"stage", "teacher", "student"}
        differing = self.model_dump(mode="json", exclude_defaults=True, exclude=set(self.unhashed) | spelled)
        in_order = {name for name in differing if isinstance(getattr(self, name), Mapping)}
        return hash_json(
            {
                "stage": self.stage,
                "version": self.version,
                "settings": {n: list(found.items()) if n in in_order else found for n, found in differing.items()},
                "dtype": dtype,
                "seed": seed,
                "inputs": inputs,
                "versions": environment_versions(),
            }
        )


def stage_seed(seed: int, stage: str) -> int:
    """Seed of one stage: differs between stages of a run, equal between runs."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{stage}".encode()).digest()[:4], "big")
