"""Tasks in a recipe: asked of every model, told before the compute when wrong, shown, saved, and named by content."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from attar import scores
from attar.errors import BadInput
from attar.store import Store
from pipelines import journal, report
from pipelines.home import Home
from pipelines.plan import Plan, make_plan
from pipelines.recipe import validate

PICKED = [{"prompt": f"Is {i} more than 5?", "choices": ["yes", "no"], "answer": int(i <= 5)} for i in range(12)]
WRITTEN = [{"prompt": f"Say {i}.", "answer": i} for i in range(2)]


def planned(document: dict[str, Any], home: Path) -> Plan:
    return make_plan(validate(document), Home(home), complete=True)


@pytest.fixture
def asking(document: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """The small recipe, with two tasks of the user's own and two prompts."""
    for name, rows in (("more", PICKED), ("say", WRITTEN)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = {"tasks": [str(tmp_path / "more.jsonl"), str(tmp_path / "say.jsonl")], "generation": 2, "answer_tokens": 8}
    return document | {"stages": document["stages"][1:], "measure": document["measure"] | asked}


def test_a_run_asks_every_model_the_same_and_tells_of_it(
    asking: dict[str, Any], write: Callable[[Any], Path], home: Path
) -> None:
    asking["gates"] = [{"measure": "task/more", "min": 0}, {"measure": "task/generation", "min": 0}]
    command = [sys.executable, "-m", "pipelines.cli", "run", str(write(asking)), "--home", str(home)]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    origin, quantized = result["rows"]
    names = {"more", "say", *(f"generation/{name}" for name in ("overlap", "same", "repetition", "empty"))}
    assert set(origin["tasks"]) == set(quantized["tasks"]) == names
    assert origin["tasks"]["generation/same"]["value"] == 1 and "verdict" not in origin["tasks"]["more"]
    more = quantized["tasks"]["more"]
    assert more["chance"] == 0.5 and more["items"] == 12 and more["verdict"] is not None
    figures = (more["value"], quantized["tasks"]["generation/overlap"]["value"])
    for decision, value in zip(result["gates"], figures, strict=True):
        assert decision["kept"] and f"is kept: {100 * value:.2f} % (" in decision["text"]
    store = Store(home / "store")
    one, other = (scores.load(store.folder("evaluation", row["evaluation"])) for row in (origin, quantized))
    assert all(one[name].ids == other[name].ids for name in names)

    folder = Path(result["folder"])
    loaded = report.load(folder)
    assert loaded is not None and loaded.rows[1].tasks == quantized["tasks"]
    assert "task.generation/overlap" in (folder / "table.csv").read_text().splitlines()[0].split(",")
    assert "| more |" in (folder / "report.md").read_text()
    page = (folder / "samples.md").read_text()
    assert page.count("## ") == 2 and page.count("| 1 quantize.rtn |") == 2
    assert str(folder / "samples.md") in journal.read(folder)[-1]["files"]  # which the tracker keeps
    shown = subprocess.run(
        [sys.executable, "-m", "pipelines.cli", "show", "--home", str(home)], capture_output=True, text=True
    )
    assert shown.returncode == 0 and "more, sure and wrong" in shown.stdout

    again = planned(asking, home)
    assert all(step.cached and step.measured for step in again.steps)
    Path(asking["measure"]["tasks"][1]).write_text(json.dumps(WRITTEN[0]) + "\n")
    assert [(step.cached, step.measured) for step in planned(asking, home).steps] == [(True, False), (True, False)]


def test_what_asks_nothing_is_named_as_if_there_were_no_questions(document: dict[str, Any], home: Path) -> None:
    measure = document["measure"]
    plain = planned(document, home).steps[1]
    spelled = planned(document | {"measure": measure | {"choices": 0, "tasks": [], "answer_tokens": 9}}, home).steps[1]
    assert plain.evaluation == spelled.evaluation and not any(n.startswith("task.") for n in plain.evaluation_inputs)


@pytest.mark.parametrize(
    ("measure", "told"),
    [
        ({"tasks": ["absent.jsonl"]}, "absent.jsonl does not exist"),
        ({"choices": 3}, "measure.choices=3"),
        ({"facts": 7}, "measure.facts=7"),
        ({"generation": 500}, "measure.generation=500 prompts are asked for"),
        ({"lm_eval_folder": "mine"}, "no task named"),
        ({"tasks": "mine.jsonl"}, "measure.tasks"),
    ],
)
def test_what_cannot_be_asked_is_a_sentence_of_the_plan(
    document: dict[str, Any], home: Path, measure: dict[str, Any], told: str
) -> None:
    with pytest.raises(BadInput) as error:
        planned(document | {"measure": document["measure"] | measure}, home)
    assert told in str(error.value)
    assert not (home / "store" / "evaluation").exists()
