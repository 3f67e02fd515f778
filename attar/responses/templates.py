"""How a teacher is asked: plainly, or for its reasoning first; and whether the final answer it gives is right."""

import re
import string
from dataclasses import replace
from decimal import Decimal, InvalidOperation
from typing import Literal

from attar.responses.prompts import Prompt

Template = Literal["plain", "reasoning"]
REASON_FIRST = (
    "\n\nThink step by step and write down your reasoning. Then give the final answer alone on the last line, in this "
    "form:\nFinal answer: <answer>"
)
_FINAL = re.compile(r"^[\s*_#>]*final answer[\s*_]*:[\s*_]*(\S.*?)[\s*_]*$", re.IGNORECASE | re.MULTILINE)
_NUMBER = re.compile(r"[-+]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?")
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


def asked(prompt: Prompt, template: Template) -> Prompt:
    """The prompt as the teacher gets it, and as the student will learn to answer it.

    ``reasoning`` is chain of thought (Wei et al., arXiv 2201.11903); training a small model on a large one's chains is
    Fine-tune-CoT (Ho et al., arXiv 2212.10071).
    """
    if template == "plain":
        return prompt
    *before, last = prompt.messages
    return replace(prompt, messages=(*before, last | {"content": last["content"] + REASON_FIRST}))


def final_answer(text: str) -> str | None:
    """What stands behind the last ``Final answer:``; None when the text does not keep to the form."""
    found = _FINAL.findall(text)
    return found[-1] if found else None


def is_right(found: str, right: str) -> bool:
    """Whether two answers say the same.

    Numbers are compared by value (units around a single number do not count); texts by case, punctuation, articles and
    white space left aside, as SQuAD does (Rajpurkar et al., arXiv 1606.05250).
    """
    expected = _number(right.strip().strip("$€£% ").rstrip("."))
    if expected is not None:
        numbers = _NUMBER.findall(found)
        return len(numbers) == 1 and _number(numbers[0]) == expected
    return _normalised(found) == _normalised(right)


def _number(text: str) -> Decimal | None:
    if not _NUMBER.fullmatch(text):
        return None
    try:
        return Decimal(text.replace(",", ""))
    except InvalidOperation:
        return None


def _normalised(text: str) -> str:
    low = " ".join(text.lower().split())
    plain = " ".join(low.translate(str.maketrans("", "", string.punctuation)).split())
    # Of an answer that is nothing but dress, such as "A" or "<", nothing may be left aside: all such would be equal.
    return " ".join(_ARTICLES.sub(" ", plain).split()) or plain or low
