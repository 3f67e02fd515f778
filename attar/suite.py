"""What is measured after every stage, as settings; the measures themselves are files of their own."""

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from attar.fingerprint import environment_versions, hash_json

# What a suite asks goes into a fingerprint by its content (``exam``), not by the paths and counts it comes from.
ASKED = frozenset({"choices", "facts", "tasks", "generation", "answer_tokens", "lm_eval", "lm_eval_folder"})
# Of the latencies at batch sizes: timed passes after one warm-up, and tokens that each of them decodes at most.
LATENCY_PASSES, LATENCY_TOKENS = 3, 32


class Suite(BaseModel):
    """Fixed windows for quality, fixed questions, fixed prompt for speed: equal for every model that is compared."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    version: ClassVar[int] = 3  # bump when a measure's numbers change

    windows: Annotated[int, Field(ge=1, le=100_000, description="windows scored on each of the two texts")] = 32
    length: Annotated[int, Field(ge=16, le=131_072, description="tokens in a window; the first is not scored")] = 512
    speed: Annotated[bool, Field(description="measure prefill and decode tokens/s as well")] = True
    prompt: Annotated[int, Field(ge=1, le=131_072, description="prompt length of the speed measure, in tokens")] = 512
    new_tokens: Annotated[int, Field(ge=1, le=4096, description="tokens decoded in the speed measure")] = 64
    repeats: Annotated[int, Field(ge=1, le=100, description="timed runs after one warm-up; the median counts")] = 5
    batch_sizes: Annotated[
        list[Annotated[int, Field(ge=1, le=1024)]],
        Field(
            max_length=8,
            description="sequences at a time, such as [1, 4], for which the time to the first token and the 50th and "
            "95th percentile of the next ones are measured too; each takes a few prompts and some hundred steps; none "
            "without speed",
        ),
    ] = []
    choices: Annotated[
        int,
        Field(
            ge=0,
            le=20_000,
            multiple_of=2,
            description="questions which of four functions a docstring of the installed libraries describes, half of "
            "them among functions of the same module; 0: none",
        ),
    ] = 0
    facts: Annotated[
        int,
        Field(
            ge=0,
            le=20_000,
            multiple_of=5,
            description="questions which of the five libraries has a function, from memory; 0: none",
        ),
    ] = 0
    tasks: Annotated[
        list[str],
        Field(
            description="your own .jsonl files: prompt, choices and answer a line, or prompt and answer alone, "
            "which the model then writes out"
        ),
    ] = []
    generation: Annotated[
        int,
        Field(
            ge=0, le=10_000, description="prompts about the held-out text whose answers are compared with the origin's"
        ),
    ] = 0
    answer_tokens: Annotated[int, Field(ge=1, le=4096, description="tokens of a written answer at most")] = 64
    lm_eval: Annotated[
        list[str], Field(description="tasks of EleutherAI's lm-eval by name; needs: pip install 'attar[lm-eval]'")
    ] = []
    lm_eval_folder: Annotated[str, Field(description="folder of lm-eval tasks of your own, in its YAML")] = ""

    @property
    def batches(self) -> tuple[int, ...]:
        """The batch sizes that are timed, rising."""
        return tuple(sorted(set(self.batch_sizes))) if self.speed else ()

    @property
    def latency_tokens(self) -> int:
        """Tokens that are timed one by one in a pass."""
        return min(self.new_tokens, LATENCY_TOKENS)

    def fingerprint(self, inputs: dict[str, str], machine: dict[str, Any]) -> str:
        """Name of the evaluation of these inputs (role → fingerprint) on such a machine."""
        suite = self.model_dump(mode="json", exclude={*ASKED, "batch_sizes"})
        if self.batches:  # what was measured before there were any keeps its name
            suite["batch_sizes"] = self.batches
        return hash_json(
            {
                "suite": suite,
                "version": self.version,
                "inputs": inputs,
                "machine": machine,
                "versions": environment_versions(),
            }
        )
