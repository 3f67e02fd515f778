"""Lets a model sit an exam: what it picks and what it writes, as figures and as scores per item."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import nn

from attar import likeness, lm_eval_tasks
from attar.architecture import require_length
from attar.calibration import calibration_error, confidently_wrong
from attar.exam import GENERATION, Exam
from attar.model import Model
from attar.picking import answers, longest, pick
from attar.questions import Choosing, Writing
from attar.responses.chat import Chat
from attar.responses.decoding import Decoding
from attar.responses.generation import answer_all
from attar.responses.prompts import Prompt
from attar.scores import Scores, of_answers
from attar.user_tasks import is_right

BATCH = 8  # answers written at the same time
ANSWERS = "answers.json"  # what a model wrote, in its evaluation

Progress = Callable[[int, int, str], None]  # done, total, of what


@dataclass
class Found:
    """What an exam gave: figures by name of a task and stratum, scores by the same names, answers by prompt."""

    figures: dict[str, dict[str, Any]] = field(default_factory=dict)
    scores: dict[str, Scores] = field(default_factory=dict)
    answers: dict[str, str] = field(default_factory=dict)
    prompt_format: str | None = (
        None  # how prompts were put, where answers were written; results compare where it agrees
    )

    def add(self, name: str, scores: Scores, lower_is_better: bool = False, **more: Any) -> None:
        """A measure on items, with its mean; intervals are made of the scores by who shows them."""
        told = {"value": scores.mean, "items": len(scores.ids), "lower_is_better": lower_is_better}
        self.figures[name] = {**told, **more}
        self.scores[name] = scores


def examine(
    exam: Exam, model: nn.Module, source: Model, origin_answers: Mapping[str, str] | None, progress: Progress
) -> Found:
    """All answers of a model; ``source`` is its folder.

    ``origin_answers`` are what the origin wrote, by prompt; None when this is the origin itself.

    Raises:
        BadInput: a question is longer than the model has positions, or lm-eval does not know a task.
    """
    writing = any(isinstance(task, Writing) for task in exam.tasks) or exam.prompts
    chat = Chat(source.folder) if writing else None
    found = Found(prompt_format=chat.format if chat else None)
    _require_positions(exam, source, chat)
    asked = lm_eval_tasks.load(exam.lm_eval, exam.lm_eval_folder) if exam.lm_eval else None
    for task in exam.tasks:
        if isinstance(task, Choosing):
            _choose(task, model, source, found, progress)
        elif chat is not None:
            _write(task, model, chat, found, progress)
    if exam.prompts and chat is not None:
        _generate(exam, model, chat, origin_answers, found, progress)
    if asked is not None:
        for name, scored, more in lm_eval_tasks.answer(asked, model, source.folder, progress):
            if scored is None:
                found.figures[name] = more
            else:
                found.add(name, scored, **more)
    return found


def _choose(task: Choosing, model: nn.Module, source: Model, found: Found, progress: Progress) -> None:
    done = 0

    def heard(count: int) -> None:
        nonlocal done
        done += count
        progress(done, len(task.questions), f"questions of {task.name}")

    scored = answers(task, pick(model, source.tokenizer_file, task, heard))
    sure, right = np.asarray(scored.confidence), np.asarray(scored.sums) > 0
    found.add(
        task.name,
        scored,
        chance=task.chance,
        calibration_error=calibration_error(sure, right),
        confidently_wrong=confidently_wrong(sure, right),
    )


def _write(task: Writing, model: nn.Module, chat: Chat, found: Found, progress: Progress) -> None:
    prompts = [Prompt(({"role": "user", "content": item.prompt},)) for item in task.items]
    said = _answers(prompts, task.tokens, f"answers of {task.name}", model, chat, progress)
    pairs = zip(prompts, task.items, strict=True)
    right = [float(is_right(said[prompt.key], item)) for prompt, item in pairs]
    found.add(task.name, of_answers([item.key for item in task.items], right), chance=0.0)


def _generate(
    exam: Exam,
    model: nn.Module,
    chat: Chat,
    origin_answers: Mapping[str, str] | None,
    found: Found,
    progress: Progress,
) -> None:
    said = _answers(exam.prompts, exam.tokens, "answers to prompts", model, chat, progress)
    before = said if origin_answers is None else origin_answers
    found.answers = said
    keys = [prompt.key for prompt in exam.prompts]
    measures = {
        "overlap": ([likeness.overlap(said[key], before[key]) for key in keys], False),
        "same": ([float(likeness.same(said[key], before[key])) for key in keys], False),
        "repetition": ([likeness.repetition(said[key]) for key in keys], True),
        "empty": ([float(likeness.empty(said[key])) for key in keys], True),
    }
    for name, (values, lower_is_better) in measures.items():
        found.add(f"{GENERATION}/{name}", of_answers(keys, values), lower_is_better)


def _answers(
    prompts: Sequence[Prompt], tokens: int, what: str, model: nn.Module, chat: Chat, progress: Progress
) -> dict[str, str]:
    """Greedy answers by key of the prompt."""
    said: dict[str, str] = {}
    unique = list({prompt.key: prompt for prompt in prompts}.values())

    def got(new: Any) -> None:
        said.update({answer.key: answer.text for answer in new})
        progress(len(said), len(unique), what)

    answer_all(model, chat, unique, Decoding(tokens), BATCH, lambda prompt: False, got)
    return said


def _require_positions(exam: Exam, source: Model, chat: Chat | None) -> None:
    """A sentence before anything is computed where a model has fewer positions than a question has tokens."""
    config = source.facts.config
    for task in exam.tasks:
        if isinstance(task, Choosing):
            size = longest(source.tokenizer_file, task)
            require_length(config, size, f"measure: the longest question of {task.name}, of {size} tokens,")
        elif chat is not None:
            size = max(len(chat.prompt([{"role": "user", "content": item.prompt}])) for item in task.items)
            require_length(config, size + task.tokens, f"measure: the longest prompt of {task.name} with its answer")
    if exam.prompts and chat is not None:
        size = max(len(chat.prompt(prompt.messages)) for prompt in exam.prompts)
        require_length(config, size + exam.tokens, "measure: the longest prompt of generation with its answer")
