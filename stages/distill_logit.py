"""distill.logit: a shallower student learns the next-token distributions of its teacher."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from attar.architecture import with_layers
from attar.errors import BadInput
from attar.facts import ModelFacts
from attar.training_settings import TrainingSettings
from stages.base import Context, Cost, Stage, Use

if TYPE_CHECKING:
    from attar.model import Model
    from attar.writer import Writer

Index = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(gt=0)]


class Logit(TrainingSettings, Stage):
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

    student: Annotated[
        Literal["carved", "previous"],
        Field(description="carved: layers of the incoming model; previous: the incoming model as it is"),
    ] = "carved"
    keep: Annotated[
        Count | Share | Annotated[list[Index], Field(min_length=1)],
        Field(description="layers a carved student keeps: how many or which fraction, evenly spaced, or their indices"),
    ] = 0.9

    def kept(self, layers: int) -> list[int]:
        """Indices of the layers that stay, or a sentence why there are none such."""
        if isinstance(self.keep, list):
            if sorted(set(self.keep)) != self.keep:
                raise BadInput(f"distill.logit: keep={self.keep} must name each layer once, in rising order")
            if self.keep[-1] >= layers:
                raise BadInput(f"distill.logit: keep names layer {self.keep[-1]}, the model ends with {layers - 1}")
            chosen = self.keep
        else:
            count = self.keep if isinstance(self.keep, int) else max(1, round(self.keep * layers))
            if count > layers:
                raise BadInput(f"distill.logit: keep={count} asks for more layers than the {layers} of the model")
            # Even steps from the first to the last layer; both matter more than any between them.
            chosen = [round(i * (layers - 1) / max(1, count - 1)) for i in range(count)]
        if len(chosen) == layers:
            raise BadInput(f"distill.logit: keep={self.keep} keeps all {layers} layers; student=previous does that")
        return chosen

    def plan(self, facts: ModelFacts) -> ModelFacts:
        if facts.quantization is not None:
            raise BadInput(
                "distill.logit: the incoming model holds packed integers, which do not learn; put distill.logit before "
                "the quantization, or recover the quantized model with finetune.scales"
            )
        if self.student == "previous":
            return facts.changed(dtype="bfloat16")
        kept = self.kept(facts.layers)
        return facts.changed(**with_layers(facts.config, kept, self.stage), dtype="bfloat16")

    def cost(self, facts: ModelFacts, teacher: ModelFacts) -> Cost:
        return Cost(*self.estimate(self.plan(facts), teacher))

    def apply(self, source: Model, out: Writer, context: Context) -> None:
        from attar.model import keep_layers
        from attar.training import fit

        student = source.materialize(context.torch_dtype, context.device)
        if self.student == "carved":
            keep_layers(student, out.facts.config, self.kept(source.facts.layers))
        student.requires_grad_(True)
        fit(student, source, self, context)
        out.module(student)
