"""generate.responses: a teacher answers prompts; what is worth learning from becomes a dataset."""

from __future__ import annotations

from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from attar.errors import BadInput
from attar.facts import ModelFacts
from attar.fingerprint import hash_json, sha256_file
from attar.responses.settings import Endpoint
from stages.base import Context, Cost, Makes, Stage, Use

if TYPE_CHECKING:
    from attar.model import Model
    from attar.responses.answers import Answer, AnswerLog
    from attar.responses.decoding import Decoding
    from attar.responses.prompts import Prompt

MADE = 400  # prompts made from the data when no number is given
ASKED = 256  # tokens of a prompt, for estimates
DECODING = 4  # a decoded token waits for the weights: it takes that many times what its FLOPs would


class Responses(Stage):
    """Let a teacher answer prompts, and keep the good answers as a dataset for distill.response.

    Learning from a teacher's texts is sequence-level distillation (Kim and Rush, arXiv 1606.07947); it asks nothing of
    the teacher's tokenizer, nor for its weights. The model of the recipe passes unchanged. Dropped, and counted, are
    answers that are empty, cut off, or near duplicates of one before, and with the template ``reasoning`` those without
    a final answer or with a wrong one. A killed stage goes on after the last answer that it got.
    """

    stage: Literal["generate.responses"] = "generate.responses"
    version: ClassVar[int] = 2
    makes: ClassVar[Makes] = "dataset"
    uses: ClassVar[frozenset[Use]] = frozenset({"teacher", "train", "names"})
    # Counted by content, among the inputs.
    unhashed: ClassVar[frozenset[str]] = frozenset({"prompts", "endpoint"})

    teacher: Annotated[
        str, Field(min_length=1, description="who answers: origin, previous, or a model as the recipe names one")
    ] = "origin"
    endpoint: Annotated[
        Endpoint | None, Field(description="a server that answers in the place of the teacher (OpenAI's chat format)")
    ] = None
    prompts: Annotated[
        str | None,
        Field(
            min_length=1,
            description="file of prompts: .txt (one a line), .jsonl or .parquet; none: made from the training text",
        ),
    ] = None
    column: Annotated[
        str, Field(min_length=1, description="column of the file that holds the prompt, as text or as messages")
    ] = "prompt"
    right: Annotated[
        str, Field(min_length=1, description="column that may hold the right answer, for the template reasoning")
    ] = "answer"
    count: Annotated[
        int | None, Field(gt=0, description=f"prompts asked at most; none: all of a file, {MADE} from the text")
    ] = None
    template: Annotated[
        Literal["plain", "reasoning"],
        Field(description="ask as it stands, or for the reasoning first and the final answer in a fixed form"),
    ] = "plain"
    max_new_tokens: Annotated[int, Field(ge=1, le=131_072, description="tokens of an answer at most")] = 128
    temperature: Annotated[float, Field(ge=0, le=10, description="of the sampling; 0 takes the likeliest token")] = 0.0
    top_p: Annotated[
        float, Field(gt=0, le=1, description="sample among the likeliest tokens that hold this share of the mass")
    ] = 1.0
    batch: Annotated[int, Field(ge=1, le=4096, description="prompts that a model on disk answers at a time")] = 16
    similar: Annotated[
        float, Field(gt=0, le=1, description="Jaccard similarity of word trigrams that makes a near duplicate")
    ] = 0.8

    def plan(self, facts: ModelFacts) -> ModelFacts:
        if self.endpoint is not None and not self.endpoint.terms_accepted:
            raise BadInput(
                f"generate.responses: whether a model may be trained on answers of {self.endpoint.url} is for its "
                "terms of use to say; read them, and set endpoint.terms_accepted to true if they allow it"
            )
        return facts

    def cost(self, facts: ModelFacts, teacher: ModelFacts) -> Cost:
        if self.endpoint is not None:
            return Cost(flops=0.0, memory=300_000_000)
        count = self.count or MADE
        width = min(self.batch, count)
        steps = ceil(count / width) * width
        forward = 2.0 * teacher.parameters
        positions = ASKED + self.max_new_tokens
        cache = 2 * 2 * teacher.layers * teacher.kv_heads * teacher.head_dim * positions * width
        logits = 3 * 4 * width * teacher.vocabulary
        memory = 1_000_000_000 + 2 * teacher.parameters + cache + logits
        return Cost(flops=forward * steps * (ASKED + DECODING * self.max_new_tokens), memory=memory)

    def teacher_spec(self) -> str | None:
        return None if self.endpoint is not None else self.teacher

    def needs(self) -> frozenset[Use]:
        return self.uses if self.prompts is None else self.uses - {"train", "names"}

    def named_inputs(self) -> dict[str, str]:
        found = {} if self.endpoint is None else {"endpoint": self.endpoint.identity}
        if self.prompts is not None:
            path = Path(self.prompts).expanduser()
            self._read(path)
            content = sha256_file(path)
            # The same bytes are other prompts as lines of text than as rows.
            found["prompts"] = hash_json(["lines", content]) if path.suffix.lower() == ".txt" else content
        return found

    def ready(self) -> None:
        if self.endpoint is not None:
            self.endpoint.key()
            self.endpoint.require_reachable()

    def fingerprint(self, inputs: dict[str, str], dtype: str, seed: int) -> str:
        if self.endpoint is None:
            return super().fingerprint(inputs, dtype, seed)
        # What a server computes does not depend on this machine: no update of a library may ask for it again.
        hashed = self.model_dump(
            mode="json", exclude_defaults=True, exclude={*self.unhashed, "stage", "teacher", "batch"}
        )
        return hash_json([self.stage, self.version, hashed, inputs, seed])

    def generate(self, source: Model, folder: Path, context: Context) -> dict[str, Any]:
        from attar.responses.answers import AnswerLog
        from attar.responses.decoding import Decoding
        from attar.responses.pairs import FILE, sift, write_pairs

        prompts = self._prompts(context)
        log = AnswerLog(context.state / "answers.jsonl")
        if log.answers:
            context.log(f"goes on after {len(log.answers)} of {len(prompts)} answers")
        decoding = Decoding(self.max_new_tokens, self.temperature, self.top_p, context.seed)
        if self.endpoint is not None:
            self._ask(self.endpoint, prompts, decoding, log, context)
        else:
            prompts = self._generate(prompts, decoding, log, context)
        kept, dropped = sift(prompts, log.answers, self.template, self.similar)
        write_pairs(kept, folder / FILE)
        reasons = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in dropped.items() if count)
        context.log(f"{len(kept)} of {len(prompts)} answers are kept" + (f"; dropped: {reasons}" if reasons else ""))
        return self._counts(prompts, log, dropped, len(kept))

    def _read(self, path: Path) -> list[Prompt]:
        from attar.responses.prompts import read_prompts

        try:
            return read_prompts(path, self.column, self.right)[: self.count]
        except BadInput as error:
            raise BadInput(f"generate.responses: {error}") from None

    def _prompts(self, context: Context) -> list[Prompt]:
        from attar.responses.prompts import made_prompts
        from attar.responses.templates import asked

        if self.prompts is not None:
            found = self._read(Path(self.prompts).expanduser())
        else:
            found = made_prompts(context.data.documents("train"), self.count or MADE, context.seed)
        if len(found) < (self.count or 0):
            context.log(f"count={self.count} prompts were asked for, and there are {len(found)}", level="warning")
        return [asked(prompt, self.template) for prompt in found]

    def _ask(
        self, endpoint: Endpoint, prompts: list[Prompt], decoding: Decoding, log: AnswerLog, context: Context
    ) -> None:
        from attar.responses.asking import ask_all

        def got(answers: list[Answer]) -> None:
            log.add(answers)
            context.progress(len(log.answers), len(prompts), "prompts")

        ask_all(endpoint, [prompt for prompt in prompts if prompt.key not in log.answers], decoding, got)

    def _generate(self, prompts: list[Prompt], decoding: Decoding, log: AnswerLog, context: Context) -> list[Prompt]:
        """Answer with the teacher; the prompts that its context holds together with an answer."""
        from attar.responses.chat import Chat
        from attar.responses.generation import answer_all

        assert context.teacher is not None
        chat = Chat(context.teacher.folder)
        room = context.teacher.facts.numbers.positions
        longest = (room or self.max_new_tokens * 1000) - self.max_new_tokens
        fitting = [prompt for prompt in prompts if len(chat.prompt(prompt.messages)) <= longest]
        if not fitting:
            raise BadInput(
                f"generate.responses: no prompt fits into the {room} tokens that the teacher can attend to, together "
                f"with max_new_tokens={self.max_new_tokens}; shorten one of them"
            )
        if len(fitting) < len(prompts):
            text = (
                f"{len(prompts) - len(fitting)} prompts are left out: with an answer they are longer than {room} tokens"
            )
            context.log(text, level="warning")
        model = context.teacher.materialize(context.torch_dtype, context.device)

        def got(answers: list[Answer]) -> None:
            log.add(answers)
            context.progress(len(log.answers), len(fitting), "prompts")

        answer_all(model, chat, fitting, decoding, self.batch, lambda prompt: prompt.key in log.answers, got)
        return fitting

    def _counts(self, prompts: list[Prompt], log: AnswerLog, dropped: dict[str, int], kept: int) -> dict[str, Any]:
        """What the manifest says; the tokens are those of all answers, the dropped ones included."""
        answers = [log.answers[prompt.key] for prompt in prompts]
        tokens = sum(a.prompt_tokens for a in answers), sum(a.answer_tokens for a in answers)
        price = self.endpoint and self.endpoint.price_per_million_tokens
        return {
            "prompts": len(prompts),
            "pairs": kept,
            "dropped": dropped,
            "prompt_tokens": tokens[0],
            "answer_tokens": tokens[1],
            "price": price.of(*tokens) if price else None,
        }
