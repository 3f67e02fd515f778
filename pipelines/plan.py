"""The plan of a recipe: what every step makes, what is already there, what it will take. Computes no tensor."""

from dataclasses import dataclass
from typing import Any

from attar import machine as hardware
from attar.architecture import require_length
from attar.data import Corpus, open_corpus
from attar.errors import BadInput
from attar.facts import ModelFacts
from attar.store import Store
from attar.suite import Suite
from pipelines import advice
from pipelines.chain import Link
from pipelines.child import Watch
from pipelines.estimate import Estimate, estimate_measure, estimate_stage
from pipelines.home import Home
from pipelines.materials import Material, open_model, require_obtainable, resolve_machine
from pipelines.recipe import Recipe
from stages.base import Stage
from stages.spec import Machine, ModelRef

ORIGIN = "origin"


@dataclass(frozen=True)
class Step:
    """The origin, or one stage: the model it makes and the measurement of that model."""

    index: int  # 0 is the origin, 1 the first stage
    name: str  # "origin" or the stage's name
    stage: Stage | None
    model: ModelRef  # what comes out
    facts: ModelFacts  # of what comes out
    source: ModelRef | None
    teacher: ModelRef | None
    inputs: dict[str, str]
    cached: bool  # the model is in the store
    evaluation: str  # fingerprint of its measurement
    evaluation_inputs: dict[str, str]
    measured: bool  # the measurement is in the store
    work: Estimate  # of the stage
    measuring: Estimate

    @property
    def label(self) -> str:
        return f"{self.index} {self.name}"

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
                    "fingerprint": step.model.fingerprint,
                    "cached": step.cached,
                    "measured": step.measured,
                    "parameters": step.facts.parameters,
                    "shape": step.shape,
                    "bytes": step.facts.bytes,
                    "compression_ratio": self.ratio(step),
                    "memory_bytes": max(step.work.memory, step.measuring.memory),
                    "seconds": step.work.seconds + step.measuring.seconds,
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
    _check_chain(chain, origin.facts, recipe.measure)
    corpus = open_corpus(
        recipe.data,
        home.corpus,
        progress=lambda done, total: watch({"kind": "progress", "done": done, "total": total, "unit": "files read"}),
    )
    _Data(corpus, origin).check(recipe, chain)
    made = _Chain(recipe, home, machine, origin, corpus)
    steps = made.steps(chain, complete, watch)
    disk = _disk(steps)
    missing = tuple(dict.fromkeys(model.spec for model in (origin, *made.teachers) if not model.facts.stored))
    warnings = [*advice.warnings(steps, machine), *_not_here(missing, disk, hardware.free_disk(home.root))]
    return Plan(recipe, home, machine, tuple(steps), tuple(warnings), disk, missing)


def _check_chain(chain: tuple[Link, ...], facts: ModelFacts, suite: Suite) -> None:
    """Facts through all stages, before any data is read: an order that cannot work is told in milliseconds."""
    require_length(facts.config, suite.length, f"measure: length={suite.length}")
    if suite.speed:
        generated = f"measure: prompt={suite.prompt} with new_tokens={suite.new_tokens}"
        require_length(facts.config, suite.prompt + suite.new_tokens, generated)
    for link in chain:
        facts = _planned(link, facts)


def _planned(link: Link, facts: ModelFacts) -> ModelFacts:
    try:
        for _, length in link.stage.tokens().values():
            require_length(facts.config, length, f"{link.stage.stage}: length={length}")
        return link.stage.plan(facts)
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

    def __init__(self, recipe: Recipe, home: Home, machine: Machine, origin: Material, corpus: Corpus) -> None:
        self.recipe = recipe
        self.home = home
        self.store: Store = home.store
        self.machine = machine
        self.origin = origin
        self.corpus = corpus
        self.teachers: list[Material] = []  # those that a recipe names

    def steps(self, chain: tuple[Link, ...], complete: bool, watch: Watch) -> list[Step]:
        steps = [self._step(0, None, self.origin, self.origin, {})]
        for link in chain:
            stage = link.stage
            source = Material("previous", steps[-1].model, steps[-1].facts)
            teacher = self._teacher(link, source, complete, watch)
            inputs = {"source": source.ref.fingerprint}
            if teacher is not None:
                inputs["teacher"] = teacher.ref.fingerprint
            for split in ("train", "calibration"):
                if split in stage.uses:
                    inputs[f"data.{split}"] = self.corpus.fingerprint(split)
            fingerprint = stage.fingerprint(inputs, self.machine.dtype, self.recipe.seed)
            made = Material(
                link.where,
                ModelRef(folder=str(self.store.folder("model", fingerprint)), fingerprint=fingerprint),
                _planned(link, source.facts),
            )
            steps.append(self._step(len(steps), stage, made, source, inputs, teacher))
        return steps

    def _step(
        self,
        index: int,
        stage: Stage | None,
        made: Material,
        source: Material,
        inputs: dict[str, str],
        teacher: Material | None = None,
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
        return Step(
            index=index,
            name=stage.stage if stage else ORIGIN,
            stage=stage,
            model=made.ref,
            facts=made.facts,
            source=source.ref if stage else None,
            teacher=teacher.ref if teacher else None,
            inputs=inputs,
            cached=stage is None or self.store.find("model", fingerprint) is not None,
            evaluation=evaluation,
            evaluation_inputs=evaluation_inputs,
            measured=self.store.find("evaluation", evaluation) is not None,
            work=estimate_stage(stage, source.facts, teacher_facts, self.machine) if stage else Estimate(0, 0),
            measuring=estimate_measure(self.recipe.measure, made.facts, self.origin.facts, self.machine),
        )

    def _teacher(self, link: Link, source: Material, complete: bool, watch: Watch) -> Material | None:
        stage = link.stage
        spec = stage.teacher_spec()
        if spec is None:
            return None
        if spec == "origin":
            teacher = self.origin
        elif spec == "previous":
            teacher = source
        else:
            teacher = open_model(spec, self.recipe.task, self.home, complete, watch)
            self.teachers.append(teacher)
        unchanged = stage.plan(source.facts).changed(dtype=None) == source.facts.changed(dtype=None)
        if teacher.ref.fingerprint == source.ref.fingerprint and unchanged and getattr(stage, "alpha", 0) == 1:
            raise BadInput(
                f"{link.where}: {stage.stage}: the teacher {spec} is the very model that would learn, so there is "
                "nothing to learn at alpha=1; put the stage after one that changes the model, or lower alpha"
            )
        same = teacher.facts.tokenizer == source.facts.tokenizer
        if not same or teacher.facts.vocabulary != source.facts.vocabulary:
            raise BadInput(
                f"{link.where}: {stage.stage}: the tokenizer of the teacher {spec} differs from the student's, so "
                "their next-token distributions cannot be compared; choose a teacher with the same tokenizer.json"
            )
        return teacher


def _disk(steps: list[Step]) -> int:
    """Bytes the uncached steps write: all their models, and the largest training state (kept twice while saved)."""
    to_run = [step for step in steps if not step.cached]
    models = sum(step.facts.bytes for step in to_run)
    states = [2 * step.work.state for step in to_run]  # the new one is written before the old one is removed
    return models + max(states, default=0)


def _not_here(missing: tuple[str, ...], disk: int, free: int) -> list[str]:
    """What stands between a plan made from configs alone and a run."""
    found = [f"{spec} has no weights here: this can be planned, not run" for spec in missing]
    if missing and disk > free:
        found.append(f"a run would write up to {disk / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free here")
    return found
