"""How long and how large: rough figures for plans, from FLOPs and the kind of machine. Measured figures come later."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil

from attar import machine as hardware
from attar.errors import BadInput
from attar.facts import ModelFacts
from attar.suite import LATENCY_PASSES, Suite
from stages.base import Stage
from stages.spec import Machine

# Sustained FLOP/s in training and inference of real models, a CPU core or a GPU; an order of magnitude is all
# that is asked of them.
PER_THREAD = {"bfloat16": 150e9, "float32": 60e9}
BFLOAT16_EMULATED = 20e9  # a CPU without bf16 instructions
PER_GPU = {"bfloat16": 150e12, "float32": 20e12}

START_SECONDS = 8.0  # a child process with torch and transformers
PROCESS_BYTES = 500_000_000
CHUNK = 128  # tokens whose logits are compared at once
# Tokens of a question with its choices, of a fact with its libraries, of a prompt; answers written at the same time.
QUESTION_TOKENS, FACT_TOKENS, PROMPT_TOKENS, ANSWERS_AT_ONCE = 130, 40, 250, 8


@dataclass(frozen=True)
class Estimate:
    """Seconds, bytes at the peak of the process, and on disk: of training state, of what is kept for later jobs.

    What is kept is a teacher cache, or the hidden states of the origin.
    """

    seconds: float
    memory: int
    state: int = 0
    cache: int = 0


def speed(machine: Machine) -> float:
    """Sustained FLOP/s that this machine may be expected to give."""
    if machine.device.startswith("cuda"):
        return PER_GPU[machine.dtype]
    emulated = machine.dtype == "bfloat16" and hardware.resolve_dtype("auto", "cpu") != "bfloat16"
    return machine.threads * (BFLOAT16_EMULATED if emulated else PER_THREAD[machine.dtype])


def estimate_stage(stage: Stage, source: ModelFacts, teacher: ModelFacts, machine: Machine) -> Estimate:
    """Time and memory of one stage's process."""
    cost = stage.cost(source, teacher)
    reopened = 0
    if stage.makes == "model":  # the proof opens the result in fp32, on the CPU
        reopened = PROCESS_BYTES + stage.plan(source).opened_bytes(4)
    seconds = START_SECONDS + cost.flops / speed(machine)
    return Estimate(seconds, max(cost.memory + PROCESS_BYTES, reopened), cost.state, cost.cache)


def hidden_bytes(suite: Suite, origin: ModelFacts, machine: Machine) -> int:
    """What measuring the origin keeps for the other measurements: its last hidden states on both texts."""
    width = 2 if machine.dtype == "bfloat16" else 4
    return 2 * width * suite.windows * suite.length * origin.hidden


def estimate_measure(suite: Suite, model: ModelFacts, origin: ModelFacts, machine: Machine) -> Estimate:
    """Time and memory of one measurement: both models forward over two texts, the timed runs, our own questions.

    The user's own tasks and those of lm-eval are not foreseen.
    """
    tokens = 2 * suite.windows * suite.length
    flops = 2.0 * tokens * (model.parameters + origin.parameters)
    if suite.speed:
        flops += 2.0 * (suite.repeats + 1) * suite.prompt * model.parameters
        steps = suite.prompt * (LATENCY_PASSES + 1) + suite.latency_tokens * LATENCY_PASSES
        flops += 2.0 * steps * sum(suite.batches) * model.parameters
    asked = QUESTION_TOKENS * suite.choices + FACT_TOKENS * suite.facts + PROMPT_TOKENS * suite.generation
    flops += 2.0 * asked * model.parameters
    seconds = START_SECONDS + flops / speed(machine)
    decoded = (suite.repeats + 1) * suite.new_tokens * suite.speed
    decoded += len(suite.batches) * LATENCY_PASSES * suite.latency_tokens
    decoded += suite.answer_tokens * ceil(suite.generation / ANSWERS_AT_ONCE)
    # Decoding is bound by memory traffic, some 10 GB/s a CPU thread.
    bandwidth = 1e12 if machine.device.startswith("cuda") else 10e9 * machine.threads
    seconds += decoded * sum(model.weight_bytes().values()) / bandwidth
    width = 2 if machine.dtype == "bfloat16" else 4
    head = width * origin.vocabulary * origin.hidden  # of the origin, for its logits; its hidden states were kept
    states = 4 * width * suite.windows * suite.length * model.hidden  # of both texts and both models
    logits = 4 * 4 * CHUNK * model.vocabulary
    work = max(head + states + logits, max(suite.batches, default=0) * sequence_bytes(suite, model, width))
    return Estimate(seconds, PROCESS_BYTES + model.opened_bytes(width) + work)


def sequence_bytes(suite: Suite, model: ModelFacts, width: int) -> int:
    """Bytes of a sequence of a timed batch: keys and values of all layers, and what passes through one of them."""
    kept = 2 * model.layers * model.kv_heads * model.head_dim * (suite.prompt + suite.latency_tokens)
    passing = suite.prompt * (8 * model.hidden + 3 * model.ffn) + 2 * model.vocabulary
    return width * (kept + passing)


def require_batches(suite: Suite, models: Iterable[ModelFacts], machine: Machine) -> None:
    """Refuse batches that do not fit into the memory left beside a model that fits.

    How much a GPU has is known only to a process that loads torch; there it is told when it runs out.
    """
    if machine.device.startswith("cuda") or not suite.batches:
        return
    width, have = 2 if machine.dtype == "bfloat16" else 4, hardware.memory_bytes()
    for model in models:
        left, each = have - PROCESS_BYTES - model.opened_bytes(width), sequence_bytes(suite, model, width)
        if left > 0 and suite.batches[-1] * each > left:
            raise BadInput(
                f"measure: batch_sizes: {suite.batches[-1]} sequences of {suite.prompt + suite.latency_tokens} tokens "
                f"may need {suite.batches[-1] * each / 1e9:.1f} GB of memory beside the model, and this machine has "
                f"{left / 1e9:.1f} GB left for them; the largest batch that fits is {left // each}"
            )
