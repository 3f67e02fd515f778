"""finetune.full: every weight of a dense model learns."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from attar.errors import BadInput
from attar.facts import ModelFacts
from attar.training_settings import TrainingSettings
from stages.base import Context, Cost, Stage, Use

if TYPE_CHECKING:
    from attar.model import Model
    from attar.writer import Writer


class Full(TrainingSettings, Stage):
    """Recover what a stage cost, or adapt to a text: all weights of a dense model learn, its shape stays.

    alpha = 1 draws the model back to its teacher (KL), alpha = 0 fits the text (cross-entropy), between is a mixture.
    After a heavy cut to the width this is where most of the lost quality returns (Minitron, arXiv 2407.14679).
    """

    stage: Literal["finetune.full"] = "finetune.full"
    version: ClassVar[int] = 2
    uses: ClassVar[frozenset[Use]] = frozenset({"teacher", "train"})
    trains: ClassVar[bool] = True
    unhashed: ClassVar[frozenset[str]] = frozenset({"save_every"})

    def plan(self, facts: ModelFacts) -> ModelFacts:
        if facts.quantization is not None:
            raise BadInput(
                "finetune.full: the incoming model holds packed integers, which do not learn; use finetune.scales, or "
                "put finetune.full before the quantization"
            )
        return facts.changed(dtype="bfloat16")

    def cost(self, facts: ModelFacts, teacher: ModelFacts) -> Cost:
        return Cost(*self.estimate(facts, teacher))

    def apply(self, source: Model, out: Writer, context: Context) -> None:
        from attar.training import fit

        student = source.materialize(context.torch_dtype, context.device).requires_grad_(True)
        fit(student, source, self, context)
        out.module(student)
