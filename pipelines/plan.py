"""The plan of a recipe: what every step makes, what is already there, what it will take. Computes no tensor."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from attar import machine as hardware
from attar.architecture import require_length
from attar.data import Corpus, open_corpus
from attar.errors import BadInput
from attar.exam import Exam, set_exam
from attar.facts import ModelFacts
from attar.store import Store
from attar.suite import Suite
from pipelines import advice, foresight, gate_edits
from pipelines.chain import Link
from pipelines.estimate import Estimate, estimate_measure, estimate_stage, hidden_bytes, require_batches
from pipelines.following import Watch
from pipelines.home import Home
from pipelines.materials import Material, open_model, require_obtainable, resolve_machine
from pipelines.recipe import Recipe
from pipelines.roles import Roles
from stages.base import Stage, stage_seed
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
    seed: int
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

    @property
    def keeps(self) -> int:
        """Bytes that the stage leaves in the store at most: its model and a teacher cache."""
        return self.work.cache + self.facts.bytes * (self.dataset is None)

    @property
    def shape(self) -> dict[str, int]:
        """What pruning changes: the numbers of the model that comes out."""
        facts = self.facts
        return {
            "layers": facts.layers,
            "hidden": facts.hidden,
            "ffn": facts.ffn,
            "heads": facts.heads,
            "kv_heads": facts.kv_heads,
        }


@dataclass(frozen=True)
class Plan:
    """A recipe against a home: every step, with what is cached."""

    recipe: Recipe
    home: Home
    machine: Machine
    steps: tuple[Step, ...]
    warnings: tuple[str, ...]
    disk: int  # bytes that the steps still to run will write at most
    missing: tuple[str, ...]  # models whose weights are not here
    exam: Exam

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
                    "inputs": step.inputs,
                    "folders": [ref.folder for ref in (step.model, step.source, step.teacher) if ref],
                    "evaluation": step.evaluation,
                    "cached": step.cached,
                    "measured": step.measured,
                    "parameters": step.facts.parameters,
                    "shape": step.shape,
                    "bytes": step.facts.bytes,
                    "compression_ratio": self.ratio(step),
                    "memory_bytes": max(step.work.memory, step.measuring.memory),
                    "stage_memory_bytes": step.work.memory,
                    "seconds": step.work.seconds + step.measuring.seconds,
                    "teacher_cache_bytes": step.work.cache,
                }
                for step in self.steps
            ],
            "seconds": self.seconds,
            "disk_bytes": self.disk,
            "gates": gate_edits.told(self.recipe.chain(), self.recipe.gated()),
            "warnings": list(self.warnings),
        }


def make_plan(recipe: Recipe, home: Home, complete: bool, watch: Watch = lambda event: None) -> Plan:
    """Check the whole recipe and say what it will do.

    Args:
        complete: plan for running now: weights must be there. Otherwise a config alone can be planned.
        watch: hears of slow preparations (conversion of a model, extraction of the embedded text).

    Raises:
        BadInput: the first thing that cannot work, before anything is computed or any weights are downloaded.
    """
    plan = _make_plan(recipe, home, False, watch)
    if complete and plan.missing:
        for spec in plan.missing:
            require_obtainable(spec, recipe.task, home)
        _require_disk(plan)
        plan = _make_plan(recipe, home, True, watch)
    if not plan.missing:
        _require_disk(plan)
    return plan


def _require_disk(plan: Plan) -> None:
    free = hardware.free_disk(plan.home.root)
    if plan.disk > free:
        raise BadInput(
            f"the steps to run write up to {plan.disk / 1e9:,.1f} GB, and {plan.home.root} has {free / 1e9:,.1f} GB "
            "free; make room, or choose another folder with --home"
        )


def _make_plan(recipe: Recipe, home: Home, complete: bool, watch: Watch) -> Plan:
    machine = resolve_machine(recipe.device, recipe.dtype)
    home.store.require_writable()
    chain = recipe.chain()
    origin = open_model(recipe.model, recipe.task, home, complete, watch)
    if origin.facts.quantization is not None:
        raise BadInput(f"the model {recipe.model} is quantized already; start from the dense one it was made of")
    roles = Roles(origin, home, complete, watch)
    _check_chain(chain, origin.facts, recipe.measure, roles)
    variants = [*foresight.variants(recipe, lambda other: _check_chain(other, origin.facts, recipe.measure, roles))]

    def reading(done: int, total: int) -> None:
        watch({"kind": "progress", "done": done, "total": total, "unit": "files read"})

    corpus = open_corpus(recipe.data, home.corpus, progress=reading)
    for each in (chain, *variants):
        _Data(corpus, origin).check(recipe, each)
    exam = set_exam(recipe.measure, corpus, home.corpus, reading)
    foresight.require_chosen(recipe, exam)
    steps = _Chain(recipe, home, machine, origin, corpus, roles, exam).steps(chain)
    foresight.require(recipe, [step.facts for step in steps])
    require_batches(recipe.measure, [step.facts for step in steps if not step.measured], machine)
    disk = _disk(steps)
    missing = tuple(dict.fromkeys(model.spec for model in (origin, *roles.named.values()) if not model.facts.stored))
    warnings = [*advice.warnings(steps, machine), *_not_here(missing, disk, hardware.free_disk(home.root))]
    return Plan(recipe, home, machine, tuple(steps), tuple(warnings), disk, missing, exam)


def _check_chain(chain: tuple[Link, ...], facts: ModelFacts, suite: Suite, roles: Roles) -> None:
    """Facts through all stages, before any data is read: an order that cannot work is told in milliseconds."""
    _require_measurable(facts, suite)
    for link in chain:
        student = roles.student(link)
        if student is not None:
            facts = student.facts
            _require_measurable(facts, suite)
        facts = _planned(link, facts)


def _require_measurable(facts: ModelFacts, suite: Suite) -> None:
    """Positions that are learned last for the windows and the texts of all measurements."""
    require_length(facts.config, suite.length, f"measure: length={suite.length}")
    if suite.speed:
        generated = f"measure: prompt={suite.prompt} with new_tokens={suite.new_tokens}"
        require_length(facts.config, suite.prompt + suite.new_tokens, generated)


def _planned(link: Link, facts: ModelFacts) -> ModelFacts:
    for _, length in link.stage.tokens().values():
        require_length(facts.config, length, f"{link.where}: {link.stage.stage}: length={length}")
    return _asked(link, lambda: link.stage.plan(facts))


def _asked(link: Link, question: Callable[[], T]) -> T:
    """What a stage answers; a sentence of its own is told with the place in the recipe."""
    try:
        return question()
    except BadInput as error:
        text, name = str(error), link.stage.stage
        raise BadInput(f"{link.where}: {text}" if text.startswith(name) else f"{link.where}: {name}: {text}") from None


class _Data:
    """Checks that the corpus can give every window that the recipe will ask for."""

    def __init__(self, corpus: Corpus, origin: Material) -> None:
        self.corpus = corpus
        self.origin = origin

    def check(self, recipe: Recipe, chain: tuple[Link, ...]) -> None:
        from pathlib import Path

        tokenizer = Path(self.origin.ref.folder) / "tokenizer.json"
        if not tokenizer.is_file():
            if self.origin.facts.stored:
                raise BadInput(
                    f"the model {self.origin.spec} has no tokenizer.json; save it with a fast tokenizer "
                    "(AutoTokenizer.from_pretrained(…).save_pretrained(…))"
                )
            return  # a config alone: the tokens cannot be counted yet
        for link in chain:
            for split, (count, length) in link.stage.tokens().items():
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
        roles: Roles,
        exam: Exam,
    ) -> None:
        self.recipe = recipe
        self.home = home
        self.store: Store = home.store
        self.machine = machine
        self.origin = origin
        self.corpus = corpus
        self.roles = roles
        self.asked = exam.inputs()

    def steps(self, chain: tuple[Link, ...]) -> list[Step]:
        steps = [self._step(0, None, self.origin, self.origin, {}, self.recipe.seed)]
        for link in chain:
            stage = link.stage
            previous = Material("previous", steps[-1].model, steps[-1].facts)
            student = self.roles.student(link)
            source = student or previous
            teacher = self.roles.teacher(link, source, previous)
            inputs = {"student" if student else "source": source.ref.fingerprint} if stage.makes == "model" else {}
            inputs |= _asked(link, stage.named_inputs)
            responses = _responses(link, steps)
            if responses is not None:
                inputs["responses"] = responses.fingerprint
            if teacher is not None:
                inputs["teacher"] = teacher.ref.fingerprint
            for split in ("train", "calibration"):
                if split in stage.needs():
                    inputs[f"data.{split}"] = self.corpus.fingerprint(split)
            if "names" in stage.needs():
                inputs["data.names"] = self.corpus.names()
            # The next of its kind in a chain, such as that of the next round, reads other text.
            before = sum(step.name == stage.stage for step in steps)
            seed = stage_seed(self.recipe.seed, f"after {before}") if before else self.recipe.seed
            fingerprint = stage.fingerprint(inputs, self.machine.dtype, seed)
            folder = str(self.store.folder(stage.makes, fingerprint))
            if stage.makes == "model":
                ref = ModelRef(folder=folder, fingerprint=fingerprint)
                made = Material(link.where, ref, _planned(link, source.facts))
                step = self._step(len(steps), stage, made, source, inputs, seed, teacher, responses=responses)
            else:
                dataset = DatasetRef(folder=folder, fingerprint=fingerprint)
                step = self._step(len(steps), stage, source, source, inputs, seed, teacher, dataset)
            if not step.cached:
                _asked(link, stage.ready)
            steps.append(step)
        return steps

    def _step(
        self,
        index: int,
        stage: Stage | None,
        made: Material,
        source: Material,
        inputs: dict[str, str],
        seed: int,
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
            **self.asked,
        }
        where, suite = self.machine, self.recipe.measure
        environment = hardware.measuring(where.device, where.dtype, where.threads, suite.speed)
        evaluation = suite.fingerprint(evaluation_inputs, environment)
        teacher_facts = (teacher or self.origin).facts
        hidden = 0 if stage else hidden_bytes(self.recipe.measure, made.facts, self.machine)
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
            seed=seed,
            cached=cached,
            evaluation=evaluation,
            evaluation_inputs=evaluation_inputs,
            measured=dataset is not None or self.store.find("evaluation", evaluation) is not None,
            work=estimate_stage(stage, source.facts, teacher_facts, self.machine) if stage else Estimate(0, 0),
            measuring=Estimate(0, 0)
            if dataset
            else replace(
                estimate_measure(self.recipe.measure, made.facts, self.origin.facts, self.machine), cache=hidden
            ),
            dataset=dataset,
            responses=responses,
        )


def _responses(link: Link, before: Sequence[Step]) -> DatasetRef | None:
    """The dataset that a stage learns from: that of the last stage before it that made one."""
    if "responses" not in link.stage.needs():
        return None
    found = next((step.dataset for step in reversed(before) if step.dataset), None)
    if found is None:
        raise BadInput(
            f"{link.where}: {link.stage.stage}: no stage before it makes responses; put generate.responses before it, "
            "or name a file of pairs in responses"
        )
    return found


def _disk(steps: list[Step]) -> int:
    """Bytes that what is missing writes at most: models, teacher caches, hidden states, the largest training state."""
    to_run = [step for step in steps if not step.cached]
    kept = sum(step.keeps for step in to_run) + sum(step.measuring.cache for step in steps if not step.measured)
    return kept + max((2 * step.work.state for step in to_run), default=0)  # the old one goes after the new one


def _not_here(missing: tuple[str, ...], disk: int, free: int) -> list[str]:
    """What stands between a plan made from configs alone and a run."""
    found = [f"{spec} has no weights here: this can be planned, not run" for spec in missing]
    if missing and disk > free:
        found.append(f"a run would write up to {disk / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free here")
    return found
