"""Pairs of prompt and answer: which answers are kept as such, and how they lie in a file."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from attar.data.files import records
from attar.errors import BadInput, StageFailed
from attar.responses.answers import Answer
from attar.responses.duplicates import Seen
from attar.responses.prompts import Message, Prompt, conversation
from attar.responses.templates import Template, final_answer, is_right

FILE = "responses.jsonl"
DROPPED = ("empty", "cut_off", "no_final_answer", "wrong", "near_duplicate")
SHORT = 8  # words: "Yes." may answer many questions, so an answer as short as this is compared with its prompt


@dataclass(frozen=True)
class Pair:
    """What was asked and what was answered."""

    messages: tuple[Message, ...]
    answer: str


def sift(
    prompts: Sequence[Prompt], answers: Mapping[str, Answer], template: Template, similar: float
) -> tuple[list[tuple[Prompt, Answer]], dict[str, int]]:
    """The answers worth learning from, in the order of the prompts, and how many were dropped for which reason.

    Raises :class:`StageFailed` when none is left.
    """
    counts = dict.fromkeys(DROPPED, 0)
    kept: list[tuple[Prompt, Answer]] = []
    seen = Seen(similar)
    for prompt in prompts:
        answer = answers[prompt.key]
        reason = _fault(prompt, answer, template)
        if reason is None:
            long = len(answer.text.split()) > SHORT
            compared = answer.text if long else f"{prompt.messages[-1]['content']} {answer.text}"
            reason = "near_duplicate" if seen.like_another(compared) else None
        if reason is None:
            kept.append((prompt, answer))
        else:
            counts[reason] += 1
    if not kept:
        told = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in counts.items() if count)
        raise StageFailed(
            f"of {len(prompts)} answers none can be kept ({told}); a larger max_new_tokens or another teacher may help"
        )
    return kept, counts


def _fault(prompt: Prompt, answer: Answer, template: Template) -> str | None:
    if not answer.text.strip():
        return "empty"
    if answer.finish != "stop":
        return "cut_off"
    if template == "reasoning":
        found = final_answer(answer.text)
        if found is None:
            return "no_final_answer"
        if prompt.right is not None and not is_right(found, prompt.right):
            return "wrong"
    return None


def write_pairs(kept: Sequence[tuple[Prompt, Answer]], file: Path) -> None:
    """One JSON object a line: messages, answer, finish_reason, prompt_tokens, answer_tokens."""
    with open(file, "w", encoding="utf-8", newline="\n") as out:
        for prompt, answer in kept:
            line = {
                "messages": prompt.messages,
                "answer": answer.text,
                "finish_reason": answer.finish,
                "prompt_tokens": answer.prompt_tokens,
                "answer_tokens": answer.answer_tokens,
            }
            out.write(json.dumps(line, ensure_ascii=False) + "\n")


def read_pairs(file: Path) -> list[Pair]:
    """Pairs of a .jsonl or .parquet file with ``prompt`` (text) or ``messages``, and ``answer`` (text).

    Raises :class:`BadInput` for a file that is missing, empty or malformed.
    """
    found = list(_read(file))
    if not found:
        raise BadInput(f"the file of pairs {file} holds no pair")
    return found


def _read(file: Path) -> Iterator[Pair]:
    for number, row in enumerate(records(file, ["answer"], ["messages", "prompt"]), start=1):
        where = f"row {number} of {file}"
        column = "messages" if row.get("messages") is not None else "prompt"
        answer = row["answer"]
        if not isinstance(answer, str) or not answer.strip():
            raise BadInput(f"{where} holds no text in 'answer'")
        yield Pair(conversation(row.get(column), where, column), answer.strip())
