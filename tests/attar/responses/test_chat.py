"""Conversations as token ids: by the template, or a sentence that it refuses them."""

import json
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


def test_plain_text_begins_as_the_tokenizer_begins_it_and_a_template_by_itself(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path)
    before = Chat(folder).prompt([user("Why?")])
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "bos_token": "<eos>", "add_bos_token": True}))
    assert Chat(folder).prompt([user("Why?")]) == [0, *before]
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    assert Chat(folder).prompt([user("Why?")])[0] != 0


def test_turns_that_a_template_refuses_are_a_sentence(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    with pytest.raises(BadInput, match=r"refuses turns of system, user \(no system here\)"):
        Chat(folder).prompt([{"role": "system", "content": "Be brief."}, user("Why?")])
