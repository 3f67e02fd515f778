"""Two runs side by side: what both need is computed once, and each says for whom it waits."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from attar.errors import StageFailed
from attar.events import read
from attar.slots import Slot
from attar.waiting import Waiter
from pipelines.child import events_file
from pipelines.estimate import Estimate
from pipelines.execution import Execution
from pipelines.home import Home
from pipelines.journal import Journal, NullTracker
from pipelines.plan import make_plan
from pipelines.recipe import validate

IMPORT = """
import sys
from pathlib import Path
from pipelines.home import Home
from pipelines.materials import open_model
print(open_model("random:llama", "causal-lm", Home(Path(sys.argv[1])), True).ref.fingerprint)
"""


@pytest.fixture
def execution(document: dict[str, Any], home: Path) -> Execution:
    """A run of one stage, planned and not begun."""
    document["stages"] = [{"stage": "quantize.rtn", "group_size": 16}]
    place = Home(home)
    run = place.new_run("small")
    return Execution(make_plan(validate(document), place, True), run, Journal(place.runs / run, NullTracker()))


def test_two_runs_that_import_one_model_make_it_once_and_keep_their_logs_apart(home: Path) -> None:
    runs = [subprocess.Popen([sys.executable, "-c", IMPORT, str(home)], stdout=-1, text=True) for _ in range(2)]
    (first, _), (second, _) = (run.communicate() for run in runs)
    fingerprint = first.strip()
    assert [run.returncode for run in runs] == [0, 0] and second == first
    jobs = sorted((home / "imports" / fingerprint).iterdir())
    assert len(jobs) == 2
    for job in jobs:
        assert [event["kind"] for event in read(events_file(job))[0] if event["kind"] == "done"] == ["done"]
    assert [path.name for path in (home / "store" / "model").iterdir()] == [fingerprint]
    assert not list((home / "store" / "tmp").iterdir())


def test_a_stage_that_two_runs_need_is_computed_once(execution: Execution, tmp_path: Path) -> None:
    """Both wait for the CPU or the artifact; that time is no silence, and says whose work is waited for."""
    spec = execution.stage_spec(execution.plan.steps[1])
    jobs = []
    with Slot("cpu", Waiter("run zero (1 prune.width)")):
        for number in (1, 2):
            events = events_file(tmp_path / str(number))
            events.parent.mkdir()
            file = events.with_name("spec.json")
            told = spec.model_copy(update={"events": str(events), "who": f"run {number}"})
            file.write_text(told.model_dump_json())
            jobs.append(subprocess.Popen([sys.executable, "-m", "stages", str(file)]))
            while not (seen := read(events)[0]):
                assert jobs[-1].poll() is None
            holder = f"artifact {spec.fingerprint}: run 1" if number == 2 else "the CPU: run zero (1 prune.width)"
            assert seen[0]["text"] == f"waiting for {holder} holds it"
    assert [job.wait() for job in jobs] == [0, 0]
    worked = [[e["kind"] for e in read(events_file(tmp_path / n))[0]].count("progress") > 0 for n in ("1", "2")]
    assert worked == [True, False]


def test_no_stage_begins_on_a_disk_that_cannot_hold_it(execution: Execution) -> None:
    step = execution.plan.steps[1]
    execution.plan = replace(
        execution.plan, steps=(execution.plan.steps[0], replace(step, work=Estimate(1, 1, state=10**18)))
    )
    with pytest.raises(StageFailed, match=r"1 quantize\.rtn writes up to 2,000,000,000\.0 GB, and .* is finished"):
        execution.child(1, execution.stage_spec(execution.plan.steps[1]))
    assert not (execution.folder / "jobs").exists()
