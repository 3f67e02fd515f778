"""What a plan can tell of its gates before anything is computed: what a breach would make, and limits out of reach."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from attar.errors import BadInput
from attar.facts import ModelFacts
from attar.flops import flops_per_token
from attar.parts import bits_per_weight, bits_quantized
from pipelines import gate_edits, gates, task_measures
from pipelines.chain import Link, links
from pipelines.gates import Figure

if TYPE_CHECKING:
    from attar.exam import Exam
    from pipelines.plan import Step
    from pipelines.recipe import Recipe

MARGIN = 0.01  # a plan's bytes are right to the headers of the files
# Measures that need the origin's next-token distributions, and those that need its tokens.
BESIDE = frozenset({"kl", "agreement"})
PER_TOKEN = frozenset({"headline", "perplexity_other", "perplexity_held_out"})
OF_ANY_TOKENIZER = "judge bits_per_byte by a number"


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


def require_chosen(recipe: "Recipe", exam: "Exam") -> None:
    """Refuse a gate on how sure a model is of a task's answers, where it is asked to write them."""
    for number, gate in enumerate(recipe.gated()):
        try:
            task_measures.require_chosen(gate.measure, exam)
        except BadInput as error:
            raise BadInput(f"gates.{number}: {error}") from None


def facts_of(recipe: "Recipe", steps: Sequence["Step"]) -> list[ModelFacts]:
    """Facts behind every step of a recipe, from the steps of one with the same stages that are set otherwise.

    No text is read and nothing hashed, so it takes no time. A stage with a student of its own is taken to be as it was.
    """
    found = [steps[0].facts]
    for link, step in zip(recipe.chain(), steps[1:], strict=True):
        found.append(step.facts if link.stage.student_spec() else link.stage.plan(found[-1]))
    return found


def require(recipe: "Recipe", facts: Sequence[ModelFacts]) -> None:
    """Refuse a gate that nobody could judge, and one that stops the run and is sure to be breached.

    Whether a model can be held against the origin is known by now, and so are bytes, parameters and ratio.
    """
    chain = recipe.chain()
    for number, gate in enumerate(recipe.gated()):
        for place in gate_edits.places(gate, chain):
            why = facts[place].apart(facts[0])
            cut = facts[place].tokenizer != facts[0].tokenizer
            if why and gate.measure in (BESIDE | PER_TOKEN if cut else BESIDE):
                raise BadInput(
                    f"gates.{number}: {gate.measure} after {place} {chain[place - 1].stage.stage} cannot be judged: "
                    f"{why} of the origin and this model; {OF_ANY_TOKENIZER if cut else 'judge headline'}"
                )
        if gate.breach != "stop":
            continue
        for place in gate_edits.places(gate, chain):
            near = 1 + MARGIN * (1 if gates.MEASURES[gate.measure].higher else -1)
            known: dict[str, float | None] = {
                "bytes": facts[place].bytes,
                "parameters": facts[place].parameters,
                "ratio": facts[0].bf16_bytes / facts[place].bytes,
                "bits_per_weight": bits_per_weight(facts[place]),
                "bits_quantized": bits_quantized(facts[place]),
                "flops_per_token": flops_per_token(facts[place], recipe.measure.prompt),
            }
            if gate.measure not in known:
                continue
            value = known[gate.measure]
            judged = gates.judge(gate, Figure(None if value is None else near * value))
            if not judged.kept:
                told = gates.judge(gate, Figure(value)).text
                label = f"{place} {chain[place - 1].stage.stage}"
                raise BadInput(
                    f"gates.{number}: the plan foresees a breach after {label}: {told}; change the stages or the "
                    "limit, or let the gate bisect a setting"
                )
