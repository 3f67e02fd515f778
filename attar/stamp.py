"""Comparability stamp: what two results must have in common before one may be called better than the other.

The version of ``tokenizers`` is no part of it, as it is none of an evaluation's name: the same tokenizer.json cuts the
same text alike, and the counts of tokens of every document, which a comparison in pairs looks at, would tell if not.
"""

from collections.abc import Mapping
from typing import Any

from attar.fingerprint import LENGTH, environment_versions, hash_json

KEY = "stamp"  # in a result
HASH = "hash"  # in a stamp, of all the rest

_NUMERICS = ("suite", "dtype", "libraries")
_TEXT = (*_NUMERICS, "data.held-out", "data.other", "windows", "length")
_QUESTIONS = (*_NUMERICS, "tasks", "prompt_format")
_MACHINE = ("suite", "libraries", "dtype", "device", "processor", "threads")

WORDS = {
    "suite": "version of the measures",
    "data.held-out": "held-out text",
    "data.other": "text of another kind",
    "length": "tokens of a window",
}

# Measure → the parts of the stamp that must agree. Sizes are properties of files and may always be compared.
PARTS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("perplexity", "loss", "calibration_error", "confidently_wrong"), (*_TEXT, "tokenizer")),
    **dict.fromkeys(("headline", "retained", "kl", "agreement", "adaptation"), (*_TEXT, "tokenizer", "origin")),
    "bits_per_byte": _TEXT,  # of any tokenizer
    **dict.fromkeys(("prefill", "decode", "first_token", "p50", "p95"), (*_MACHINE, "prompt", "new_tokens")),
    "peak_memory": (*_MACHINE, "prompt", "new_tokens", "memory"),
    **dict.fromkeys(("price_input", "price_output"), ("suite", "prompt", "new_tokens")),  # of any machine
    **dict.fromkeys(
        ("bytes", "compression_ratio", "parameters", "bits_per_weight", "bits_quantized", "flops_per_token"), ()
    ),
}


def stamp(**parts: Any) -> dict[str, Any]:
    """The stamp of a result: the parts as they are, libraries' major.minor, and the hash of everything.

    ``parts`` are plain JSON, by the names in :data:`PARTS`; a part that a result does not have (no questions were
    asked, no speed was measured) is left out or None.
    """
    told = {"libraries": environment_versions(), **{name: value for name, value in parts.items() if value is not None}}
    return {**told, HASH: hash_json(told)}


def stamp_of(result: Mapping[str, Any]) -> dict[str, Any] | None:
    """The stamp of a result (of ``result.json``), without what stamps once held beyond that; None of one without."""
    told = result.get(KEY)
    if not told:
        return None
    kept = {part: value for part, value in told.items() if part != HASH}
    if libraries := kept.get("libraries"):
        kept["libraries"] = {name: found for name, found in libraries.items() if name != "tokenizers"}
    return {**kept, HASH: hash_json(kept)}


def comparable(a: Mapping[str, Any], b: Mapping[str, Any], measure: str) -> str | None:
    """Why two results (of ``result.json``) may not be compared in a measure; None when they may.

    ``measure`` is one of :data:`PARTS`, with or without a text after a slash (``perplexity/other``); any other is the
    name of a task of questions. Speeds and memory compare only on the same processor, device and threads.
    """
    name = measure.partition("/")[0]
    needed = PARTS.get(name, _QUESTIONS)
    one, two = stamp_of(a), stamp_of(b)
    if not needed:
        return None
    if not one or not two:
        return f"{measure}: one of the two was measured before results had a stamp; measure it again"
    for part in needed:
        left, right = one.get(part), two.get(part)
        if part == "tasks":  # others may differ
            left, right = (left or {}).get(name), (right or {}).get(name)
            if left is None or right is None:
                return f"{measure}: not both of the two were asked {name!r}; measure both with it"
        if part == "prompt_format" and not (_writes(a, name) and _writes(b, name)):
            continue
        if left != right:
            return f"{measure}: the two differ in {part} ({_short(left)} and {_short(right)}), so they are not ranked"
    return None


def differences(a: Mapping[str, Any], b: Mapping[str, Any], measure: str) -> list[str]:
    """In what two results differ that may not be compared in a measure of :data:`PARTS`: ``windows (20 and 24)``."""
    one, two = stamp_of(a) or {}, stamp_of(b) or {}
    found = []
    for part in PARTS[measure]:
        left, right = one.get(part), two.get(part)
        if left == right:
            continue
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            apart = [name for name in sorted({*left, *right}) if left.get(name) != right.get(name)]
            left, right = ({name: side.get(name) for name in apart} for side in (left, right))
        hashed = isinstance(left, str) and len(left) >= LENGTH  # says nothing to a reader
        found.append(WORDS.get(part, part) + ("" if hashed else f" ({_short(left)} and {_short(right)})"))
    return found


def group(result: Mapping[str, Any], measure: str) -> str | None:
    """What results comparable in a measure have in common, as one hash; None of a result without a stamp."""
    told = stamp_of(result)
    return hash_json({part: told.get(part) for part in PARTS[measure]}) if told else None


def _writes(result: Mapping[str, Any], task: str) -> bool:
    """Whether answers to a task are written out, to prompts in a format; who picks is known by how sure it was.

    lm-eval puts its prompts as they are, whatever it asks for.
    """
    found = [entry for name, entry in result.get("tasks", {}).items() if name.partition("/")[0] == task]
    return not (task.startswith("lm_eval.") or any("confidently_wrong" in entry for entry in found))


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {entry}" for name, entry in value.items())
    return "nothing" if value is None else str(value)
