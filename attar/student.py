"""Who learns: the settings that choose a student, equal for all ways to teach it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from attar.architecture import with_layers
from attar.errors import BadInput
from attar.facts import ModelFacts
from attar.shape import Shape

if TYPE_CHECKING:
    import torch
    from torch import nn

    from attar.model import Model

Index = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(gt=0)]


class StudentSettings(BaseModel):
    """The student of a distillation: layers of the incoming model, or all of it, a fresh model, or another one.

    A carved student starts from the layers it keeps, embedding, final norm and head included, not from noise. Another
    checkpoint takes the place of the incoming model; a fresh model has its family and tokenizer, and random weights.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    if TYPE_CHECKING:
        stage: str  # of the stage that these settings are part of

    student: Annotated[
        str,
        Field(
            min_length=1,
            description="who learns: carved (layers of the incoming model), previous (the incoming model as it is), "
            "fresh (random weights in the given shape), or another model as the recipe names one",
        ),
    ] = "carved"
    keep: Annotated[
        Count | Share | Annotated[list[Index], Field(min_length=1)],
        Field(description="layers a carved student keeps: how many or which fraction, evenly spaced, or their indices"),
    ] = 0.9
    shape: Annotated[
        Shape | None,
        Field(description="sizes of a fresh student: layers, hidden, ffn, heads, kv_heads, head_dim; else as incoming"),
    ] = None

    @model_validator(mode="after")
    def _shape_and_keep_apply(self) -> Self:
        if self.shape is not None and self.student != "fresh":
            raise ValueError(f"shape belongs to student=fresh, and student is {self.student}; leave shape out")
        if self.keep != type(self).model_fields["keep"].default and self.student != "carved":
            raise ValueError(
                f"keep={self.keep} belongs to student=carved, and student is {self.student}; leave keep out"
            )
        return self

    def student_spec(self) -> str | None:
        """The model that learns instead of the incoming one, as a recipe names it."""
        return None if self.student in ("carved", "previous", "fresh") else self.student

    def kept(self, layers: int) -> list[int]:
        """Indices of the layers that stay, or a sentence why there are none such."""
        if isinstance(self.keep, list):
            if sorted(set(self.keep)) != self.keep:
                raise BadInput(f"{self.stage}: keep={self.keep} must name each layer once, in rising order")
            if self.keep[-1] >= layers:
                raise BadInput(f"{self.stage}: keep names layer {self.keep[-1]}, the model ends with {layers - 1}")
            chosen = self.keep
        else:
            count = self.keep if isinstance(self.keep, int) else max(1, round(self.keep * layers))
            if count > layers:
                raise BadInput(f"{self.stage}: keep={count} asks for more layers than the {layers} of the model")
            # Even steps from the first to the last layer; both matter more than any between them.
            chosen = [round(i * (layers - 1) / max(1, count - 1)) for i in range(count)]
        if len(chosen) == layers:
            raise BadInput(f"{self.stage}: keep={self.keep} keeps all {layers} layers; student=previous does that")
        return chosen

    def student_facts(self, facts: ModelFacts) -> ModelFacts:
        """Facts of the student made of a model with these facts, or a sentence why there can be none."""
        if facts.quantization is not None:
            raise BadInput(
                f"{self.stage}: the incoming model holds packed integers, which do not learn; put {self.stage} before "
                "the quantization, or recover the quantized model with finetune.scales"
            )
        if self.student == "fresh":
            return (self.shape or Shape()).of(facts, self.stage).changed(dtype="bfloat16")
        if self.student != "carved":
            return facts.changed(dtype="bfloat16")
        kept = self.kept(facts.layers)
        return facts.changed(**with_layers(facts.config, kept, self.stage), dtype="bfloat16")

    def make_student(self, source: Model, promised: ModelFacts, dtype: torch.dtype, device: str) -> nn.Module:
        """The student as a module whose every weight learns; ``promised`` are its facts."""
        from attar.model import fresh, keep_layers

        if self.student == "fresh":
            return fresh(promised.config, dtype, device).requires_grad_(True)
        student = source.materialize(dtype, device)
        if self.student == "carved":
            keep_layers(student, promised.config, self.kept(source.facts.layers))
        return student.requires_grad_(True)
