"""Settings that every training stage shares, and the arithmetic that follows from them. Torch-free."""

from math import ceil, cos, pi
from typing import Annotated, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from attar.facts import ModelFacts

PROCESS = 1_000_000_000  # bytes of a process that has imported everything and computed a little
LEARNING = 14  # bytes a learning parameter takes beside its weight: fp32 master, two moments, bf16 gradient


class TrainingSettings(BaseModel):
    """How long, how fast and towards what a stage trains."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    caches: ClassVar[bool] = True  # whether the stage reads whole windows of text, which is what a teacher cache holds

    teacher: Annotated[
        str, Field(min_length=1, description="who teaches: origin, previous, or a model as the recipe names one")
    ] = "origin"
    train_tokens: Annotated[
        int, Field(gt=0, description="tokens to train on, rounded up to whole batches; short text is read again")
    ] = 40_000
    batch: Annotated[int, Field(gt=0, le=4096, description="windows per step")] = 4
    length: Annotated[int, Field(ge=8, le=32768, description="tokens per window")] = 256
    learning_rate: Annotated[float, Field(gt=0, le=1, description="peak learning rate of AdamW")] = 1e-4
    warmup: Annotated[float, Field(ge=0, lt=1, description="fraction of the steps that the rate rises over")] = 0.05
    schedule: Annotated[
        Literal["cosine", "linear", "constant"], Field(description="how the rate falls after the warm-up")
    ] = "cosine"
    alpha: Annotated[
        float,
        Field(ge=0, le=1, description="weight of the divergence from the teacher; the rest is cross-entropy"),
    ] = 1.0
    temperature: Annotated[
        float, Field(gt=0, le=100, description="T of both softmaxes in the divergence, which is scaled by T²")
    ] = 1.0
    divergence: Annotated[
        Literal["forward", "reverse", "jsd", "skew"],
        Field(description="KL(teacher ‖ student), KL(student ‖ teacher), generalised Jensen-Shannon, or skewed KL"),
    ] = "forward"
    beta: Annotated[
        float,
        Field(gt=0, lt=1, description="β of divergence=jsd: near 0 it goes the way of forward, near 1 of reverse"),
    ] = 0.5
    skew: Annotated[
        float, Field(ge=0, lt=1, description="λ of divergence=skew: the teacher's share in what it is compared with")
    ] = 0.1
    cache: Annotated[
        Literal["none", "hidden", "topk"],
        Field(
            description="what is kept of the teacher, so that it is asked once and serves every run on the same text: "
            "its last hidden states (exact at every temperature), or its top_k likeliest tokens at this temperature "
            "and the sum of the rest"
        ),
    ] = "none"
    top_k: Annotated[int, Field(gt=0, le=4096, description="tokens that cache=topk keeps of each prediction")] = 32
    weight_decay: Annotated[float, Field(ge=0, le=1, description="decoupled weight decay of matrices")] = 0.0
    clip: Annotated[float, Field(ge=0, description="largest norm of the whole gradient; 0 does not clip")] = 1.0
    save_every: Annotated[
        int, Field(gt=0, description="steps between two saves of the training state (never changes the numbers)")
    ] = 25

    @model_validator(mode="after")
    def _every_setting_applies(self) -> Self:
        fields = type(self).model_fields
        for name, owner, value in (
            ("beta", "divergence", "jsd"),
            ("skew", "divergence", "skew"),
            ("top_k", "cache", "topk"),
        ):
            given, chosen = getattr(self, name), getattr(self, owner)
            if given != fields[name].default and chosen != value:
                raise ValueError(
                    f"{name}={given} belongs to {owner}={value}, and {owner} is {chosen}; leave {name} out or set "
                    f"{owner}: {value}"
                )
        if self.cache != "none" and not self.caches:
            raise ValueError(f"cache={self.cache} is for stages that read whole windows of text; leave it out")
        if self.cache != "none" and self.alpha == 0:
            raise ValueError(
                f"cache={self.cache} keeps what a teacher says, and alpha=0 asks none; leave the cache out"
            )
        return self

    @property
    def mix(self) -> float:
        """The teacher's weight in the mixture of jsd or skew."""
        return self.beta if self.divergence == "jsd" else self.skew

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole training."""
        return ceil(self.train_tokens / (self.batch * self.length))

    @property
    def windows(self) -> int:
        """Windows that the whole training reads, each one counted every time."""
        return self.steps * self.batch

    def rate_factor(self, step: int) -> float:
        """Share of the peak learning rate at a step counted from 0; never 0."""
        warm = round(self.warmup * self.steps)
        if step < warm:
            return (step + 1) / (warm + 1)
        left = 1 - (step - warm) / max(1, self.steps - warm)  # 1 at the end of the warm-up, above 0 at the last step
        if self.schedule == "cosine":
            return (1 - cos(pi * left)) / 2
        return left if self.schedule == "linear" else 1.0

    def teacher_spec(self) -> str | None:
        """Which model teaches; none does when only the text counts."""
        return self.teacher if self.alpha > 0 else None

    def tokens(self) -> dict[Literal["train", "calibration"], tuple[int, int]]:
        """Split → (windows, tokens a window) that the training asks for."""
        return {"train": (self.windows, self.length)}

    def estimate(
        self, student: ModelFacts, teacher: ModelFacts, learning: int | None = None
    ) -> tuple[float, int, int, int]:
        """FLOPs of all steps, bytes at the peak of the process, of the saved state, and of a new teacher cache.

        Args:
            student, teacher: facts.
            learning: parameters that learn; all of them by default.
        """
        asked = teacher.parameters if self.alpha > 0 else 0
        tokens = self.windows * self.length
        flops = float(tokens) * (6 * student.parameters + 2 * asked)  # a cache asks the teacher as often, in one go
        learning = student.parameters if learning is None else learning
        # Of a layer, autograd keeps some twelve tensors as wide as the hidden states and five as wide as the FFN.
        kept = self.batch * self.length * student.layers * (12 * student.hidden + 5 * student.ffn) * 2
        training = 2 * student.parameters + LEARNING * learning + kept + (1024 + 256) * student.vocabulary * 2
        state = 12 * learning  # fp32 master and two moments
        if self.cache == "none" or not asked:
            return flops, PROCESS + training + 2 * asked, state, 0
        head = teacher.vocabulary * teacher.hidden
        if self.cache == "hidden":
            flops += 2.0 * tokens * head
            training += 2 * head
        making = 2 * student.parameters + 2 * asked
        a_token = cache_bytes(self.cache, self.top_k, teacher.hidden)
        return flops, PROCESS + max(training, making), state, self.windows * (self.length - 1) * a_token


def cache_bytes(what: Literal["hidden", "topk"], top_k: int, width: int, item: int = 2) -> int:
    """Bytes that one prediction of a teacher of this width takes in a cache; ``item``: bytes of a hidden state's
    element. A top token is an index and an fp32 log-probability, and there is one more of the latter for the rest."""
    return width * item if what == "hidden" else 8 * top_k + 4
