"""Answers on disk, near duplicates, and which answers become pairs."""

import json
from math import ceil
from pathlib import Path

import pytest

from attar.errors import BadInput, StageFailed
from attar.responses.answers import Answer, AnswerLog
from attar.responses.duplicates import Seen, jaccard, shingles
from attar.responses.pairs import read_pairs, sift, write_pairs
from attar.responses.prompts import Prompt

WORDS = "the quick brown fox jumps over the lazy dog while seven wizards brew a pot of strong green tea at noon"


def answer(key: str, text: str = "", finish: str = "stop") -> Answer:
    return Answer(key, text or f"{key} " * 12, finish, 3, 4)


def prompt(text: str, right: str | None = None) -> Prompt:
    return Prompt(({"role": "user", "content": text},), right)


@pytest.mark.parametrize("torn", [b'{"key": "c", "te', b'{"key": "c"}\n', b"\xff\xfe", b""])
def test_what_was_whole_survives_a_torn_end(tmp_path: Path, torn: bytes) -> None:
    log = AnswerLog(tmp_path / "state" / "a.jsonl")
    log.add([answer("a"), answer("b", "line\nbreak\u2028")])
    with open(log.path, "ab") as file:
        file.write(torn)
    again = AnswerLog(log.path)
    assert again.answers == log.answers
    again.add([answer("c"), answer("a", "another")])
    assert AnswerLog(log.path).answers == log.answers | {"c": answer("c")}


def test_near_duplicates_are_found_and_others_are_not() -> None:
    seen = Seen(0.8)
    assert not seen.like_another(WORDS)
    assert seen.like_another(WORDS.upper() + "!")
    assert seen.like_another(WORDS.replace("noon", "dawn"))
    assert not seen.like_another(" ".join(reversed(WORDS.split())))
    assert not any(seen.like_another(f"{n} {n + 1} {n * 7} {n**2} and {n + 3} are numbers") for n in range(200))


def test_candidates_are_not_missed() -> None:
    """All pairs by brute force: whatever is at least 0.8 alike is found among 300 texts."""
    import random

    draw = random.Random(0)
    texts = []
    for _ in range(100):
        words = [draw.choice(WORDS.split()) + str(draw.randrange(50)) for _ in range(60)]
        changed = list(words)
        changed[draw.randrange(60)] = "changed"
        texts += [words, changed, [*words, "more"]]
    joined = [" ".join(words) for words in texts]
    seen, found = Seen(0.8), []
    for text in joined:
        if not seen.like_another(text):
            found.append(text)
    assert found == joined[::3]
    assert all(jaccard(shingles(joined[i]), shingles(joined[i + 1])) >= 0.8 for i in range(0, 300, 3))


@pytest.mark.parametrize("similar", [0.3, 0.5, 0.7])
def test_what_is_just_alike_enough_is_found_at_any_similarity(similar: float) -> None:
    import random

    draw, seen = random.Random(1), Seen(similar)
    shared = ceil(2 * 58 * similar / (1 + similar)) + 2  # words at the beginning of both texts, of 60 in each
    for _ in range(100):
        one, other = ([f"w{draw.randrange(10**9)}" for _ in range(60)] for _ in range(2))
        texts = " ".join(one), " ".join(one[:shared] + other[shared:])
        assert similar <= jaccard(*map(shingles, texts)) < similar + 0.02
        assert [seen.like_another(text) for text in texts] == [False, True]


def test_what_is_dropped_is_counted_by_reason() -> None:
    prompts = [prompt(f"p{i}") for i in range(6)]
    texts = [WORDS, " ", WORDS + " indeed", "Yes.", "Yes.", "cut in the"]
    finishes = ["stop"] * 5 + ["length"]
    answers = {p.key: answer(p.key, t, f) for p, t, f in zip(prompts, texts, finishes, strict=True)}
    kept, dropped = sift(prompts, answers, "plain", 0.8)
    assert [p for p, _ in kept] == [prompts[0], prompts[3], prompts[4]]  # short answers may be equal
    assert dropped == {"empty": 1, "cut_off": 1, "no_final_answer": 0, "wrong": 0, "near_duplicate": 1}


def test_reasoning_keeps_right_answers_and_those_nobody_can_check() -> None:
    prompts = [prompt("a", "4"), prompt("b", "4"), prompt("c"), prompt("d", "4")]
    texts = ["Two twos.\nFinal answer: 4", "I guess.\nFinal answer: 5", "Sure.\nFinal answer: blue", "It is 4"]
    answers = {p.key: answer(p.key, t) for p, t in zip(prompts, texts, strict=True)}
    kept, dropped = sift(prompts, answers, "reasoning", 0.8)
    assert [p for p, _ in kept] == [prompts[0], prompts[2]]
    assert (dropped["wrong"], dropped["no_final_answer"]) == (1, 1)


def test_nothing_left_is_a_sentence() -> None:
    one = prompt("a")
    with pytest.raises(StageFailed, match=r"of 1 answers none can be kept \(1 cut off\).*max_new_tokens"):
        sift([one], {one.key: answer(one.key, "x", "length")}, "plain", 0.8)


def test_pairs_survive_the_disk(tmp_path: Path) -> None:
    kept = [(prompt(f"p{i}"), answer(f"k{i}", f"answer\u2028 {i} ☃")) for i in range(3)]
    write_pairs(kept, tmp_path / "responses.jsonl")
    found = read_pairs(tmp_path / "responses.jsonl")
    assert [(pair.messages, pair.answer) for pair in found] == [(p.messages, a.text) for p, a in kept]
    line = json.loads((tmp_path / "responses.jsonl").read_text().split("\n")[0])
    assert (line["finish_reason"], line["prompt_tokens"], line["answer_tokens"]) == ("stop", 3, 4)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "holds no pair"),
        ('{"prompt": "x"}', "no column 'answer'"),
        ('{"answer": "x"}', "no prompt in 'prompt'"),
        ('{"prompt": "x", "answer": 7}', "no text in 'answer'"),
        ('{"prompt": "x", "answer": ', "is not JSON"),
    ],
)
def test_malformed_pairs_are_a_sentence(content: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text(content)
    with pytest.raises(BadInput, match=words):
        read_pairs(tmp_path / "pairs.jsonl")
