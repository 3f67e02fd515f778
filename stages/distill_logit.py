"""distill.logit: a shallower student learns the next-token distributions of its teacher."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from attar.facts import ModelFacts
from attar.student import StudentSettings
from attar.training_settings import TrainingSettings
from stages.base import Context, Cost, Stage, Use

if TYPE_CHECKING:
    from attar.model import Model
    from attar.writer import Writer


class Logit(StudentSettings, TrainingSettings, Stage):
    """Make a student of some of the incoming model's layers and train it towards the teacher's logits.

    The loss is alpha · T² · KL(teacher ‖ student at temperature T) + (1 − alpha) · cross-entropy on the text
    (Hinton et al., arXiv 1503.02531; for language models Minitron, arXiv 2407.14679, where KL at T = 1 alone did best).
    The student starts from the layers it keeps, embedding, final norm and head included, not from noise.
    """

    stage: Literal["distill.logit"] = "distill.logit"
    version: ClassVar[int] = 1
    uses: ClassVar[frozenset[Use]] = frozenset({"teacher", "train"})
    trains: ClassVar[bool] = True
    unhashed: ClassVar[frozenset[str]] = frozenset({"save_every"})

    def plan(self, facts: ModelFacts) -> ModelFacts:
        return self.student_facts(facts)

    def cost(self, facts: ModelFacts, teacher: ModelFacts) -> Cost:
        return Cost(*self.estimate(self.plan(facts), teacher))

    def apply(self, source: Model, out: Writer, context: Context) -> None:
        from attar.training import fit

        student = self.make_student(source, out.facts, context.torch_dtype, context.device)
        fit(student, source, self, context)
        out.module(student)
