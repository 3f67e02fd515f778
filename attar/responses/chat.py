"""Prompts as token ids: by the tokenizer's chat template where it has one, else as plain text."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from attar.data.windows import load_tokenizer, opening
from attar.errors import BadInput
from attar.fingerprint import hash_json
from attar.responses.prompts import Message


class Chat:
    """The tokenizer of a model folder, as far as conversations need it."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoTokenizer, GenerationConfig

        self.folder = folder
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            raise BadInput(f"the tokenizer of {folder} cannot be opened ({str(error).splitlines()[0]})") from None
        stops: set[int] = set()
        if self.tokenizer.eos_token_id is not None:
            stops.add(int(self.tokenizer.eos_token_id))
        if (folder / "generation_config.json").is_file():
            found = GenerationConfig.from_pretrained(folder, local_files_only=True).eos_token_id
            stops |= set(found if isinstance(found, list) else [] if found is None else [found])
        if not stops:
            raise BadInput(f"the model {folder} names no end-of-text token, so its answers would never end")
        self.stops = sorted(stops)  # tokens that end an answer

    @cached_property
    def _opening(self) -> list[int]:
        """What comes before plain text; a template writes it by itself."""
        file = self.folder / "tokenizer.json"
        return opening(load_tokenizer(file), file)

    @property
    def end(self) -> int:
        """The token that an answer to learn from ends with."""
        own = self.tokenizer.eos_token_id
        return self.stops[0] if own is None else int(own)

    @property
    def format(self) -> str:
        """How a conversation becomes text: plainly, or by a template, named by its hash."""
        template = self.tokenizer.chat_template
        return f"template {hash_json(template)}" if template else "plain"

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of a conversation, up to where the answer begins."""
        if self.tokenizer.chat_template:
            return self._ids(self._templated(messages))
        return [*self._opening, *self._ids("\n\n".join(message["content"] for message in messages) + "\n\n")]

    def answer(self, text: str) -> list[int]:
        """Token ids of an answer, its end included."""
        return [*self._ids(text), self.end]

    def text(self, ids: Sequence[int]) -> str:
        """Text of an answer's token ids, without special tokens."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    def _templated(self, messages: Sequence[Message]) -> str:
        from jinja2 import TemplateError

        try:
            text = self.tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False)
        except TemplateError as error:  # of a Gemma that knows no system's turn, say
            turns = ", ".join(message["role"] for message in messages)
            raise BadInput(f"the chat template of {self.folder} refuses turns of {turns} ({error})") from None
        return str(text)

    def _ids(self, text: str) -> list[int]:
        # The template writes special tokens itself.
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
