"""Reasoning first, the final answer in a fixed form, and what counts as the same answer."""

import pytest

from attar.responses.prompts import Prompt
from attar.responses.templates import asked, final_answer, is_right

PROMPT = Prompt(({"role": "system", "content": "s"}, {"role": "user", "content": "How many?"}), right="4")


def test_reasoning_is_asked_for_in_the_last_turn() -> None:
    made = asked(PROMPT, "reasoning")
    assert made.messages[0] == PROMPT.messages[0] and made.right == "4"
    assert made.messages[1]["content"].startswith("How many?") and "Final answer:" in made.messages[1]["content"]
    assert asked(PROMPT, "plain") == PROMPT and made.key != PROMPT.key


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("2 and 2.\nFinal answer: 4", "4"),
        ("**Final Answer:** four apples  \n", "four apples"),
        ("Final answer: 3\nNo, wait.\nfinal answer: 4", "4"),
        ("The final answer: is near", None),
        ("It is 4.", None),
        ("Final answer:", None),
    ],
)
def test_the_last_line_of_the_form_counts(text: str, found: str | None) -> None:
    assert final_answer(text) == found


@pytest.mark.parametrize(
    ("found", "right", "same"),
    [
        ("4", "4", True),
        ("4.0", "4", True),
        ("$1,234.50", "1234.5", True),
        ("4 apples", "4", True),
        ("-4", "4", False),
        ("4 or 5", "4", False),
        ("four", "4", False),
        ("50%", "50 %", True),
        ("The Eiffel Tower.", "eiffel tower", True),
        ("Paris", "London", False),
        ("A.", "A", True),
        ("the", "A", False),
        ("<", "<", True),
        ("<", ">", False),
    ],
)
def test_numbers_count_by_value_and_texts_without_their_dress(found: str, right: str, same: bool) -> None:
    assert is_right(found, right) is same
