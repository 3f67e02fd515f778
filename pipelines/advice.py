"""What experience says against a plan that can work: warnings, printed by ``attar plan`` and before a run."""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from attar import machine as hardware
from stages.spec import Machine

if TYPE_CHECKING:
    from pipelines.plan import Step

MOST_REMOVED = 1 / 3  # of the parameters, in one pruning
SMALLEST_STUDENT = 1 / 10  # of the teacher


def warnings(steps: Sequence["Step"], machine: Machine) -> list[str]:
    """All warnings, in the order of the steps."""
    found: list[str] = []
    for before, step in pairwise(steps):
        if step.stage is not None:
            found += [f"{step.label} {text}" for text in step.stage.warnings(before.facts)]
        found += _dataset(step, steps[step.index + 1 :])
        found += _pruning(before, step, steps[step.index + 1 :])
        found += _student(step, steps)
        found += _adapter(before, step)
        found += _apart(before, step, steps[0])
    return found + _memory(steps, machine)


def _dataset(step: "Step", later: Sequence["Step"]) -> list[str]:
    if step.dataset is None or any(other.responses == step.dataset for other in later):
        return []
    return [f"{step.label} makes responses that no stage after it learns from; put distill.response after it"]


def _pruning(before: "Step", step: "Step", later: Sequence["Step"]) -> list[str]:
    if not step.name.startswith("prune."):
        return []
    found = []
    removed = 1 - step.facts.parameters / before.facts.parameters
    if removed > MOST_REMOVED:
        found.append(f"{step.label} removes {removed:.0%} of the parameters at once; at most a third loses less")
    for other in later:
        if other.stage is not None and other.stage.trains:
            break
        if other.name.startswith("quantize."):
            found.append(f"{step.label} is quantized by {other.label} untrained; train between to lose less")
            break
    else:
        found.append(f"{step.label} is followed by no training; a pruned model without recovery loses much")
    return found


def _student(step: "Step", steps: Sequence["Step"]) -> list[str]:
    made = {other.model.fingerprint: other.facts for other in steps}  # another teacher: as the origin
    teacher = made.get(step.teacher.fingerprint if step.teacher else "", steps[0].facts)
    share = step.facts.parameters / teacher.parameters
    if not step.name.startswith("distill.") or share >= SMALLEST_STUDENT:
        return []
    return [f"{step.label} makes a student of {share:.0%} of its teacher; below a tenth, distil in several steps"]


def _adapter(before: "Step", step: "Step") -> list[str]:
    if step.facts.adapter is None or before.facts.adapter is not None:
        return []
    return [
        f"{step.label} keeps an adapter beside the integers: peft opens it, and a runtime that is not told of it "
        "serves the model without it; finetune.scales needs none"
    ]


def _apart(before: "Step", step: "Step", origin: "Step") -> list[str]:
    why = step.facts.apart(origin.facts)
    if why is None or before.facts.apart(origin.facts):
        return []
    cut = step.facts.tokenizer != origin.facts.tokenizer
    more = ", and retained quality is told by bits per byte, without an interval" if cut else ""
    return [f"{step.label}: {why} from here on, so KL to the origin and agreement with it are not measured{more}"]


def _memory(steps: Sequence["Step"], machine: Machine) -> list[str]:
    if machine.device.startswith("cuda"):
        return []  # how much a GPU has is known only to a process that loads torch
    have = hardware.memory_bytes()
    return [
        f"{step.label} may need {need / 1e9:.1f} GB of memory, and this machine has {have / 1e9:.1f} GB"
        for step in steps
        if (need := max(step.work.memory * (not step.cached), step.measuring.memory * (not step.measured))) > have
    ]
