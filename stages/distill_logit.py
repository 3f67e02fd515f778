"""distill.logit: a smaller student learns the next-token distributions of its teacher."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from attar.errors import BadInput
from attar.facts import ModelFacts
from attar.shape import Shape
from attar.training_settings import TrainingSettings
from stages.base import Context, Cost, Stage, Use

if TYPE_CHECKING:
    from attar.model import Model
    from attar.writer import Writer

Index = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(gt=0)]


class Logit(TrainingSettings, Stage):
    """Train a student towards the teacher's logits: made of the incoming model's layers, another model, or fresh.

    The loss is alpha · T² · KL(teacher ‖ student at temperature T) + (1 − alpha) · cross-entropy on the text
    (Hinton et al., arXiv 1503.02531; for language models Minitron, arXiv 2407.14679, where KL at T = 1 alone did best).
    A carved student starts from the layers it keeps, embedding, final norm and head included, not from noise. One that
    is another checkpoint takes the place of the incoming model; a fresh one has its family and its tokenizer, and
    weights drawn from the seed. All need the teacher's tokenizer.
    """

    stage: Literal["distill.logit"] = "distill.logit"
    version: ClassVar[int] = 2
    uses: ClassVar[frozenset[Use]] = frozenset({"teacher", "train"})
    trains: ClassVar[bool] = True
    unhashed: ClassVar[frozenset[str]] = frozenset({"save_every"})

    student: Annotated[
        str,
        Field(
            min_length=1,
            description="who learns: carved (layers of the incoming model), previous (the incoming model as it is), "
            "fresh (random weights in the given shape), or another model as the recipe names one",
        ),
    ] = "carved"
    shape: Annotated[
        Shape | None,
        Field(description="sizes of a fresh student: layers, hidden, ffn, heads, kv_heads, head_dim; else as incoming"),
    ] = None
    keep: Annotated[
        Count | Share | Annotated[list[Index], Field(min_length=1)],
        Field(description="layers a carved student keeps: how many or which fraction, evenly spaced, or their indices"),
    ] = 0.9

    @model_validator(mode="after")
    def _shape_applies(self) -> Self:
        if self.shape is not None and self.student != "fresh":
            raise ValueError(f"shape belongs to student=fresh, and student is {self.student}; leave shape out")
        return self

    def student_spec(self) -> str | None:
        return None if self.student in ("carved", "previous", "fresh") else self.student

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
        if self.student == "fresh":
            return (self.shape or Shape()).of(facts, "distill.logit").changed(dtype="bfloat16")
        if self.student != "carved":
            return facts.changed(dtype="bfloat16")
        kept = self.kept(facts.layers)
        kinds = facts.config.get("layer_types")
        per_layer: dict[str, Any] = {"layer_types": [kinds[i] for i in kept]} if kinds else {}
        return facts.changed(num_hidden_layers=len(kept), dtype="bfloat16", **per_layer)

    def cost(self, facts: ModelFacts, teacher: ModelFacts) -> Cost:
        return Cost(*self.estimate(self.plan(facts), teacher))

    def apply(self, source: Model, out: Writer, context: Context) -> None:
        from attar.model import fresh
        from attar.training import fit

        if self.student == "fresh":
            student = fresh(out.facts, context.torch_dtype, context.device, context.seed)
        else:
            student = source.materialize(context.torch_dtype, context.device)
            if self.student == "carved":
                _carve(student, self.kept(source.facts.layers), out.facts)
        student.requires_grad_(True)
        fit(student, source, self, context)
        out.module(student)


def _carve(student: Any, kept: list[int], promised: ModelFacts) -> None:
    """Leave only the layers ``kept``, in place."""
    from torch import nn

    layers = student.model.layers
    student.model.layers = nn.ModuleList(layers[i] for i in kept)
    for index, layer in enumerate(student.model.layers):
        layer.self_attn.layer_idx = index
    student.config.num_hidden_layers = len(kept)
    if "layer_types" in promised.config:
        student.config.layer_types = list(promised.config["layer_types"])
