"""distill.logit: a smaller student learns the next-token distributions of its teacher."""

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
    """Train a student towards the teacher's logits: made of the incoming model's layers, another model, or fresh.

    The loss is alpha · T² · KL(teacher ‖ student at temperature T) + (1 − alpha) · cross-entropy on the text
    (Hinton et al., arXiv 1503.02531; for language models Minitron, arXiv 2407.14679, where KL at T = 1 alone did best).
    Other divergences (generalised Jensen-Shannon, arXiv 2306.13649; skewed, arXiv 2402.03898) are settings.

    The teacher needs the student's tokenizer. With a cache it is asked once for every run on the same text.
    """

    stage: Literal["distill.logit"] = "distill.logit"
    version: ClassVar[int] = 2
    uses: ClassVar[frozenset[Use]] = frozenset({"teacher", "train"})
    trains: ClassVar[bool] = True
    unhashed: ClassVar[frozenset[str]] = frozenset({"save_every"})

    def plan(self, facts: ModelFacts) -> ModelFacts:
        return self.student_facts(facts)

    def starts_as_source(self, facts: ModelFacts) -> bool:
        return self.student != "fresh" and super().starts_as_source(facts)

    def cost(self, facts: ModelFacts, teacher: ModelFacts) -> Cost:
        return Cost(*self.estimate(self.plan(facts), teacher))

    def apply(self, source: Model, out: Writer, context: Context) -> None:
        from attar.training import fit

        student = self.make_student(source, out.facts, context.torch_dtype, context.device)
        fit(student, source, self, context)
        out.module(student)
