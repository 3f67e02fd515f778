"""Gates at work: judges every step of a run, and where a gate is breached stops, bisects or puts a stage in.

All gates of a step are judged before one acts, so that their order in the recipe decides nothing but which of two
equals goes first: those that search, since they put another model in the place of the judged one; then those that stop,
but not at the end where a stage is about to be put behind it; then those that put a stage in. Every gate acts once, and
stops the next time. What it changes is a recipe, which is planned anew: what the store has is not computed again.
"""

import math
from typing import Any, NoReturn, Protocol

from attar import scores
from attar.errors import BadInput, GateFailed
from attar.scores import Scores
from attar.store import Store
from pipelines import bisect, foresight, gate_edits, gates, task_evidence, task_measures
from pipelines.execution import Execution, first_other
from pipelines.gates import MEASURES, Bisect, Decision, Figure, Gate, Insert, Judgement, Measure, Number
from pipelines.milder import Milder
from pipelines.plan import Plan, Step
from pipelines.report import BY_BYTES, Row

NONE = "no scores of documents are kept for it"


class Carry(Protocol):
    """Makes a step of an execution's plan and measures it."""

    def __call__(self, at: Execution, step: Step, measured: bool = True) -> None: ...


class Gatekeeper:
    """Judges after every step, and says which one follows."""

    def __init__(self, execution: Execution, carry: Carry) -> None:
        self.execution = execution
        self.carry = carry

    def after(self, step: Step) -> int | None:
        """The step to go on with, which may be an earlier one of a changed plan; None behind the last.

        Raises:
            GateFailed: a gate is breached that stops the run, or could not do better.
        """
        recipe = self.execution.plan.recipe
        chain = recipe.chain()
        row, breached = self.execution.rows[step.index], list[tuple[int, Gate, Judgement]]()
        for number, gate in enumerate(recipe.gated()):
            if step.index not in gate_edits.places(gate, chain):
                continue
            judged = self._judge(gate, row)
            if judged.kept:
                self.execution.decided(_decision(number, gate, step, judged, kept=True, action="go on"))
            else:
                breached.append((number, gate, judged))
        insert = next((entry for entry in breached if isinstance(entry[1].breach, Insert)), None)
        # Behind a stage that is put in there is another end, where a gate of the end is judged.
        stops = [
            _decision(number, gate, step, judged)
            for number, gate, judged in breached
            if gate.breach == "stop" and not (insert and gate.after == "end")
        ]
        # The setting that is searched is one of this step or before, so all is judged anew with what is found.
        for number, gate, judged in breached:
            if isinstance(gate.breach, Bisect):
                return self._bisect(number, gate, step, judged, stops)
        if stops:
            self._stop(*stops)
        if insert:
            number, gate, judged = insert
            return self._insert(number, gate, step, judged)
        return step.index + 1 if step.index + 1 < len(self.execution.plan.steps) else None

    def _judge(self, gate: Gate, row: Row) -> Judgement:
        origin = self.execution.rows[0]
        return gates.judge(gate, figure(gate.measure, row, origin, self.execution.plan.home.store))

    def _stop(self, *decisions: Decision) -> NoReturn:
        for decision in decisions:
            self.execution.decided(decision)
        told = "; ".join(f"gates.{one.gate}: after {one.label}: {one.text}" for one in decisions)
        raise GateFailed(f"{told}; what was made is kept")

    def _insert(self, number: int, gate: Gate, step: Step, judged: Judgement) -> int:
        """Put the recovery in, and go on with it."""
        assert isinstance(gate.breach, Insert)
        recipe = self.execution.plan.recipe
        entries = gate_edits.spent(recipe.gates, number)
        try:
            changed = recipe.changed(*gate_edits.with_stage(recipe.stages, entries, gate))
            plan = self.execution.planned(changed)
        except BadInput as error:  # such as a size that is still beyond the limit
            self._stop(_decision(number, gate, step, Judgement(False, f"{judged.text}; {error}")))
        again = first_other(self.execution.plan, plan)
        told = Judgement(False, f"{judged.text}; {plan.steps[again].name} is put in as step {again}")
        self.execution.decided(_decision(number, gate, step, told, action="insert"), plan)
        return again

    def _bisect(self, number: int, gate: Gate, step: Step, judged: Judgement, stops: list[Decision]) -> int:
        """Find the boldest value that keeps the gate, and go on with it; with none, stop for all that would have."""
        assert isinstance(gate.breach, Bisect)
        asked, plans, probes = gate.breach, dict[Number, Plan](), list[dict[str, Any]]()
        search = Milder.of(self.execution.plan, asked, number)

        def keeps(value: Number) -> bool:
            try:
                plans[value] = self.execution.planned(search.recipes[value])
            except BadInput as error:
                found, measured = Judgement(False, str(error)), {}
            else:
                row = self._probe(f"gate {number} probe {len(probes) + 1}", plans[value], step.index)
                found, measured = self._judge(gate, row), {"evaluation": row.evaluation}
            probes.append({"value": value, "kept": found.kept, "text": found.text, **measured})
            told = probes[-1] | {"text": f"{asked.setting}={value}: {found.text}"}
            self.execution.journal.write("probe", step=step.index, gate=number, **told)
            return found.kept

        value = bisect.boldest(list(search.recipes), keeps, asked.probes)
        tried = ", ".join(f"{probe['value']} {'✓' if probe['kept'] else '✗'}" for probe in probes) or "none is left"
        if value is None:
            text = f"{judged.text}; no milder {asked.setting} was found to keep it (tried: {tried})"
            told = Judgement(False, text)
            self._stop(_decision(number, gate, step, told, setting=asked.setting, probes=probes), *stops)
        claim = f"the boldest that keeps it (tried: {tried})"
        bolder = min(
            (p["value"] for p in probes if not p["kept"]), key=lambda one: abs(one - value), default=search.now
        )
        if search.others_between(value, bolder):
            claim = f"the boldest of those tried ({tried}); others between {value} and {bolder} were not"
        text = f"{judged.text}; goes on with {asked.setting}={value}, {claim}"
        decision = _decision(
            number, gate, step, Judgement(False, text), "bisect", setting=asked.setting, value=value, probes=probes
        )
        again = first_other(self.execution.plan, plans[value])
        self.execution.decided(decision, plans[value])
        return again

    def _probe(self, name: str, plan: Plan, last: int) -> Row:
        """Carry the changed steps out up to the judged one, which alone is measured."""
        probe = Execution(plan, self.execution.run, self.execution.journal, name)
        for step in plan.steps[first_other(self.execution.plan, plan) : last + 1]:
            self.carry(probe, step, measured=step.index == last)
        return probe.row(plan.steps[last])


def figure(name: str, row: Row, origin: Row, store: Store) -> Figure:
    """What a row says of a measure, with an interval where there are documents enough for one."""
    if name.startswith(task_measures.PREFIX):
        return task_evidence.figure(name, row, origin, store)
    measure = MEASURES[name]
    value, before = _value(measure, row), _value(measure, origin)
    if row.note == BY_BYTES and name in foresight.PER_TOKEN | foresight.BESIDE:
        why = f"{name} is about the origin's tokens, and this model has another tokenizer"
        return Figure(None, absent=why, instead=foresight.OF_ANY_TOKENIZER)
    if name in foresight.PER_TOKEN and row.note and row.verdict is None:
        return Figure(None, absent=row.note)  # the two cannot be compared
    if name == "headline":
        return Figure(value, row.retained_low, row.retained_high, before, note=gates.FEW if row.documents else NONE)
    if not measure.scores:
        return Figure(value, origin=before)
    from attar import statistics  # numpy, which the command line does without until there is something to judge

    scored = _scored(measure, row, store)
    if not scored:
        return Figure(value, origin=before, note=NONE)
    if len(scored[0].ids) < statistics.FEWEST:
        return Figure(value, origin=before)
    low, high = _ends(measure, scored)
    if measure.unit not in gates.RELATIVE:
        return Figure(value, low, high, before)
    times = _times(measure, scored, _scored(measure, origin, store))
    return Figure(value, low, high, before, times, "" if times else "the origin was not measured on the same documents")


def has(name: str, row: Row) -> bool:
    """Whether a row has a figure of a measure at all."""
    if name.startswith(task_measures.PREFIX):
        return task_evidence.has(name, row)
    return _value(MEASURES[name], row) is not None


def _scored(measure: Measure, row: Row, store: Store) -> list[Scores]:
    """What the measure is made of, by document: one list, or one for each bin."""
    found = scores.load(store.folder("evaluation", row.evaluation))
    if measure.made != "gaps":
        return [found[measure.scores]] if measure.scores in found else []
    return [one for name, one in found.items() if name.startswith(f"{measure.scores}/")]


def _ends(measure: Measure, scored: list[Scores]) -> tuple[float, float]:
    """The interval of a figure, over documents."""
    from attar import statistics

    if measure.made == "gaps":
        return statistics.gap_interval(scored)
    low, high = statistics.mean_interval(scored[0])
    return (_exp(low), _exp(high)) if measure.made == "exp" else (low, high)


def _times(measure: Measure, scored: list[Scores], before: list[Scores]) -> tuple[float, float] | None:
    """The interval of a figure ÷ the origin's, in pairs over documents, which of the origin itself is 1; None if none.

    Models of different tokenizers have windows that begin and end elsewhere, so there are no pairs.
    """
    from attar import statistics

    if not before:
        return None
    try:
        if measure.made == "exp":
            apart = statistics.difference(scored[0], before[0])
            return _exp(apart.low), _exp(apart.high)
        found = statistics.above_chance(scored[0], before[0])
    except BadInput:
        return None
    return (found.low, found.high) if found else None


def _exp(nats: float) -> float:
    return math.exp(min(nats, 700.0))


def _value(measure: Measure, row: Row) -> float | None:
    found: float | None
    found = row.batches.get(measure.batch, {}).get(measure.column) if measure.batch else getattr(row, measure.column)
    return found


def _decision(
    number: int, gate: Gate, step: Step, judged: Judgement, action: Any = "stop", kept: bool = False, **more: Any
) -> Decision:
    return Decision(number, gate.rule, step.index, step.label, kept, action, judged.text, **more)
