"""finetune.lora: low-rank matrices beside the linears learn, the model itself is frozen."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from attar.adapter import Adapter, choose_modules
from attar.architecture import linear_modules
from attar.errors import BadInput, ProofFailed
from attar.facts import ModelFacts
from attar.training_settings import TrainingSettings
from stages.base import Context, Cost, Stage, Use

if TYPE_CHECKING:
    from torch import nn

    from attar.model import Model
    from attar.writer import Writer

MERGED = 1e-4  # of the largest logit, in fp32: what adding the product to the weight instead of the output may change
ROUNDED = 0.5  # of the adapter's effect on the logits: more than that lost to the stored precision is worth a warning


class Lora(TrainingSettings, Stage):
    """Recover or adapt a model through an adapter: y = W x + s · B A x with A [r, in], B [out, r] and W frozen.

    LoRA (Hu et al., arXiv 2106.09685), on integers QLoRA (arXiv 2305.14314). On a dense model the product is added to
    the weights at the end: the result is an ordinary dense model. On packed integers it cannot be, so the adapter stays
    beside them, a standard folder for peft; runtimes that are not told of it ignore it, which finetune.scales avoids.

    B starts at zero, so the model's function does too. A's gradient is therefore zero in the first step, and at least
    two are needed before every matrix has learned.
    """

    stage: Literal["finetune.lora"] = "finetune.lora"
    version: ClassVar[int] = 1
    uses: ClassVar[frozenset[Use]] = frozenset({"teacher", "train"})
    trains: ClassVar[bool] = True
    unhashed: ClassVar[frozenset[str]] = frozenset({"save_every"})

    r: Annotated[int, Field(ge=1, le=1024, description="rank of the adapter's matrices")] = 8
    lora_alpha: Annotated[
        float, Field(gt=0, le=10_000, description="strength: the adapter's output is scaled by lora_alpha / r")
    ] = 16.0
    use_rslora: Annotated[
        bool, Field(description="scale by lora_alpha / √r, so that the rate needs no change with the rank")
    ] = False
    lora_dropout: Annotated[
        float, Field(ge=0, lt=1, description="share of the adapter's inputs that is zeroed while training")
    ] = 0.0
    target_modules: Annotated[
        list[Annotated[str, Field(min_length=1)]],
        Field(
            min_length=1,
            description="linears that get an adapter, as patterns over their names or the ends of them: q_proj, mlp.*, "
            "layers.3.*; all by default",
        ),
    ] = ["*"]  # noqa: RUF012 - a frozen model's default, copied by pydantic
    learning_rate: Annotated[float, Field(gt=0, le=1, description="peak learning rate of AdamW")] = 1e-3

    def adapter(self, facts: ModelFacts) -> Adapter:
        """The adapter on a model with these facts, or a sentence why there is none such."""
        modules = choose_modules(self.target_modules, facts.config, self.stage)
        shapes = linear_modules(facts.config)
        narrowest = min(modules, key=lambda name: min(shapes[name]))
        if self.r > min(shapes[narrowest]):
            raise BadInput(
                f"finetune.lora: r={self.r} is more than the rank of {narrowest}, which has {min(shapes[narrowest])}; "
                "choose a lower r or other target_modules"
            )
        return Adapter(self.r, self.lora_alpha, modules, self.use_rslora, self.lora_dropout)

    def plan(self, facts: ModelFacts) -> ModelFacts:
        if facts.adapter is not None:
            raise BadInput(
                f"finetune.lora: the incoming model has an adapter of rank {facts.adapter.r} already and a second one "
                "is no standard file; train the first one longer, or go on with finetune.scales, which keeps it"
            )
        if self.steps < 2:
            raise BadInput(
                f"finetune.lora: train_tokens={self.train_tokens} makes one step, in which only B learns (A's gradient "
                f"is zero while B is); ask for more than {self.batch * self.length} tokens"
            )
        found = self.adapter(facts)
        return replace(facts.changed(dtype="bfloat16"), adapter=found if facts.quantization else None)

    def starts_as_source(self, facts: ModelFacts) -> bool:
        return True

    def cost(self, facts: ModelFacts, teacher: ModelFacts) -> Cost:
        found = self.adapter(facts)
        learning = sum(prod(shape) for shape in found.tensors(facts.config).values())
        flops, memory, state, cache = self.estimate(facts, teacher, learning)
        frozen = 2.0 * facts.parameters * self.windows * self.length  # gradients of weights that are never asked for
        widened = 4 * facts.parameters  # logits are compared in fp32 at the end
        return Cost(flops - frozen + 6.0 * learning * self.windows * self.length, memory + widened, state, cache)

    def apply(self, source: Model, out: Writer, context: Context) -> None:
        from attar import lora, probe
        from attar.training import fit

        student = source.materialize(context.torch_dtype, context.device).requires_grad_(False)
        before = probe.logits(student, source.facts.vocabulary)
        found = self.adapter(source.facts)
        untrained = lora.fresh(found, source.facts.config, context.seed)
        lora.attach(student, found, untrained.__getitem__, context.torch_dtype, context.device)
        if not before.equal(probe.logits(student, source.facts.vocabulary)):
            raise ProofFailed("the untrained adapter changes the model's function, its B should be zero")
        for part in lora.adapters(student).values():
            part.train().requires_grad_(True)
        fit(student, source, self, context)
        student.eval()
        if out.facts.adapter is None:
            self._merge(student, out, context)
        else:
            out.module(student)

    def _merge(self, student: nn.Module, out: Writer, context: Context) -> None:
        """Write the merged model, and prove that it is the adapted one."""
        from attar import lora, probe

        vocabulary = out.facts.vocabulary
        adapted = probe.logits(student.float(), vocabulary)
        with lora.switched_off(student):
            before = probe.logits(student, vocabulary)
        lora.merge(student)
        difference = float((probe.logits(student, vocabulary) - adapted).abs().max() / adapted.abs().max())
        if not difference <= MERGED:
            raise ProofFailed(
                f"merging the adapter changed the function: logits differ by {difference:.2g} of the largest one, "
                f"{MERGED:g} is allowed"
            )
        out.module(student)  # rounds to the stored precision
        assert out.probe_logits is not None
        lost = float((out.probe_logits - adapted).norm() / (adapted - before).norm())
        context.report("lora/merge_difference", difference)
        context.report("lora/rounded_away", lost)
        if lost > ROUNDED:
            context.log(
                f"rounding the merged weights to {out.facts.dtype} changed the logits by {lost:.0%} of what the "
                "adapter did; a higher learning_rate or more train_tokens moves the weights further",
                level="warning",
            )
