"""generate.responses: the same answers after a crash, good ones kept, bad ones counted, content as its name."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from attar.checkpoint import read_facts
from attar.errors import BadInput, StageFailed
from attar.responses.answers import Answer, AnswerLog
from attar.responses.pairs import read_pairs
from attar.testing import check_stage, run_on
from attar.tiny import tiny_model
from stages.generate_responses import Responses

if TYPE_CHECKING:
    from tests.conftest import Teacher

FACTS: dict[str, Any] = {"count": 12, "max_new_tokens": 12, "batch": 4, "temperature": 1.0, "similar": 1.0}


@pytest.fixture(scope="module")
def talker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that often ends its answers: a tenth of its vocabulary are ends of text."""
    folder = tiny_model(tmp_path_factory.mktemp("model"), max_position_embeddings=1024)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": list(range(0, 512, 5))}))
    return folder


def prompts(folder: Path, count: int = 12, **more: Any) -> str:
    file = folder / "prompts.jsonl"
    file.write_text(
        "".join(json.dumps({"prompt": f"What is {i} + {i}?", "answer": 2 * i} | more) + "\n" for i in range(count))
    )
    return str(file)


def answers_of(artifact: Any) -> list[str]:
    return [pair.answer for pair in read_pairs(artifact.folder / "responses.jsonl")]


def test_keeps_the_contract(talker: Path) -> None:
    made = check_stage(Responses(**FACTS), talker)
    counts = made.manifest["counts"]
    assert made.kind == "dataset"
    assert counts["prompts"] == 12 == counts["pairs"] + sum(counts["dropped"].values())
    assert counts["pairs"] == len(answers_of(made)) and counts["dropped"]["cut_off"] > 0
    assert 0 < counts["answer_tokens"] <= 12 * 12 and counts["prompt_tokens"] > 12 and counts["price"] is None


def test_prompts_longer_than_learned_positions_are_left_out(tmp_path: Path) -> None:
    """Whatever the family's config calls them."""
    folder = tiny_model(tmp_path / "model", "gpt2", max_position_embeddings=64)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": list(range(0, 512, 3))}))
    file = Path(prompts(tmp_path, 8))
    with open(file, "a") as more:
        more.write(json.dumps({"prompt": "Why? " * 60}) + "\n")
    made = run_on(Responses(prompts=str(file), **FACTS), folder, tmp_path / "home")
    assert made.manifest["counts"]["prompts"] == 8
    assert "1 prompts are left out" in (tmp_path / "home" / "events.jsonl").read_text()


class Killed(BaseException):
    pass


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_killed_stage_goes_on_and_gives_the_same_answers(
    talker: Path, tmp_path: Path, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Responses(prompts=prompts(tmp_path), **FACTS | {"temperature": temperature})
    whole = run_on(stage, talker, tmp_path / "a")
    added: list[int] = []
    real = AnswerLog.add

    def deadly(log: AnswerLog, answers: list[Answer]) -> None:
        real(log, answers)
        added.append(len(answers))
        if len(added) == 2:
            with open(log.path, "ab") as file:
                file.write(b'{"key": "torn')
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(AnswerLog, "add", deadly)
        with pytest.raises(Killed):
            run_on(stage, talker, tmp_path / "b")
    with monkeypatch.context() as patch:
        patch.setattr(AnswerLog, "add", lambda log, found: (added.append(len(found)), real(log, found))[1])
        resumed = run_on(stage, talker, tmp_path / "b")
    assert added == [4, 4, 4], "answers were asked for twice, or not at all"
    assert (whole.folder / "responses.jsonl").read_bytes() == (resumed.folder / "responses.jsonl").read_bytes()
    assert not (tmp_path / "b" / "store" / "state" / "check").exists()


def test_an_endpoint_answers_in_the_place_of_a_model(
    teacher_server: "Teacher", talker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEACHER_KEY", "sk-secret-42")
    price = {"prompt": 1.0, "answer": 2.0}
    stage = Responses(prompts=prompts(tmp_path), endpoint=at(teacher_server, price_per_million_tokens=price))
    stage.plan(read_facts(talker))
    stage.ready()
    teacher_server.moods.extend([429, "hang-up", "{}"])
    made = run_on(stage, talker, tmp_path / "home")
    counts = made.manifest["counts"]
    assert (counts["pairs"], counts["prompt_tokens"], counts["answer_tokens"]) == (12, 120, 144)
    assert counts["price"] == pytest.approx((120 + 2 * 144) / 1e6)
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"sk-secret-42" not in path.read_bytes(), path


def at(server: "Teacher", **changes: Any) -> dict[str, Any]:
    given = {"url": server.url, "model": "m", "terms_accepted": True, "key_variable": "TEACHER_KEY", "pause": 0.01}
    return given | changes


def test_an_endpoint_that_breaks_loses_no_answer(
    teacher_server: "Teacher", talker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEACHER_KEY", "k")
    stage = Responses(prompts=prompts(tmp_path), endpoint=at(teacher_server, parallel=1, retries=0))
    teacher_server.moods.extend([None] * 5 + [500])
    with pytest.raises(StageFailed, match="status 500"):
        run_on(stage, talker, tmp_path / "home")
    made = run_on(stage, talker, tmp_path / "home")
    assert made.manifest["counts"]["pairs"] == 12
    asked = [body["messages"][0]["content"] for body in teacher_server.bodies]
    assert len(asked) == 13 and len(set(asked)) == 12  # only the one that failed was sent again


def test_reasoning_keeps_what_is_right(teacher_server: "Teacher", talker: Path, tmp_path: Path) -> None:
    def answer(body: dict[str, Any]) -> dict[str, Any]:
        """Says 2 i to i + i below 10, and i beyond; forgets the form for 3."""
        number = int(body["messages"][-1]["content"].split()[2])
        said = f"Well, {number} and {number}.\nFinal answer: {2 * number if number < 10 else number}"
        text = "Six." if number == 3 else said
        return {"choices": [{"message": {"content": text}, "finish_reason": "stop"}]}

    teacher_server.answer = answer  # type: ignore[method-assign]
    endpoint = at(teacher_server, key_variable=None)
    made = run_on(Responses(prompts=prompts(tmp_path), template="reasoning", endpoint=endpoint), talker, tmp_path / "h")
    counts = made.manifest["counts"]
    assert counts["pairs"] == 9 and counts["dropped"]["wrong"] == 2 and counts["dropped"]["no_final_answer"] == 1
    pair = read_pairs(made.folder / "responses.jsonl")[0]
    assert "Final answer:" in pair.messages[0]["content"] and "Final answer: 0" in pair.answer


def test_the_fingerprint_follows_the_content(tmp_path: Path) -> None:
    def fingerprint(inputs: dict[str, str] | None = None, dtype: str = "float32", **changes: Any) -> str:
        stage = Responses(**changes)
        return stage.fingerprint({"teacher": "t"} | stage.named_inputs() | (inputs or {}), dtype, 0)

    (tmp_path / "other").mkdir()
    one, same = prompts(tmp_path), prompts(tmp_path / "other")
    assert fingerprint(prompts=one) == fingerprint(prompts=same, teacher="previous")
    assert fingerprint(prompts=one) != fingerprint(prompts=prompts(tmp_path / "other", 11))
    assert fingerprint(prompts=one) != fingerprint(prompts=one, temperature=0.5)
    lines = tmp_path / "prompts.txt"  # the same bytes, read as one prompt a line
    lines.write_bytes(Path(one).read_bytes())
    assert fingerprint(prompts=one) != fingerprint(prompts=str(lines))
    server = {"url": "http://host/v1", "model": "m"}
    asked = fingerprint(prompts=one, endpoint=server)
    assert asked == fingerprint(prompts=one, endpoint=server | {"url": "http://host/v1/", "parallel": 2}, batch=3)
    assert asked == fingerprint(prompts=one, endpoint=server, dtype="bfloat16")
    assert asked != fingerprint(prompts=one, endpoint=server | {"model": "n"}) != fingerprint(prompts=one)


def test_only_prompts_from_the_text_depend_on_it(tmp_path: Path) -> None:
    assert "train" in Responses().needs() and "train" not in Responses(prompts=prompts(tmp_path)).needs()
    assert Responses(endpoint={"url": "http://h/v1", "model": "m"}).teacher_spec() is None


def test_what_cannot_be_asked_is_a_sentence(talker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = read_facts(talker)
    server = {"url": "http://127.0.0.1:9/v1", "model": "m", "key_variable": "TEACHER_KEY"}
    with pytest.raises(BadInput, match="terms_accepted"):
        Responses(endpoint=server).plan(facts)
    monkeypatch.delenv("TEACHER_KEY", raising=False)
    stage = Responses(endpoint=server | {"terms_accepted": True})
    with pytest.raises(BadInput, match=r"TEACHER_KEY.*is not set"):
        stage.ready()
    monkeypatch.setenv("TEACHER_KEY", "k")
    with pytest.raises(BadInput, match="cannot be reached"):
        stage.ready()
    with pytest.raises(BadInput, match=r"generate\.responses: the data file .* does not exist"):
        Responses(prompts=str(tmp_path / "absent.jsonl")).named_inputs()
    with pytest.raises(BadInput, match="no prompt fits into the 1024 tokens"):
        run_on(Responses(prompts=prompts(tmp_path), max_new_tokens=1024), talker, tmp_path / "home")
