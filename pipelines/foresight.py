"""What a plan can tell of its gates before anything is computed: what a breach would make, and limits out of reach."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from attar.errors import BadInput
from pipelines import gate_edits, gates
from pipelines.chain import Link, links
from pipelines.gates import Figure

if TYPE_CHECKING:
    from pipelines.plan import Step
    from pipelines.recipe import Recipe

MARGIN = 0.01  # a plan's bytes are right to the headers of the files


def variants(recipe: "Recipe", check: Callable[[tuple[Link, ...]], None]) -> Iterator[tuple[Link, ...]]:
    """The chains that breaches may lead to, each of which must work: the mildest values, the stages put in.

    Raises:
        BadInput: one cannot work; the sentence says which gate asks for it.
    """
    for where, entries in gate_edits.variants(recipe.stages, recipe.gated()):
        try:
            chain = links(entries)
            check(chain)
        except BadInput as error:
            raise BadInput(f"{where}: {error}") from None
        yield chain


def require(recipe: "Recipe", steps: Sequence["Step"]) -> None:
    """Refuse a gate that stops the run and is sure to be breached: bytes, parameters and ratio are known by now."""
    chain = recipe.chain()
    for number, gate in enumerate(recipe.gated()):
        if gate.breach != "stop":
            continue
        for place in gate_edits.places(gate, chain):
            facts, near = steps[place].facts, 1 + MARGIN * (1 if gates.MEASURES[gate.measure].higher else -1)
            known = {
                "bytes": facts.bytes,
                "parameters": facts.parameters,
                "ratio": steps[0].facts.bf16_bytes / facts.bytes,
            }
            if gate.measure not in known:
                continue
            judged = gates.judge(gate, Figure(near * known[gate.measure]))
            if not judged.kept:
                told = gates.judge(gate, Figure(known[gate.measure])).text
                raise BadInput(
                    f"gates.{number}: the plan foresees a breach after {steps[place].label}: {told}; change the "
                    "stages or the limit, or let the gate bisect a setting"
                )
