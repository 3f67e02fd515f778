"""Gates at work: judges every step of a run, and where a gate is breached stops, bisects or puts a stage in.

Every gate acts once, and stops the next time. What it changes is a recipe, which is planned anew: what the store has
is not computed again.
"""

from collections.abc import Hashable, Mapping
from typing import Any, NoReturn, Protocol

from attar import scores
from attar.errors import BadInput, GateFailed
from attar.scores import Scores
from attar.store import COLLECTING, Store
from pipelines import bisect, gate_edits, gates
from pipelines.execution import Execution, first_other
from pipelines.gates import MEASURES, Bisect, Decision, Figure, Gate, Insert, Judgement, Number
from pipelines.plan import Plan, Step, make_plan
from pipelines.report import Row


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
        for number, gate in enumerate(recipe.gated()):
            if step.index not in gate_edits.places(gate, chain):
                continue
            judged = self._judge(gate, self.execution.rows[step.index])
            if judged.kept:
                self.execution.decided(_decision(number, gate, step, judged, kept=True, action="go on"))
                continue
            if gate.breach == "stop":
                self._stop(_decision(number, gate, step, judged))
            with self.execution.plan.home.store.lock(COLLECTING, shared=True):  # what is planned with stays
                act = self._bisect if isinstance(gate.breach, Bisect) else self._insert
                return act(number, gate, step, judged)
        return step.index + 1 if step.index + 1 < len(self.execution.plan.steps) else None

    def _judge(self, gate: Gate, row: Row) -> Judgement:
        origin = self.execution.rows[0]
        return gates.judge(gate, figure(gate.measure, row, origin, self.execution.plan.home.store))

    def _stop(self, decision: Decision) -> NoReturn:
        self.execution.decided(decision)
        raise GateFailed(f"gates.{decision.gate}: after {decision.label}: {decision.text}; what was made is kept")

    def _insert(self, number: int, gate: Gate, step: Step, judged: Judgement) -> int:
        """Put the recovery in, and go on with it."""
        assert isinstance(gate.breach, Insert)
        recipe = self.execution.plan.recipe
        entries = gate_edits.spent(recipe.gates, number)
        try:
            changed = recipe.changed(*gate_edits.with_stage(recipe.stages, entries, gate))
            plan = make_plan(changed, self.execution.plan.home, complete=True)
        except BadInput as error:  # such as a size that is still beyond the limit
            self._stop(_decision(number, gate, step, Judgement(False, f"{judged.text}; {error}")))
        again = first_other(self.execution.plan, plan)
        told = Judgement(False, f"{judged.text}; {plan.steps[again].name} is put in as step {again}")
        self.execution.decided(_decision(number, gate, step, told, action="insert"), plan)
        return again

    def _bisect(self, number: int, gate: Gate, step: Step, judged: Judgement) -> int:
        """Find the boldest value that keeps the gate, and go on with it."""
        assert isinstance(gate.breach, Bisect)
        asked, probes = gate.breach, list[dict[str, Any]]()
        plans = self._milder(asked, gate_edits.spent(self.execution.plan.recipe.gates, number))

        def keeps(value: Number) -> bool:
            name = f"gate {number} probe {len(probes) + 1}"
            row = self._probe(name, plans[value], step.index)
            found = self._judge(gate, row)
            probes.append({"value": value, "kept": found.kept, "text": found.text})
            needs = [row.fingerprint, row.evaluation]
            told = {"value": value, "kept": found.kept, "text": f"{asked.setting}={value}: {found.text}"}
            self.execution.journal.write("probe", step=step.index, gate=number, **told, needs=needs)
            return found.kept

        value = bisect.boldest(list(plans), keeps, asked.probes)
        tried = ", ".join(f"{probe['value']} {'✓' if probe['kept'] else '✗'}" for probe in probes) or "none is left"
        if value is None:
            text = f"{judged.text}; no milder {asked.setting} was found to keep it (tried: {tried})"
            self._stop(_decision(number, gate, step, Judgement(False, text), setting=asked.setting, probes=probes))
        text = f"{judged.text}; goes on with {asked.setting}={value}, the boldest that keeps it (tried: {tried})"
        decision = _decision(
            number, gate, step, Judgement(False, text), "bisect", setting=asked.setting, value=value, probes=probes
        )
        again = first_other(self.execution.plan, plans[value])
        self.execution.decided(decision, plans[value])
        return again

    def _milder(self, asked: Bisect, entries: list[dict[str, Any]]) -> dict[Number, Plan]:
        """Values milder than the one that was breached, the mildest first, with their plans; those that work."""
        plan, (mild, bold) = self.execution.plan, asked.within
        now = gate_edits.value_of(plan.recipe.stages, asked.setting)
        plans: dict[Number, Plan] = {}
        for value in bisect.grid(mild, bold, isinstance(now, int), asked.probes):
            if abs(value - mild) >= abs(now - mild):
                break
            try:
                changed = plan.recipe.changed(gate_edits.with_value(plan.recipe.stages, asked.setting, value), entries)
                plans[value] = make_plan(changed, plan.home, complete=True)
            except BadInput:  # such as a group size that divides no width, or a size beyond the limit
                continue
        chosen = bisect.distinct([*plans.items(), (now, plan)], lambda item: _sizes(item[1]))
        return {value: planned for value, planned in chosen if planned is not plan}

    def _probe(self, name: str, plan: Plan, last: int) -> Row:
        """Carry the changed steps out up to the judged one, which alone is measured."""
        probe = Execution(plan, self.execution.run, self.execution.journal, name)
        for step in plan.steps[first_other(self.execution.plan, plan) : last + 1]:
            self.carry(probe, step, measured=step.index == last)
        return probe.row(plan.steps[last])


def figure(name: str, row: Row, origin: Row, store: Store) -> Figure:
    """What a row says of a measure, with an interval where there are documents enough for one."""
    measure = MEASURES[name]
    low = high = None
    if name == "headline":
        low, high = row.retained_low, row.retained_high
    elif measure.scores:
        low, high = _interval(scores.load(store.folder("evaluation", row.evaluation)), measure.scores)
    return Figure(getattr(row, measure.column), low, high, getattr(origin, measure.column))


def _interval(scored: Mapping[str, Scores], name: str) -> tuple[float, float] | tuple[None, None]:
    from attar import statistics  # numpy, which the command line does without until there is something to judge

    found = scored.get(name)
    return (None, None) if found is None or len(found.ids) < statistics.FEWEST else statistics.mean_interval(found)


def _sizes(plan: Plan) -> Hashable:
    """What a plan knows of its models before they are made."""
    return tuple((step.facts.parameters, step.facts.bytes, *step.shape.values()) for step in plan.steps)


def _decision(
    number: int, gate: Gate, step: Step, judged: Judgement, action: Any = "stop", kept: bool = False, **more: Any
) -> Decision:
    return Decision(number, gate.rule, step.index, step.label, kept, action, judged.text, **more)
