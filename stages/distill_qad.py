"""distill.qad: a model learns on its quantization grid, taught by the unquantized one."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from attar import architecture
from attar.encoding import packed_facts
from attar.errors import BadInput, ProofFailed
from attar.facts import ModelFacts
from attar.training_settings import TrainingSettings
from stages.base import Context, Cost, Stage, Use

if TYPE_CHECKING:
    from torch import nn

    from attar.model import Model
    from attar.straight_through import StraightThroughLinear
    from attar.writer import Writer

ROUNDING = 2000  # FLOPs in whose time a weight is rounded, forward and backward, in one step
SAME = 1e-5  # of the largest logit, in fp32: two ways to multiply by the same weights
BITS, GROUP_SIZE, SYMMETRIC = 4, 64, False  # of a grid on a dense model that the settings leave open


class Qad(TrainingSettings, Stage):
    """Quantization-aware distillation: every forward runs on the grid, the weights behind it learn from the teacher.

    The student multiplies by exactly what the packed file would hold, the gradient passes the rounding as if it were
    the identity, and the loss is the divergence from the unquantized teacher: LLM-QAT (arXiv 2305.17888), BitDistiller
    (arXiv 2402.10631), and for inference formats NVIDIA's QAD (arXiv 2601.20088). The scales learn beside the weights,
    as in EfficientQAT (arXiv 2407.11062). Unlike finetune.scales this changes the integers as well.

    The weights learn in steps of their grid: step_learning_rate = 0.01 moves a weight by at most a hundredth of a step
    each time. A dense model starts at its weights and the grid found for them; a quantized one at its own grid, every
    weight in the middle of its cell, half a step from the next integer. At the end the integers and scales of the last
    forward are the file.
    """

    stage: Literal["distill.qad"] = "distill.qad"
    version: ClassVar[int] = 1
    uses: ClassVar[frozenset[Use]] = frozenset({"teacher", "train"})
    trains: ClassVar[bool] = True
    unhashed: ClassVar[frozenset[str]] = frozenset({"save_every"})

    bits: Annotated[
        int | None, Field(description=f"bits of a weight; none: those of a quantized model, {BITS} for a dense one")
    ] = None
    group_size: Annotated[
        int | None,
        Field(
            description="inputs that share a scale and a zero point; none: that of a quantized model, "
            f"{GROUP_SIZE} for a dense one"
        ),
    ] = None
    symmetric: Annotated[
        bool | None,
        Field(description="zero point in the middle; none: as in a quantized model, off for a dense one"),
    ] = None
    mse: Annotated[
        bool, Field(description="start a dense model's grid where its rounding error (norm 2.4) is least")
    ] = True
    scales: Annotated[
        Literal["learned", "fixed", "recomputed"],
        Field(description="learned by gradient, kept as they start, or spanning each group's weights in every forward"),
    ] = "learned"
    step_learning_rate: Annotated[
        float,
        Field(
            gt=0,
            le=1,
            description="peak learning rate of the weights, in steps of the grid; recomputed grids take learning_rate",
        ),
    ] = 5e-3
    scale_learning_rate: Annotated[
        float, Field(gt=0, le=1, description="peak learning rate of learned scales, which are far smaller than weights")
    ] = 1e-5
    norms: Annotated[bool, Field(description="norms and biases learn as well")] = True
    embeddings: Annotated[bool, Field(description="the embedding, and a head of its own, learn as well")] = True
    output: Annotated[
        Literal["packed", "dense"],
        Field(description="packed: a GPTQ file; dense: the values of the grid as ordinary weights"),
    ] = "packed"

    def learning(self, facts: ModelFacts) -> frozenset[str]:
        """Names of the tensors that learn: those of a dense model, and the scales of its grid."""
        config = facts.config
        linears, every = architecture.linear_modules(config), architecture.tensors(config).keys()
        weights = {f"{name}.weight" for name in linears}
        around = (architecture.embeddings(config) | {architecture.family(config).head}) & every
        found = weights | ({f"{name}.scales" for name in linears} if self.scales == "learned" else set())
        if self.norms:
            found |= every - weights - around
        return frozenset(found | around if self.embeddings else found)

    def plan(self, facts: ModelFacts) -> ModelFacts:
        if facts.adapter is not None:
            raise BadInput(
                "distill.qad: the incoming model has an adapter beside its integers, which a grid cannot take up; put "
                "distill.qad before finetune.lora"
            )
        packed = self._packed(facts)
        return packed if self.output == "packed" else packed.changed(quantization_config=None)

    def _packed(self, facts: ModelFacts) -> ModelFacts:
        if facts.quantization is None:
            bits = BITS if self.bits is None else self.bits
            group_size = GROUP_SIZE if self.group_size is None else self.group_size
            details: dict[str, Any] = {"method": "qad", "mse": self.mse, "scales": self.scales}
            return packed_facts(facts, self.stage, bits, group_size, bool(self.symmetric), details)
        for name in ("bits", "group_size", "symmetric"):
            asked, found = getattr(self, name), getattr(facts.quantization, name)
            if asked is not None and asked != found:
                raise BadInput(
                    f"distill.qad: {name}={asked} is not that of the incoming model, which is quantized with "
                    f"{name}={found}; leave {name} out to go on with its grid, or put distill.qad in place of the "
                    "stage that quantizes"
                )
        return facts.changed(dtype="bfloat16")

    def starts_as_source(self, facts: ModelFacts) -> bool:
        return facts.quantization is not None and self.scales != "recomputed"

    def cost(self, facts: ModelFacts, teacher: ModelFacts) -> Cost:
        linears = architecture.linear_modules(facts.config)
        shapes = {name: fact.shape for name, fact in self._packed(facts).tensors().items()}
        shapes |= architecture.tensors(facts.config)
        learning = sum(prod(shapes[name]) for name in self.learning(facts))
        flops, memory, state, cache = self.estimate(facts, teacher, learning)
        weights = sum(prod(shape) for shape in linears.values())
        searching = 2000.0 * weights if self.mse and facts.quantization is None else 0.0
        rounding = float(ROUNDING) * weights * self.steps
        temporary = 5 * 4 * max(prod(shape) for shape in linears.values())
        kept = temporary + weights  # the first integers are kept
        return Cost(flops + rounding + searching, memory + kept, state, cache)

    def apply(self, source: Model, out: Writer, context: Context) -> None:
        from attar.straight_through import put_on_grid
        from attar.training import fit

        student = source.materialize(context.torch_dtype, context.device)
        quantization = self._packed(source.facts).quantization
        assert quantization is not None
        on_grid = put_on_grid(student, source, quantization, self.mse, recomputed=self.scales == "recomputed")
        learning = {architecture.parameter(source.facts.config, name) for name in self.learning(source.facts)}
        for name, parameter in student.named_parameters():
            parameter.requires_grad_(name in learning)
        rates = {f"{name}.scales": self.scale_learning_rate for name in on_grid}
        if self.scales != "recomputed":
            rates |= {f"{name}.weight": self.step_learning_rate for name in on_grid}
        first = {name: linear.codes() for name, linear in on_grid.items()}
        fit(student, source, self, context, rates)
        changed = sum(int((first.pop(name) != linear.codes()).sum()) for name, linear in on_grid.items())
        self._tell(changed / sum(linear.weight.numel() for linear in on_grid.values()), context)
        self._leave_grid(student, on_grid, out.facts.vocabulary, context)
        out.module(student)

    def _leave_grid(
        self, student: nn.Module, on_grid: dict[str, StraightThroughLinear], vocabulary: int, context: Context
    ) -> None:
        """Exchange what learned for what is stored, and prove that both are one function."""
        import torch

        from attar import probe
        from attar.packed import PackedLinear

        expected = probe.logits(student.float(), vocabulary)
        for name, linear in on_grid.items():
            left = linear.packed(torch.float32) if self.output == "packed" else linear.dense()
            if isinstance(left, PackedLinear) and not torch.equal(left.dequantize(), linear.dequantize()):
                raise ProofFailed(f"the integers of {name} stand for other weights than the last forward used")
            student.set_submodule(name, left)
        difference = float((probe.logits(student, vocabulary) - expected).abs().max() / expected.abs().max())
        if not difference <= SAME:
            raise ProofFailed(
                f"the stored model is not the one that learned: logits differ by {difference:.2g} of the largest one, "
                f"{SAME:g} is allowed"
            )
        context.report("qad/difference_from_training", difference)

    def _tell(self, changed: float, context: Context) -> None:
        context.report("qad/integers_changed", changed)
        context.log(f"{changed:.2%} of the integers changed")
        if not changed:
            context.log(
                "no weight left its place on the grid, so only what surrounds the integers has learned; a higher "
                "step_learning_rate or more train_tokens moves them (finetune.scales does the same for less)",
                level="warning",
            )
