"""distill.response: learns answers, keeps its place after a crash, says what it cannot do."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from attar.checkpoint import read_facts
from attar.errors import BadInput, Cancelled
from attar.events import Events, read
from attar.model import Model
from attar.responses.chat import Chat
from attar.responses.decoding import Decoding
from attar.responses.generation import answer_all
from attar.responses.prompts import Prompt
from attar.testing import check_stage, job, run_on, write_text
from attar.tiny import tiny_model
from stages.distill_response import Response

SHORT: dict[str, Any] = {"train_tokens": 512, "batch": 2, "length": 64, "learning_rate": 1e-3}
PAIRS = [
    (f"Name number {i}.", f"It is {['one', 'two', 'three', 'four', 'five'][i % 5]}, of course.") for i in range(20)
]


@pytest.fixture
def pairs(tmp_path: Path) -> str:
    return str(write_pairs(tmp_path / "pairs.jsonl", PAIRS))


def write_pairs(file: Path, pairs: list[tuple[str, str]]) -> Path:
    file.write_text("".join(json.dumps({"prompt": p, "answer": a}) + "\n" for p, a in pairs))
    return file


def test_keeps_the_contract(pairs: str, tmp_path: Path) -> None:
    """With everything in it: answers and people's pairs, cross-entropy and a teacher."""
    human = write_pairs(tmp_path / "human.jsonl", [("Why?", "Because.")])
    made = check_stage(Response(keep=3, responses=pairs, human=str(human), human_ratio=0.5, alpha=0.5, **SHORT))
    assert read_facts(made.folder).layers == 3


def test_the_first_loss_is_that_of_the_answers_half_of_them_peoples(tmp_path: Path) -> None:
    """Cut to one length, both pairs stand in every batch as often; their prompts are context."""
    folder, length = tiny_model(tmp_path / "model"), 24
    files, learned = [], []
    model: Any = Model(folder).materialize(torch.float32)
    for name, question, answer in (("made", "What is it?", "A small brown fox. "), ("human", "Who?", "The queen. ")):
        files.append(str(write_pairs(tmp_path / f"{name}.jsonl", [(question, answer * 20)])))
        chat = Chat(folder)
        asked = chat.prompt([{"role": "user", "content": question}])
        ids = torch.tensor((asked + chat.answer((answer * 20).strip()))[:length])
        assert 1 < len(asked) < length - 4
        with torch.no_grad():
            logits = model(input_ids=ids[None]).logits[0, len(asked) - 1 : -1]
        learned.append(functional.cross_entropy(logits, ids[len(asked) :], reduction="none"))
    stage = Response(
        student="previous", responses=files[0], human=files[1], human_ratio=0.5, train_tokens=2 * 4 * length,
        batch=4, length=length, learning_rate=1e-3,
    )  # fmt: skip
    run_on(stage, folder, tmp_path / "home")
    told = [e for e in read(tmp_path / "home" / "events.jsonl")[0] if e["kind"] == "metric"]
    first = next(e["value"] for e in told if e["name"] == "cross_entropy")
    assert first == pytest.approx(float(torch.cat(learned).mean()), rel=1e-4)
    assert abs(float(learned[0].mean() - learned[1].mean())) > 1e-2  # either kind alone would be another number


def test_the_student_comes_to_give_the_answers(tmp_path: Path) -> None:
    """A question and its answer, learned by heart: greedy generation repeats it."""
    source = tiny_model(tmp_path / "model")
    file = write_pairs(tmp_path / "pairs.jsonl", [("What is it?", "A small brown fox."), ("Who?", "The queen.")])
    settings = SHORT | {"train_tokens": 64 * 128, "learning_rate": 5e-3}
    made = run_on(Response(student="previous", responses=str(file), **settings), source, tmp_path / "home")
    found: list[Any] = []
    prompts = [Prompt(({"role": "user", "content": text},)) for text in ("What is it?", "Who?")]
    model = Model(made.folder).materialize(torch.float32)
    answer_all(model, Chat(made.folder), prompts, Decoding(24), 2, lambda p: False, found.extend)
    assert {a.text for a in found} == {"A small brown fox.", "The queen."}
    assert {a.finish for a in found} == {"stop"}


def test_an_interrupted_training_ends_bit_for_bit_like_an_undisturbed_one(pairs: str, tmp_path: Path) -> None:
    source = tiny_model(tmp_path / "model")
    stage = Response(keep=3, responses=pairs, save_every=2, **{**SHORT, "train_tokens": 128 * 6})
    whole = run_on(stage, source, tmp_path / "a")
    home = tmp_path / "b"
    home.mkdir()
    text = write_text(home / "text.txt")
    events = Events(home / "events.jsonl")
    asked = iter([False] * 3 + [True] * 9)
    with pytest.raises(Cancelled, match="after 3 of 6 steps"):
        stage.run(stage.job(job(stage, source, text, home, "check", "float32")), events, lambda: next(asked))
    resumed = run_on(stage, source, home)
    files = {name: entry["sha256"] for name, entry in whole.manifest["files"].items()}
    assert files == {name: entry["sha256"] for name, entry in resumed.manifest["files"].items()}
    steps = [e["step"] for e in read(home / "events.jsonl")[0] if e["kind"] == "metric" and e["name"] == "loss"]
    assert steps == list(range(6))


def test_the_answers_count_by_content_and_not_by_the_files_name(pairs: str, tmp_path: Path) -> None:
    def fingerprint(file: str) -> str:
        stage = Response(responses=file)
        return stage.fingerprint({"source": "x"} | stage.named_inputs(), "float32", 0)

    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(Path(pairs).read_bytes())
    changed = write_pairs(tmp_path / "changed.jsonl", PAIRS[:-1])
    assert fingerprint(pairs) == fingerprint(str(copy)) != fingerprint(str(changed))


def test_a_file_that_changes_after_the_plan_is_a_sentence(pairs: str, tmp_path: Path) -> None:
    source, home = tiny_model(tmp_path / "model"), tmp_path / "home"
    home.mkdir()
    stage = Response(keep=3, responses=pairs, **SHORT)
    told = job(stage, source, write_text(home / "text.txt"), home, "check", "float32")
    write_pairs(Path(pairs), PAIRS[:3])
    with pytest.raises(BadInput, match="the responses have changed since this run was planned"):
        stage.run(stage.job(told), Events(None))


def test_no_teacher_and_no_text_are_asked_for_answers_alone() -> None:
    assert Response().teacher_spec() is None and Response(alpha=0.5).teacher_spec() == "origin"
    assert Response().tokens() == {} and "responses" in Response().needs()
    assert "responses" not in Response(responses="pairs.jsonl").needs()


@pytest.mark.parametrize("given", [{"human_ratio": 0.5}, {"human": "people.jsonl"}])
def test_people_and_their_share_go_together(given: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="go together"):
        Response(**given).plan(read_facts(tiny_model(tmp_path / "model")))


def test_pairs_longer_than_learned_positions_are_refused(tmp_path: Path) -> None:
    facts = read_facts(tiny_model(tmp_path / "model", "opt"))
    assert Response(keep=3, length=512).plan(facts).layers == 3
    with pytest.raises(BadInput, match=r"distill\.response: length=513 is longer than the 512 positions"):
        Response(keep=3, length=513).plan(facts)


def test_what_it_cannot_learn_from_is_a_sentence(pairs: str, tmp_path: Path) -> None:
    source = tiny_model(tmp_path / "model")
    with pytest.raises(BadInput, match=r"distill\.response: the data file .*absent"):
        Response(responses=str(tmp_path / "absent.jsonl")).named_inputs()
    with pytest.raises(BadInput, match=r"no responses to learn from; put generate\.responses"):
        run_on(Response(keep=3, **SHORT), source, tmp_path / "home")
    packed = read_facts(source).changed(quantization_config={"quant_method": "gptq", "bits": 4, "group_size": 16})
    with pytest.raises(BadInput, match=r"distill\.response: the incoming model holds packed integers"):
        Response().plan(packed)
