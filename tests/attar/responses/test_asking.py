"""An endpoint is asked in parallel and with patience; a key is sent and never shown."""

import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from attar.errors import BadInput, StageFailed
from attar.responses.answers import Answer
from attar.responses.asking import _Asking, _retry_after, ask_all
from attar.responses.decoding import Decoding
from attar.responses.prompts import Prompt
from attar.responses.settings import Endpoint, Price

if TYPE_CHECKING:
    from tests.conftest import Teacher

SECRET = "sk-very-secret-0123456789"
PROMPTS = [Prompt(({"role": "user", "content": f"question {i}?"},)) for i in range(12)]


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEACHER_KEY", SECRET)


def endpoint(server: "Teacher", **changes: Any) -> Endpoint:
    given: dict[str, Any] = {
        "url": server.url,
        "model": "m",
        "key_variable": "TEACHER_KEY",
        "pause": 0.01,
        "retries": 3,
    }
    return Endpoint(**given | changes)


def ask(server: "Teacher", prompts: list[Prompt] = PROMPTS, decoding: Decoding | None = None, **changes: Any) -> Any:
    found: list[Answer] = []
    ask_all(endpoint(server, **changes), prompts, decoding or Decoding(16), found.extend)
    return found


def test_every_prompt_is_answered_once_and_no_more_at_a_time_than_allowed(teacher_server: "Teacher") -> None:
    found = ask(teacher_server, parallel=3)
    assert {a.key for a in found} == {p.key for p in PROMPTS} and len(found) == len(PROMPTS)
    assert teacher_server.most_together <= 3
    assert {(a.finish, a.prompt_tokens, a.answer_tokens) for a in found} == {("stop", 10, 12)}
    assert set(teacher_server.keys) == {f"Bearer {SECRET}"}
    body = teacher_server.bodies[0]
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("m", 16, 0.0) and "seed" not in body


def test_sampling_sends_a_seed_for_each_prompt(teacher_server: "Teacher") -> None:
    ask(teacher_server, decoding=Decoding(16, 0.7, 0.9, seed=5))
    ask(teacher_server, decoding=Decoding(16, 0.7, 0.9, seed=5))
    seeds = sorted(body["seed"] for body in teacher_server.bodies)
    assert len(set(seeds)) == len(PROMPTS) and seeds[::2] == seeds[1::2]


@pytest.mark.parametrize(
    "mood",
    [429, (429, {"Retry-After": "0"}), 500, 503, 408, "hang-up", "no JSON", "{}", '{"choices": []}', "[1]"],
    ids=str,
)
def test_what_may_pass_is_tried_again(teacher_server: "Teacher", mood: Any) -> None:
    teacher_server.moods.extend([mood, mood])
    found = ask(teacher_server, prompts=PROMPTS[:2], parallel=1)
    assert {a.key for a in found} == {p.key for p in PROMPTS[:2]}
    assert len(teacher_server.bodies) == 4


def test_an_answer_that_drips_is_not_waited_for(teacher_server: "Teacher") -> None:
    teacher_server.moods.append("drip")
    assert len(ask(teacher_server, prompts=PROMPTS[:1], timeout=0.5)) == 1
    assert len(teacher_server.bodies) == 2


@pytest.mark.parametrize("mood", [500, "hang-up", "{}"], ids=str)
def test_what_does_not_pass_ends_in_a_sentence(teacher_server: "Teacher", mood: Any) -> None:
    teacher_server.moods.extend([mood] * 9)
    with pytest.raises(StageFailed, match=r"did not answer after 4 tries.*run the same command again"):
        ask(teacher_server, prompts=PROMPTS[:1])


def test_a_refusal_is_not_repeated_and_does_not_show_the_key(teacher_server: "Teacher") -> None:
    teacher_server.moods.append(401)
    with pytest.raises(StageFailed, match=r"refuses with status 401.*; look at the key in TEACHER_KEY") as error:
        ask(teacher_server, prompts=PROMPTS[:1])
    assert len(teacher_server.bodies) == 1
    assert SECRET not in str(error.value) and "***" in str(error.value)


def test_no_half_of_a_key_is_left_where_a_refusal_is_cut(teacher_server: "Teacher") -> None:
    asking = _Asking(endpoint(teacher_server), Decoding(1), lambda answers: None)
    assert asking._words(httpx.Response(401, text="x" * 290 + SECRET)) == "x" * 290 + "***"


@pytest.mark.parametrize("key", ["sk-one\nsk-two", "sk one", "sk-\u2019one", "sk-\x07one"], ids=ascii)
def test_a_key_that_no_header_can_hold_is_told_and_not_shown(
    teacher_server: "Teacher", key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEACHER_KEY", key)
    with pytest.raises(BadInput, match="TEACHER_KEY holds white space or a character beyond ASCII") as error:
        ask(teacher_server, prompts=PROMPTS[:1])
    assert "one" not in str(error.value) and not teacher_server.bodies


def test_a_server_that_asks_for_an_hour_is_not_waited_for(teacher_server: "Teacher") -> None:
    teacher_server.moods.append((429, {"Retry-After": "3600"}))
    with pytest.raises(StageFailed, match="asks to come back in 3600 s"):
        ask(teacher_server, prompts=PROMPTS[:1])


def test_retry_after_is_a_number_or_a_date() -> None:
    assert _retry_after("7") == 7
    assert _retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert _retry_after("Wed, 21 Oct 2099 07:28:00 GMT") > 1e6
    assert _retry_after("soon") == _retry_after("") == 0


def test_answers_without_text_or_usage_are_answers(teacher_server: "Teacher") -> None:
    empty = {"choices": [{"message": {"content": None}, "finish_reason": "content_filter"}]}
    teacher_server.moods.append(json.dumps(empty))
    (found,) = ask(teacher_server, prompts=PROMPTS[:1])
    assert (found.text, found.finish, found.prompt_tokens) == ("", "content_filter", 0)


def test_nobody_there_and_no_key_are_sentences(teacher_server: "Teacher", monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint(teacher_server).require_reachable()
    with pytest.raises(BadInput, match="cannot be reached"):
        Endpoint(url="http://127.0.0.1:9/v1", model="m").require_reachable()
    monkeypatch.delenv("TEACHER_KEY")
    with pytest.raises(BadInput, match=r"environment variable TEACHER_KEY.*is not set"):
        endpoint(teacher_server).key()


@pytest.mark.parametrize("url", ["ftp://host", "https://me:word@host/v1", "https://host/v1?key=x", "host"])
def test_addresses_that_are_none_or_hold_a_secret(url: str) -> None:
    with pytest.raises(ValueError, match="pattern"):
        Endpoint(url=url, model="m")


def test_a_price_is_counted_by_the_million() -> None:
    assert Price(prompt=1.0, answer=4.0).of(500_000, 250_000) == 1.5
