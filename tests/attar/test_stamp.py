"""Two results are ranked together only if what matters to the measure was the same."""

from typing import Any

import pytest

from attar.stamp import HASH, KEY, comparable, differences, group, stamp, stamp_of

PARTS: dict[str, Any] = {
    "suite": 2,
    "data.held-out": "aaa",
    "data.other": "bbb",
    "windows": 32,
    "length": 512,
    "dtype": "bfloat16",
    "tokenizer": "ttt",
    "origin": "ooo",
    "device": "cpu",
    "processor": "some processor",
    "threads": 2,
    "memory": 1,
    "prompt": 512,
    "new_tokens": 64,
    "prompt_format": "plain",
    "tasks": {"describes": 1, "capitals": 1, "generation": 1, "lm_eval.piqa": 1},
}
FIGURES: dict[str, Any] = {
    "describes/easy": {"value": 0.5, "confidently_wrong": 0.1},
    "capitals": {"value": 0.5},  # written out
    "generation/overlap": {"value": 1.0},
    "lm_eval.piqa/acc": {"value": 0.5},
}


def result(**changed: Any) -> dict[str, Any]:
    return {KEY: stamp(**{**PARTS, **changed}), "tasks": FIGURES}


@pytest.mark.parametrize(
    ("part", "value", "spoiled", "kept"),
    [
        ("data.other", "ccc", "perplexity/other", "describes"),
        ("windows", 16, "headline", "decode"),
        ("dtype", "float32", "kl", "bytes"),
        ("tokenizer", "uuu", "perplexity", "bits_per_byte"),
        ("origin", "ppp", "retained", "perplexity"),
        ("threads", 4, "decode", "headline"),
        ("processor", "another", "prefill", "headline"),
        ("prompt_format", "chat", "capitals", "describes"),
        ("prompt_format", "chat", "capitals/retained", "describes/retained"),
        ("prompt_format", "chat", "generation", "lm_eval.piqa/acc"),
        ("prompt_format", None, "generation/same", "describes/easy"),  # nothing was written there
        ("memory", 2, "peak_memory", "decode"),
        ("memory", None, "peak_memory", "headline"),  # of before the text was read after it
        ("tasks", {"describes": 2}, "describes", "headline"),
        ("suite", 1, "headline", "compression_ratio"),
    ],
)
def test_a_difference_spoils_what_it_matters_to(part: str, value: Any, spoiled: str, kept: str) -> None:
    reason = comparable(result(), result(**{part: value}), spoiled)
    assert reason is not None and part in reason and reason.startswith(spoiled)
    assert comparable(result(), result(**{part: value}), kept) is None
    assert result()[KEY][HASH] != result(**{part: value})[KEY][HASH]


def test_who_was_asked_to_write_more_is_compared_in_what_is_picked() -> None:
    """No question that is picked from is put in the format of prompts, whatever else a model was asked."""
    old = {KEY: stamp(**{**PARTS, "prompt_format": None, "tasks": {"describes": 1}})}
    old["tasks"] = {"describes/easy": FIGURES["describes/easy"]}
    for task in ("describes", "describes/easy", "describes/confidently_wrong"):
        assert comparable(result(), old, task) is None and comparable(old, result(), task) is None
    assert "not both of the two were asked 'generation'" in str(comparable(old, result(), "generation"))


def test_the_same_is_comparable_in_everything() -> None:
    for measure in ("headline", "perplexity/other", "decode", "describes", "bytes"):
        assert comparable(result(), result(), measure) is None


def test_what_was_never_asked_or_stamped_is_a_sentence() -> None:
    assert "not both of the two were asked 'facts'" in str(comparable(result(), result(), "facts"))
    assert "before results had a stamp" in str(comparable({}, result(), "headline"))
    assert comparable({}, result(), "bytes") is None


def test_results_of_one_group_are_comparable_and_no_others() -> None:
    first = group(result(), "headline")
    assert first is not None and first == group(result(threads=4), "headline")
    assert first != group(result(windows=16), "headline") and group({}, "headline") is None


def test_the_version_of_what_cuts_text_is_no_part_of_it() -> None:
    """Stamps of before had it; the name of an evaluation never had, so that an origin's was not made anew."""
    now = result()
    assert set(now[KEY]["libraries"]) == {"torch", "transformers", "peft"}
    before = {KEY: {**now[KEY], "libraries": {**now[KEY]["libraries"], "tokenizers": "0.1"}, HASH: "before"}}
    for measure in ("headline", "decode", "describes"):
        assert comparable(before, now, measure) is None and comparable(now, before, measure) is None
    assert group(before, "headline") == group(now, "headline") and stamp_of(before) == stamp_of(now) == now[KEY]
    other = {KEY: {**now[KEY], "libraries": {**now[KEY]["libraries"], "torch": "0.1"}}}
    assert "libraries" in str(comparable(other, now, "headline")) and stamp_of({}) is None


def test_all_that_differs_is_told_and_no_hash() -> None:
    """Of libraries those that differ; of texts that they do, for their hashes say nothing to anybody."""
    libraries = {"libraries": {"torch": "2.13", "peft": "0.21"}}
    one = result(**libraries | {"data.other": "0" * 20})
    other = result(windows=16, libraries={"torch": "2.12", "peft": "0.21"}, **{"data.other": "1" * 20})
    told = ["libraries (torch 2.13 and torch 2.12)", "text of another kind", "windows (32 and 16)"]
    assert differences(one, other, "headline") == told
    assert differences(one, one, "headline") == [] and differences(one, result(**libraries, threads=4), "bytes") == []
