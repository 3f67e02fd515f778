"""The values that a bisection may try: milder than what was breached, and as many as its probes can search.

Values that come to the same model are one, as shares of a layer do that round to as many channels.
"""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from attar.errors import BadInput
from attar.facts import ModelFacts
from pipelines import bisect, foresight, gate_edits
from pipelines.gates import Bisect, Number
from pipelines.plan import Plan
from pipelines.recipe import Recipe


class _Able(NamedTuple):
    """A recipe that the plan does not refuse, and what is known of its models before they are made."""

    recipe: Recipe
    sizes: Hashable


@dataclass(frozen=True)
class Milder:
    """What a gate's bisection of a plan's setting chooses from."""

    plan: Plan
    asked: Bisect
    gate: int
    now: Number  # what was breached
    able: dict[Number, _Able]  # the mildest first

    @classmethod
    def of(cls, plan: Plan, asked: Bisect, gate: int) -> "Milder":
        """From the coarsest grid that leaves no probe without a value to try, if there is one."""
        now, most = gate_edits.value_of(plan.recipe.stages, asked.setting), 2**asked.probes - 1
        found = cls(plan, asked, gate, now, {})
        mild, bold = asked.within
        for values in bisect.grids(mild, bold, isinstance(now, int), asked.probes):
            able = found._distinct(value for value in values if abs(value - mild) < abs(now - mild))
            if found.able and not len(found.able) < len(able) <= most:
                break
            found = cls(plan, asked, gate, now, able)
        return found

    @property
    def recipes(self) -> dict[Number, Recipe]:
        """The values, the mildest first, with the recipes that have them."""
        return {value: one.recipe for value, one in self.able.items()}

    def others_between(self, value: Number, bolder: Number) -> bool:
        """Whether a value between two would make another model than either, which might keep the gate, too."""
        ends = {self.able[one].sizes if one in self.able else self._sizes_now() for one in (value, bolder)}
        inside = bisect.grid(value, bolder, isinstance(self.now, int), probes=6)[1:-1]
        return any(len(ends) == 1 or one.sizes not in ends for one in self._workable(inside).values())

    def _distinct(self, values: Iterable[Number]) -> dict[Number, _Able]:
        breached = (self.now, _Able(self.plan.recipe, self._sizes_now()))
        chosen = bisect.distinct([*self._workable(values).items(), breached], lambda one: one[1].sizes)
        return {value: one for value, one in chosen if value != self.now}

    def _workable(self, values: Iterable[Number]) -> dict[Number, _Able]:
        recipe, found = self.plan.recipe, dict[Number, _Able]()
        entries = gate_edits.spent(recipe.gates, self.gate)
        for value in values:
            try:
                changed = recipe.changed(gate_edits.with_value(recipe.stages, self.asked.setting, value), entries)
                facts = foresight.facts_of(changed, self.plan.steps)
                foresight.require(changed, facts)
            except BadInput:  # such as a group size that divides no width, or a size beyond the limit
                continue
            found[value] = _Able(changed, _sizes(facts))
        return found

    def _sizes_now(self) -> Hashable:
        return _sizes([step.facts for step in self.plan.steps])


def _sizes(facts: Iterable[ModelFacts]) -> Hashable:
    return tuple((one.parameters, one.bytes, one.layers, one.hidden, one.ffn, one.heads, one.kv_heads) for one in facts)
