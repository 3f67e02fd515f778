"""finetune.scales: the integers of a quantized model stay, everything around them learns."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from attar import architecture
from attar.errors import BadInput
from attar.facts import ModelFacts
from attar.training_settings import TrainingSettings
from stages.base import Context, Cost, Stage, Use

if TYPE_CHECKING:
    from attar.model import Model
    from attar.writer import Writer


class Scales(TrainingSettings, Stage):
    """Recover a quantized model: group scales, norms and embedding learn, the integers are not touched.

    The file stays a standard GPTQ file, no adapter beside it, and every runtime that opens the source opens the
    result. Learning the scales end to end is the second phase of EfficientQAT (arXiv 2407.11062); doing it by KL to the
    unquantized model needs no labels.
    """

    stage: Literal["finetune.scales"] = "finetune.scales"
    version: ClassVar[int] = 2
    uses: ClassVar[frozenset[Use]] = frozenset({"teacher", "train"})
    trains: ClassVar[bool] = True
    unhashed: ClassVar[frozenset[str]] = frozenset({"save_every"})

    scales: Annotated[bool, Field(description="the scales of the groups learn")] = True
    norms: Annotated[bool, Field(description="the norms learn")] = True
    embeddings: Annotated[bool, Field(description="the embedding, and a head of its own, learn")] = True
    scale_learning_rate: Annotated[
        float, Field(gt=0, le=1, description="peak learning rate of the scales, which are far smaller than weights")
    ] = 1e-5

    def learning(self, facts: ModelFacts) -> frozenset[str]:
        """Names of the tensors that learn."""
        family = architecture.family(facts.config)
        found = frozenset(name for name in facts.tensors() if self.scales and name.endswith(".scales"))
        if self.norms:
            found |= architecture.norms(facts.config)
        if self.embeddings:
            found |= (architecture.embeddings(facts.config) | {family.head}) & facts.tensors().keys()
        return found

    def plan(self, facts: ModelFacts) -> ModelFacts:
        if facts.quantization is None:
            raise BadInput(
                "finetune.scales: the incoming model is dense and has no scales; put a quantize stage before it, or "
                "use finetune.full"
            )
        if not (self.scales or self.norms or self.embeddings):
            raise BadInput("finetune.scales: scales, norms and embeddings are all off, so nothing would learn")
        return facts.changed(dtype="bfloat16")

    def cost(self, facts: ModelFacts, teacher: ModelFacts) -> Cost:
        tensors = facts.tensors()
        learning = sum(prod(tensors[name].shape) for name in self.learning(facts))
        return Cost(*self.estimate(facts, teacher, learning))

    def apply(self, source: Model, out: Writer, context: Context) -> None:
        from attar.training import fit

        student = source.materialize(context.torch_dtype, context.device)
        learning = {architecture.parameter(source.facts.config, name) for name in self.learning(source.facts)}
        for name, parameter in student.named_parameters():
            parameter.requires_grad_(name in learning)
        rates = {n: self.scale_learning_rate for n, _ in student.named_parameters() if n.endswith(".scales")}
        fit(student, source, self, context, rates)
        out.module(student)
