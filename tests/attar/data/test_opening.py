"""What a tokenizer puts before every text, which a model reads as noise without it: told, packed, never scored."""

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, processors

from attar.data.windows import bytes_by_owner, load_tokenizer, opening, pack, pack_owned, text_bytes
from attar.errors import BadInput

TEXTS = [f"Text {i}: nothing to add in {i * i} places." for i in range(60)]


@pytest.fixture
def begun(tmp_path: Path, tokenizer_file: Path) -> Path:
    """The small tokenizer as one of Gemma's kind: ``<bos>`` before each text."""
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    tokenizer.add_special_tokens([AddedToken("<bos>", special=True)])
    number = tokenizer.token_to_id("<bos>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", number)]
    )
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    configure(tmp_path)
    return tmp_path / "tokenizer.json"


def configure(folder: Path, **more: bool) -> None:
    config = {"eos_token": "<eos>", "bos_token": "<bos>", **more}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def opened(file: Path) -> list[int]:
    return opening(load_tokenizer(file), file)


def test_the_tokenizer_or_its_settings_say_what_comes_first(begun: Path, tokenizer_file: Path) -> None:
    number = load_tokenizer(begun).token_to_id("<bos>")
    assert opened(tokenizer_file) == [] and opened(begun) == [number]
    configure(begun.parent, add_bos_token=False)
    assert opened(begun) == []
    tokenizer = load_tokenizer(begun)
    tokenizer.post_processor = processors.ByteLevel()
    tokenizer.save(str(begun))
    configure(begun.parent)
    assert opened(begun) == []
    configure(begun.parent, add_bos_token=True)
    assert opened(begun) == [number]


def test_every_window_begins_with_it_and_the_text_goes_on_behind(begun: Path, tokenizer_file: Path) -> None:
    number = load_tokenizer(begun).token_to_id("<bos>")
    plain, windows = (pack(TEXTS, file, 40, length) for file, length in ((tokenizer_file, 15), (begun, 16)))
    assert windows.shape == (40, 16) and set(windows[:, 0].tolist()) == {number}
    assert np.array_equal(windows[:, 1:], plain)
    with pytest.raises(BadInput, match="have no room for text"):
        pack(TEXTS, begun, 1, 1)


def test_it_is_never_scored_and_belongs_to_the_text_behind_it(begun: Path) -> None:
    windows, owners = pack_owned(TEXTS, begun, 1000, 16)
    assert owners.shape == windows.shape and np.array_equal(owners[:, 0], owners[:, 1])
    tokenizer = load_tokenizer(begun)
    text, of = windows[:, 1:].ravel(), owners[:, 1:].ravel()
    assert tokenizer.decode(text[of == 3].tolist()) == TEXTS[3]
    counted = bytes_by_owner(begun, windows, owners, len(TEXTS))
    assert counted.sum() == text_bytes(begun, windows) and counted[3] == len(TEXTS[3].encode())
