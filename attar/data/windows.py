"""From documents to windows of tokens: packed end to end, documents separated by the tokenizer's end of text."""

import json
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import pairwise, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attar.errors import BadInput

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from tokenizers import Tokenizer

    Windows = npt.NDArray[np.int64]

BATCH = 64  # documents tokenized at once


def load_tokenizer(tokenizer_file: Path) -> "Tokenizer":
    """The tokenizer of a ``tokenizer.json``, without truncation or padding; :class:`BadInput` when it is none."""
    from tokenizers import Tokenizer

    if not tokenizer_file.is_file():
        raise BadInput(f"the tokenizer {tokenizer_file} does not exist; a model folder must hold a tokenizer.json")
    try:
        tokenizer = Tokenizer.from_file(str(tokenizer_file))
    except Exception as error:  # the Rust library raises bare Exception
        raise BadInput(f"the tokenizer {tokenizer_file} cannot be read ({error})") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def separator(tokenizer: "Tokenizer", tokenizer_file: Path) -> list[int]:
    """[id of the end-of-text token], named by the ``tokenizer_config.json`` beside; [] when there is none."""
    return _named(tokenizer, _config(tokenizer_file), "eos_token")


def opening(tokenizer: "Tokenizer", tokenizer_file: Path) -> list[int]:
    """Ids that the tokenizer itself puts before a text, such as ``<bos>``; [] of most.

    A model that has always read them reads what comes without them as noise: Gemma's perplexity is in the thousands.
    ``add_bos_token`` of the ``tokenizer_config.json`` beside has the last word, as in transformers.
    """
    config = _config(tokenizer_file)
    if isinstance(added := config.get("add_bos_token"), bool):
        return _named(tokenizer, config, "bos_token") if added else []
    whole = tokenizer.encode("a", add_special_tokens=True)
    return [
        number for number, _ in takewhile(lambda one: one[1], zip(whole.ids, whole.special_tokens_mask, strict=True))
    ]


def _config(tokenizer_file: Path) -> dict[str, Any]:
    try:
        config = json.loads((tokenizer_file.parent / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def _named(tokenizer: "Tokenizer", config: dict[str, Any], name: str) -> list[int]:
    token = config.get(name)
    if isinstance(token, dict):
        token = token.get("content")
    number = tokenizer.token_to_id(token) if isinstance(token, str) else None
    return [] if number is None else [number]


def pack(texts: Iterable[str], tokenizer_file: Path, count: int, length: int) -> "Windows":
    """The first ``count`` windows of the texts, in their order: int64 ``[<= count, length]``.

    Text after text, an end-of-text token after each, cut into windows; what is left over at the end is dropped. Every
    window begins with what the tokenizer puts before a text, see :func:`opening`. Only as many texts are tokenized as
    the windows need, so fewer windows are a prefix of more.
    """
    return _packed(texts, tokenizer_file, count, length)[0]


def pack_owned(texts: Iterable[str], tokenizer_file: Path, count: int, length: int) -> tuple["Windows", "Windows"]:
    """The windows of :func:`pack`, and of every token in them the number of its text: int64 ``[<= count, length]``.

    The end of text belongs to the text that it ends, and a window's opening to the text after it.
    """
    import numpy as np

    windows, sizes, width = _packed(texts, tokenizer_file, count, length)
    opened = windows.shape[1] - width
    owners = np.repeat(np.arange(len(sizes), dtype=np.int64), sizes)[: len(windows) * width].reshape(-1, width)
    return windows, np.concatenate([np.repeat(owners[:, :1], opened, axis=1), owners], axis=1)


def _packed(texts: Iterable[str], tokenizer_file: Path, count: int, length: int) -> tuple["Windows", list[int], int]:
    """The windows, how many tokens each text took that was tokenized for them, and how many of a window are of text."""
    import numpy as np

    if count < 1 or length < 1:
        raise BadInput(f"{count} windows of {length} tokens were asked for; both must be at least 1")
    tokenizer = load_tokenizer(tokenizer_file)
    end, start = separator(tokenizer, tokenizer_file), opening(tokenizer, tokenizer_file)
    width = length - len(start)
    if width < 1:
        raise BadInput(f"windows of {length} tokens have no room for text: the tokenizer puts {len(start)} before it")
    parts: list[npt.NDArray[np.int32]] = []  # a list of Python integers would take eight times the memory
    sizes: list[int] = []
    found = 0
    for batch in _batches(texts):
        encoded = tokenizer.encode_batch(batch, add_special_tokens=False)
        sizes += [len(one.ids) + len(end) for one in encoded]
        parts.append(np.fromiter((i for one in encoded for i in (*one.ids, *end)), dtype=np.int32))
        found += len(parts[-1])
        if found >= count * width:
            break
    whole = min(count, found // width)
    text = np.empty(whole * width, dtype=np.int64)
    at = 0
    for part in parts:
        text[at : at + len(part)] = part[: len(text) - at]
        at += len(part)
    windows = np.empty((whole, length), dtype=np.int64)
    windows[:, : len(start)], windows[:, len(start) :] = start, text.reshape(whole, width)
    return windows, sizes, width


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    for text in texts:
        batch.append(text)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def text_bytes(tokenizer_file: Path, windows: "Windows") -> int:
    """UTF-8 bytes of the text that the scored tokens stand for (all but the first of each window).

    ``windows`` is int64 ``[n, length]``. This is the denominator of bits per byte, which compares models of different
    tokenizers. Special tokens stand for no text. Exact for byte-level tokenizers; others are decoded window by window.
    """
    import numpy as np

    if windows.size == 0:
        return 0
    scored = windows[:, 1:]
    sizes = _token_bytes(tokenizer_file, tokenizer_file.stat().st_mtime_ns)
    if sizes is not None:
        return int(np.asarray(sizes, dtype=np.int64)[scored].sum())
    tokenizer = load_tokenizer(tokenizer_file)
    return sum(len(text.encode()) for text in tokenizer.decode_batch(scored.tolist(), skip_special_tokens=True))


def bytes_by_owner(tokenizer_file: Path, windows: "Windows", owners: "Windows", count: int) -> "Windows":
    """The bytes of :func:`text_bytes` by the text that they belong to: int64 ``[count]``.

    Exact for byte-level tokenizers; of others, each text's run of tokens in a window is decoded by itself.
    """
    import numpy as np

    scored, places = windows[:, 1:], owners[:, 1:]
    sizes = _token_bytes(tokenizer_file, tokenizer_file.stat().st_mtime_ns)
    total = np.zeros(count, dtype=np.int64)
    if sizes is not None:
        np.add.at(total, places, np.asarray(sizes, dtype=np.int64)[scored])
        return total
    tokenizer = load_tokenizer(tokenizer_file)
    for ids, row in zip(scored, places, strict=True):
        edges = [0, *(np.flatnonzero(np.diff(row)) + 1).tolist(), len(row)]
        runs = [ids[a:b].tolist() for a, b in pairwise(edges)]
        texts = tokenizer.decode_batch(runs, skip_special_tokens=True)
        for start, text in zip(edges, texts, strict=False):  # the last edge begins nothing
            total[row[start]] += len(text.encode())
    return total


@lru_cache(maxsize=4)
def _token_bytes(tokenizer_file: Path, _changed: int) -> tuple[int, ...] | None:
    """Bytes of every token of a byte-level vocabulary, by id; None for another kind of tokenizer.

    Decoding cannot count them: a token may hold half a character, which decodes to a replacement mark.
    """
    tokenizer = load_tokenizer(tokenizer_file)
    decoder = json.loads(tokenizer.to_str()).get("decoder") or {}
    if decoder.get("type") != "ByteLevel":
        return None
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    added = tokenizer.get_added_tokens_decoder()
    sizes = [0] * (max(vocabulary.values(), default=-1) + 1)
    for token, number in vocabulary.items():
        sizes[number] = len(token)  # the byte-level alphabet has one character for each byte
    for number, special in added.items():
        sizes[number] = 0 if special.special else len(special.content.encode())
    return tuple(sizes)
