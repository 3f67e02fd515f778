"""The plan of a recipe: what every step makes, what is already there, what it will take. Computes no tensor."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from attar import machine as hardware
from attar.data import Corpus, open_corpus
from attar.errors import BadInput
from attar.facts import ModelFacts
from attar.store import Store
from pipelines import advice
from pipelines.child import Watch
from pipelines.estimate import Estimate, estimate_measure, estimate_stage
from pipelines.home import Home
from pipelines.materials import Material, open_model, resolve_machine
from pipelines.recipe import Recipe
from stages.base import Stage
from stages.spec import DatasetRef, Machine, ModelRef

ORIGIN = "origin"
T = TypeVar("T")


@dataclass(frozen=True)
class Step:
    """The origin, or one stage: the model it makes and the measurement of that model.

    A stage that makes a dataset lets its source pass: that is its model, measured before; the dataset lies beside.
    """

    index: int  # 0 is the origin, 1 the first stage
    name: str  # "origin" or the stage's name
    stage: Stage | None
    model: ModelRef  # what comes out
    facts: ModelFacts  # of what comes out
    source: ModelRef | None
    teacher: ModelRef | None
    inputs: dict[str, str]
    cached: bool  # what the stage makes is in the store
    evaluation: str  # fingerprint of its measurement
    evaluation_inputs: dict[str, str]
    measured: bool  # the measurement is in the store
    work: Estimate  # of the stage
    measuring: Estimate
    dataset: DatasetRef | None = None  # what the stage makes, where that is no model
    responses: DatasetRef | None = None  # the dataset that goes in

    @property
    def made(self) -> ModelRef | DatasetRef:
        """The stage's own artifact."""
        return self.dataset or self.model

    @property
    def label(self) -> str:
        return f"{self.index} {self.name}"


@dataclass(frozen=True)
class Plan:
    """A recipe against a home: every step, with what is cached."""

    recipe: Recipe
    home: Home
    machine: Machine
    steps: tuple[Step, ...]
    warnings: tuple[str, ...]
    disk: int  # bytes that the steps still to run will write at most

    @property
    def origin(self) -> Step:
        return self.steps[0]

    def ratio(self, step: Step) -> float:
        """Compression ratio of a step as planned."""
        return self.origin.facts.bf16_bytes / step.facts.bytes

    @property
    def seconds(self) -> float:
        """Estimated time of everything that is not cached."""
        return sum(s.work.seconds * (not s.cached) + s.measuring.seconds * (not s.measured) for s in self.steps)

    def as_json(self) -> dict[str, Any]:
        """What ``attar plan --json`` prints."""
        return {
            "recipe": self.recipe.model_dump(mode="json"),
            "home": str(self.home.root),
            "machine": self.machine.model_dump(),
            "steps": [
                {
                    "step": step.index,
                    "name": step.name,
                    "makes": "dataset" if step.dataset else "model",
                    "fingerprint": step.made.fingerprint,
                    "cached": step.cached,
                    "measured": step.measured,
                    "parameters": step.facts.parameters,
                    "bytes": step.facts.bytes,
                    "compression_ratio": self.ratio(step),
                    "memory_bytes": max(step.work.memory, step.measuring.memory),
                    "seconds": step.work.seconds + step.measuring.seconds,
                    "teacher_cache_bytes": step.work.cache,
                }
                for step in self.steps
            ],
            "seconds": self.seconds,
            "disk_bytes": self.disk,
            "warnings": list(self.warnings),
        }


def make_plan(recipe: Recipe, home: Home, complete: bool, watch: Watch = lambda event: None) -> Plan:
    """Check the whole recipe and say what it will do.

    Args:
        complete: plan for running now: weights must be there. Otherwise a config alone can be planned.
        watch: hears of slow preparations (conversion of a model, extraction of the embedded text).

    Raises:
        BadInput: the first thing that cannot work, before anything is computed.
    """
    machine = resolve_machine(recipe.device, recipe.dtype)
    home.store.require_writable()
    chain = recipe.parsed()
    origin = open_model(recipe.model, recipe.task, home, complete, watch)
    if origin.facts.quantization is not None:
        raise BadInput(f"the model {recipe.model} is quantized already; start from the dense one it was made of")
    students = _students(recipe, chain, home, complete, watch)
    _check_chain(chain, origin.facts, students)
    corpus = open_corpus(
        recipe.data,
        home.corpus,
        progress=lambda done, total: watch({"kind": "progress", "done": done, "total": total, "unit": "files read"}),
    )
    _Data(corpus, origin).check(recipe, chain)
    steps = _Chain(recipe, home, machine, origin, corpus, students).steps(chain, complete, watch)
    disk = _disk(steps)
    free = hardware.free_disk(home.root)
    warnings = [*advice.warnings(steps, machine), *_not_here(origin, disk, free)]
    if origin.facts.stored and disk > free:
        raise BadInput(
            f"the steps to run write up to {disk / 1e9:,.1f} GB, and {home.root} has {free / 1e9:,.1f} GB free; "
            "make room, or choose another folder with --home"
        )
    return Plan(recipe, home, machine, tuple(steps), tuple(warnings), disk)


def _students(
    recipe: Recipe, chain: tuple[Stage, ...], home: Home, complete: bool, watch: Watch
) -> dict[int, Material]:
    """Stage → the model it works on, where the recipe names one instead of the previous."""
    named = {index: stage.student_spec() for index, stage in enumerate(chain)}
    return {i: open_model(spec, recipe.task, home, complete, watch) for i, spec in named.items() if spec is not None}


def _check_chain(chain: tuple[Stage, ...], facts: ModelFacts, students: dict[int, Material]) -> None:
    """Facts through all stages, before any data is read: an order that cannot work is told in milliseconds."""
    for index, stage in enumerate(chain):
        facts = _planned(stage, index, students[index].facts if index in students else facts)


def _planned(stage: Stage, index: int, facts: ModelFacts) -> ModelFacts:
    return _asked(stage, index, lambda: stage.plan(facts))


def _asked(stage: Stage, index: int, question: Callable[[], T]) -> T:
    """What a stage answers; a sentence of its own is told with the place in the recipe."""
    try:
        return question()
    except BadInput as error:
        text = str(error)
        where = f"stages.{index}" if text.startswith(stage.stage) else f"stages.{index}: {stage.stage}"
        raise BadInput(f"{where}: {text}") from None


class _Data:
    """Checks that the corpus can give every window that the recipe will ask for."""

    def __init__(self, corpus: Corpus, origin: Material) -> None:
        self.corpus = corpus
        self.origin = origin

    def check(self, recipe: Recipe, chain: tuple[Stage, ...]) -> None:
        from pathlib import Path

        tokenizer = Path(self.origin.ref.folder) / "tokenizer.json"
        if not tokenizer.is_file():
            if self.origin.facts.stored:
                raise BadInput(
                    f"the model {self.origin.spec} has no tokenizer.json; save it with a fast tokenizer "
                    "(AutoTokenizer.from_pretrained(…).save_pretrained(…))"
                )
            return  # a config alone: the tokens cannot be counted yet
        for stage in chain:
            for split, (count, length) in stage.tokens().items():
                self.corpus.require(split, tokenizer, count, length)
        self.corpus.require("held-out", tokenizer, recipe.measure.windows, recipe.measure.length)
        self.corpus.require("other", tokenizer, recipe.measure.windows, recipe.measure.length)


class _Chain:
    """Chains facts and fingerprints from the origin through all stages."""

    def __init__(
        self,
        recipe: Recipe,
        home: Home,
        machine: Machine,
        origin: Material,
        corpus: Corpus,
        students: dict[int, Material],
    ) -> None:
        self.recipe = recipe
        self.home = home
        self.store: Store = home.store
        self.machine = machine
        self.origin = origin
        self.corpus = corpus
        self.students = students

    def steps(self, chain: tuple[Stage, ...], complete: bool, watch: Watch) -> list[Step]:
        steps = [self._step(0, None, self.origin, self.origin, {})]
        for index, stage in enumerate(chain):
            previous = Material("previous", steps[-1].model, steps[-1].facts)
            source = self.students.get(index, previous)
            teacher = self._teacher(stage, index, source, previous, complete, watch)
            role = "student" if index in self.students else "source"
            inputs = {role: source.ref.fingerprint} if stage.makes == "model" else {}
            inputs |= _asked(stage, index, stage.named_inputs)
            responses = _responses(stage, index, steps)
            if responses is not None:
                inputs["responses"] = responses.fingerprint
            if teacher is not None:
                inputs["teacher"] = teacher.ref.fingerprint
            for split in ("train", "calibration"):
                if split in stage.needs():
                    inputs[f"data.{split}"] = self.corpus.fingerprint(split)
            fingerprint = stage.fingerprint(inputs, self.machine.dtype, self.recipe.seed)
            folder = str(self.store.folder(stage.makes, fingerprint))
            if stage.makes == "model":
                ref = ModelRef(folder=folder, fingerprint=fingerprint)
                made = Material(f"stages.{index}", ref, _planned(stage, index, source.facts))
                step = self._step(index + 1, stage, made, source, inputs, teacher, responses=responses)
            else:
                dataset = DatasetRef(folder=folder, fingerprint=fingerprint)
                step = self._step(index + 1, stage, source, source, inputs, teacher, dataset)
            if not step.cached:
                _asked(stage, index, stage.ready)
            steps.append(step)
        return steps

    def _step(
        self,
        index: int,
        stage: Stage | None,
        made: Material,
        source: Material,
        inputs: dict[str, str],
        teacher: Material | None = None,
        dataset: DatasetRef | None = None,
        responses: DatasetRef | None = None,
    ) -> Step:
        fingerprint = made.ref.fingerprint
        evaluation_inputs = {
            "model": fingerprint,
            "origin": self.origin.ref.fingerprint,
            "data.held-out": self.corpus.fingerprint("held-out"),
            "data.other": self.corpus.fingerprint("other"),
        }
        environment: dict[str, Any] = {"device": self.machine.device, "dtype": self.machine.dtype}
        if self.recipe.measure.speed:
            environment |= {"threads": self.machine.threads, "processor": hardware.cpu_name()}
        evaluation = self.recipe.measure.fingerprint(evaluation_inputs, environment)
        teacher_facts = (teacher or self.origin).facts
        if dataset is not None:
            cached = self.store.find("dataset", dataset.fingerprint) is not None
        else:
            cached = stage is None or self.store.find("model", fingerprint) is not None
        return Step(
            index=index,
            name=stage.stage if stage else ORIGIN,
            stage=stage,
            model=made.ref,
            facts=made.facts,
            source=source.ref if stage else None,
            teacher=teacher.ref if teacher else None,
            inputs=inputs,
            cached=cached,
            evaluation=evaluation,
            evaluation_inputs=evaluation_inputs,
            measured=dataset is not None or self.store.find("evaluation", evaluation) is not None,
            work=estimate_stage(stage, source.facts, teacher_facts, self.machine) if stage else Estimate(0, 0),
            measuring=Estimate(0, 0)
            if dataset
            else estimate_measure(self.recipe.measure, made.facts, self.origin.facts, self.machine),
            dataset=dataset,
            responses=responses,
        )

    def _teacher(
        self, stage: Stage, index: int, source: Material, previous: Material, complete: bool, watch: Watch
    ) -> Material | None:
        spec = stage.teacher_spec()
        if spec is None:
            return None
        if spec == "origin":
            teacher = self.origin
        elif spec == "previous":
            teacher = previous
        else:
            teacher = open_model(spec, self.recipe.task, self.home, complete, watch)
        if stage.makes == "dataset":
            return teacher  # answers are text: any tokenizer will do
        taught_itself = teacher.ref.fingerprint == source.ref.fingerprint and stage.starts_as_source(source.facts)
        if taught_itself and getattr(stage, "alpha", 0) == 1:
            raise BadInput(
                f"stages.{index}: {stage.stage}: the teacher {spec} is the very model that would learn, so there is "
                "nothing to learn at alpha=1; put the stage after one that changes the model, or lower alpha"
            )
        same = teacher.facts.tokenizer == source.facts.tokenizer
        if not same or teacher.facts.vocabulary != source.facts.vocabulary:
            raise BadInput(
                f"stages.{index}: {stage.stage}: the tokenizer of the teacher {spec} differs from the student's, so "
                "their next-token distributions cannot be compared; choose a teacher with the same tokenizer.json, or "
                "let this one write answers with generate.responses and learn from them with distill.response"
            )
        return teacher


def _responses(stage: Stage, index: int, before: Sequence[Step]) -> DatasetRef | None:
    """The dataset that a stage learns from: that of the last stage before it that made one."""
    if "responses" not in stage.needs():
        return None
    found = next((step.dataset for step in reversed(before) if step.dataset), None)
    if found is None:
        raise BadInput(
            f"stages.{index}: {stage.stage}: no stage before it makes responses; put generate.responses before it, or "
            "name a file of pairs in responses"
        )
    return found


def _disk(steps: list[Step]) -> int:
    """Bytes the uncached steps write at most: their models and teacher caches, and the largest training state (kept
    twice while saved)."""
    to_run = [step for step in steps if not step.cached]
    models = sum(step.work.cache + step.facts.bytes * (step.dataset is None) for step in to_run)
    states = [2 * step.work.state for step in to_run]  # the new one is written before the old one is removed
    return models + max(states, default=0)


def _not_here(origin: Material, disk: int, free: int) -> list[str]:
    """What stands between a plan made from a config alone and a run."""
    if origin.facts.stored:
        return []
    found = [f"{origin.spec} has no weights here: this can be planned, not run"]
    if disk > free:
        found.append(f"a run would write up to {disk / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free here")
    return found
