"""Conversations as token ids: by the template, or a sentence that it refuses them."""

from pathlib import Path

import pytest

from attar.errors import BadInput
from attar.responses.chat import Chat
from attar.tiny import tiny_model

TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'system' %}{{ raise_exception('no system here') }}"
    "{% endif %}<{{ message['role'] }}>{{ message['content'] }}{% endfor %}{% if add_generation_prompt %}<answer>"
    "{% endif %}"
)


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def test_a_template_writes_the_turns_and_where_the_answer_begins(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path)
    plain = Chat(folder)
    assert plain.text(plain.prompt([user("Why?"), user("How?")])) == "Why?\n\nHow?"
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    chat = Chat(folder)
    assert chat.text(chat.prompt([user("Why?")])) == "<user>Why?<answer>"


def test_turns_that_a_template_refuses_are_a_sentence(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    with pytest.raises(BadInput, match=r"refuses turns of system, user \(no system here\)"):
        Chat(folder).prompt([{"role": "system", "content": "Be brief."}, user("Why?")])
