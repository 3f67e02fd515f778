"""distill.response: a student learns to give its teacher's answers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from attar.architecture import require_length
from attar.errors import BadInput
from attar.facts import ModelFacts
from attar.fingerprint import sha256_file
from attar.student import StudentSettings
from attar.training_settings import TrainingSettings
from stages.base import Context, Cost, Stage, Use

if TYPE_CHECKING:
    from attar.model import Model
    from attar.responses.pairs import Pair
    from attar.writer import Writer

PREVIOUS = "previous"


class Response(StudentSettings, TrainingSettings, Stage):
    """Train a student on pairs of prompt and answer, by cross-entropy on the answers; the prompts are context only.

    The pairs are those of the stage generate.responses before it, or a file's, and may be mixed with pairs written by
    people. This is sequence-level distillation (Kim and Rush, arXiv 1606.07947): the teacher may have any tokenizer.
    alpha > 0 mixes in the divergence from a teacher of the same tokenizer on the very tokens of the answers. Answers
    made with the template ``reasoning`` teach chains of thought (Ho et al., arXiv 2212.10071).
    """

    stage: Literal["distill.response"] = "distill.response"
    version: ClassVar[int] = 2
    uses: ClassVar[frozenset[Use]] = frozenset({"teacher", "responses"})
    trains: ClassVar[bool] = True
    caches: ClassVar[bool] = False
    # The files count by their content, among the inputs.
    unhashed: ClassVar[frozenset[str]] = frozenset({"save_every", "responses", "human"})

    responses: Annotated[
        str,
        Field(
            min_length=1,
            description="pairs to learn from: previous (of the last generate.responses before this stage), or a .jsonl "
            "or .parquet file with prompt (or messages) and answer",
        ),
    ] = PREVIOUS
    human: Annotated[
        str | None, Field(min_length=1, description="file of pairs written by people, of the same form, to mix in")
    ] = None
    human_ratio: Annotated[float, Field(ge=0, lt=1, description="share of the pairs read that are people's")] = 0.0
    batch: Annotated[
        int, Field(gt=0, le=4096, description="a step reads as many pairs as fit into batch · length tokens")
    ] = 4
    length: Annotated[int, Field(ge=8, le=32768, description="tokens of a pair at most, prompt included")] = 512
    alpha: Annotated[
        float,
        Field(ge=0, le=1, description="weight of the divergence from the teacher; the rest is cross-entropy"),
    ] = 0.0

    def plan(self, facts: ModelFacts) -> ModelFacts:
        if (self.human is None) != (self.human_ratio == 0):
            raise BadInput(
                f"distill.response: human={self.human!r} and human_ratio={self.human_ratio:g} go together; name a file "
                "and a ratio above 0, or neither"
            )
        require_length(facts.config, self.length, f"distill.response: length={self.length}")
        return self.student_facts(facts)

    def starts_as_source(self, facts: ModelFacts) -> bool:
        return self.student != "fresh" and super().starts_as_source(facts)

    def cost(self, facts: ModelFacts, teacher: ModelFacts) -> Cost:
        return Cost(*self.estimate(self.plan(facts), teacher))

    def tokens(self) -> dict[Literal["train", "calibration"], tuple[int, int]]:
        return {}

    def needs(self) -> frozenset[Use]:
        return self.uses if self.responses == PREVIOUS else self.uses - {"responses"}

    def named_inputs(self) -> dict[str, str]:
        named = {"responses": None if self.responses == PREVIOUS else self.responses, "human": self.human}
        files = {role: Path(name).expanduser() for role, name in named.items() if name is not None}
        for file in files.values():
            self._read(file)
        return {role: sha256_file(file) for role, file in files.items()}

    def apply(self, source: Model, out: Writer, context: Context) -> None:
        from attar.responses.fitting import fit_pairs
        from attar.responses.pairs import FILE

        if self.responses != PREVIOUS:
            pairs = self._read(Path(self.responses).expanduser())
        elif context.responses is not None:
            pairs = self._read(context.responses / FILE)
        else:
            raise BadInput("distill.response: there are no responses to learn from; put generate.responses before it")
        human = [] if self.human is None else self._read(Path(self.human).expanduser())
        student = self.make_student(source, out.facts, context.torch_dtype, context.device)
        fit_pairs(student, source, pairs, human, self.human_ratio, self, context)
        out.module(student)

    def _read(self, file: Path) -> list[Pair]:
        from attar.responses.pairs import read_pairs

        try:
            return read_pairs(file)
        except BadInput as error:
            raise BadInput(f"distill.response: {error}") from None
