"""The memory in use is what a model needs to run, whatever the text is that its quality is measured on."""

import json
from pathlib import Path

import pytest

from attar import machine
from attar.data import DataSettings
from attar.errors import BadInput
from attar.sources import folder_fingerprint
from attar.stamp import comparable
from attar.store import Store
from attar.suite import Suite
from attar.tiny import tiny_model
from pipelines.child import events_file, run_child
from stages.spec import Machine, MeasureSpec, ModelRef

ROW = 400_000  # characters
HERE = Machine(dtype="float32", threads=1)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, workshop: Path) -> Path:
    """Holds a tiny model, and a short and a long text of the same rows."""
    home = tmp_path_factory.mktemp("home")
    tiny_model(home / "model")
    words = (workshop / "text.txt").read_text().replace("\n", " ")
    long = (words * (ROW // len(words) + 1))[:ROW]
    for name, text in (("short", long[:4000]), ("long", long)):
        rows = (json.dumps({"text": f"{number} {text}"}) for number in range(150))
        (home / f"{name}.jsonl").write_text("\n".join(rows))
    return home


def job(home: Path, name: str, **inputs: str) -> MeasureSpec:
    model = ModelRef(folder=str(home / "model"), fingerprint=folder_fingerprint(home / "model", home))
    return MeasureSpec(
        home=str(home),
        events=str(events_file(home / "jobs" / name)),
        machine=HERE,
        fingerprint=name,
        model=model,
        origin=model,
        suite=Suite(windows=4, length=64, prompt=16, new_tokens=4, repeats=1),
        data=DataSettings(source=str(home / f"{name}.jsonl")),
        inputs=inputs,
        origin_evaluation=None,
    )


def test_the_text_is_no_part_of_the_memory_in_use(home: Path) -> None:
    found = {}
    for name in ("short", "long"):
        run_child(job(home, name), home / "jobs" / name, "measuring")
        found[name] = json.loads((Store(home / "store").folder("evaluation", name) / "result.json").read_text())
    needed = {name: result["peak_memory_bytes"] for name, result in found.items()}
    assert abs(needed["long"] - needed["short"]) < 150 * ROW / 2, needed
    assert found["long"]["stamp"]["memory"] == machine.MEMORY
    assert comparable(found["short"], found["long"], "peak_memory") is None  # of whatever text


def test_a_text_that_changed_since_the_plan_leaves_nothing(home: Path) -> None:
    """It is read after the model was timed."""
    spec = job(home, "short", **{"data.other": "another"}).model_copy(update={"fingerprint": "changed"})
    with pytest.raises(BadInput, match="the other text has changed since this run was planned"):
        run_child(spec, home / "jobs" / "short", "measuring")
    assert Store(home / "store").find("evaluation", "changed") is None
