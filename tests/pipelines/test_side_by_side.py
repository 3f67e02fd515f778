"""Two runs side by side: what both need is computed once, and each says for whom it waits."""

import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from attar.data import Document
from attar.data.cache import kept
from attar.data.corpus import library_file
from attar.data.settings import EMBEDDED
from attar.errors import StageFailed
from attar.events import read
from attar.slots import Slot
from attar.waiting import Waiter, hold
from pipelines.child import events_file
from pipelines.estimate import Estimate
from pipelines.execution import Execution
from pipelines.home import Home
from pipelines.journal import Journal, NullTracker
from pipelines.outcome import outcome
from pipelines.plan import make_plan
from pipelines.recipe import validate
from stages.spec import MeasureSpec, StageSpec

ROUNDING = {"stage": "quantize.rtn", "group_size": 16}
TRAINING = {"stage": "distill.logit", "keep": 3, "train_tokens": 512, "batch": 2, "length": 64}
IMPORT = """
import sys
from pathlib import Path
from pipelines.home import Home
from pipelines.materials import open_model
print(open_model("random:llama", "causal-lm", Home(Path(sys.argv[1])), True).ref.fingerprint)
"""


def execution_of(document: dict[str, Any], home: Path, stage: dict[str, Any]) -> Execution:
    """A run of one stage, planned and not begun."""
    place = Home(home)
    run = place.new_run("small")
    plan = make_plan(validate(document | {"stages": [stage]}), place, True)
    return Execution(plan, run, Journal(place.runs / run, NullTracker()))


@pytest.fixture
def execution(document: dict[str, Any], home: Path) -> Execution:
    return execution_of(document, home, ROUNDING)


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


def waiting_job(spec: StageSpec | MeasureSpec, folder: Path, who: str) -> "subprocess.Popen[bytes]":
    """A job that has said that it waits."""
    events = events_file(folder)
    folder.mkdir()
    file = folder / "spec.json"
    file.write_text(spec.model_copy(update={"events": str(events), "who": who}).model_dump_json())
    with open(folder / "log.txt", "wb") as log:
        job = subprocess.Popen([sys.executable, "-m", "stages", str(file)], stderr=log)
    while not read(events)[0]:
        assert job.poll() is None
        time.sleep(0.02)
    return job


def test_a_stage_that_two_runs_need_is_computed_once(execution: Execution, tmp_path: Path) -> None:
    spec = execution.stage_spec(execution.plan.steps[1])
    with Slot("cpu", Waiter("run zero (1 prune.width)")):
        jobs = [waiting_job(spec, tmp_path / who, who) for who in ("run one", "run two")]
    assert [job.wait() for job in jobs] == [0, 0]
    (first, *_, one), (second, *_, two) = (read(events_file(tmp_path / who))[0] for who in ("run one", "run two"))
    assert first["text"] == "waiting for the CPU: run zero (1 prune.width) holds it"
    assert second["text"] == f"waiting for artifact {spec.fingerprint}: run one holds it"
    assert (one["result"]["new"], two["result"]["new"]) == (True, False)


def test_who_waits_for_a_text_says_so_and_leaves_the_cpu_to_others(
    document: dict[str, Any], home: Path, text: Path, tmp_path: Path
) -> None:
    file = library_file(home / "store" / "dataset")
    paragraphs = text.read_text().split("\n\n")
    kept(file, "", lambda: [Document(f"d{i}", f"m{i}", found) for i, found in enumerate(paragraphs)])
    planned = execution_of(document | {"data": {"source": EMBEDDED}}, home, ROUNDING)
    aside = file.rename(file.with_suffix(".aside"))
    with hold(file.with_suffix(".lock"), "", Waiter("run zero")):  # which reads it
        job = waiting_job(planned.stage_spec(planned.plan.steps[1]), tmp_path / "job", "run one")
        with hold(Slot("cpu").path, "", wait=False) as free:
            assert free
        aside.rename(file)
    assert job.wait() == 0
    first, second, *_ = read(events_file(tmp_path / "job"))[0]
    assert (first["text"], second["text"]) == (f"waiting for the text {EMBEDDED}: run zero holds it", "")


@pytest.mark.parametrize("stage", [ROUNDING, TRAINING], ids=lambda s: s["stage"])
def test_a_job_that_waits_is_cancelled_at_once(document: dict[str, Any], home: Path, stage: dict[str, Any]) -> None:
    """Also a training, which else would be given time to save."""
    made = execution_of(document, home, stage)
    with Slot("cpu", Waiter("another")):
        job = waiting_job(made.stage_spec(made.plan.steps[1]), made.folder / "job", "")
        job.terminate()
        assert job.wait() == 130
    assert read(events_file(made.folder / "job"))[0][-1]["exit_code"] == 130
    assert not list((home / "store").glob("tmp/*")) and not list((home / "store").glob("state/*"))


def test_a_crash_of_a_job_says_where(execution: Execution, tmp_path: Path) -> None:
    step = execution.plan.steps[1]
    with Slot("cpu", Waiter("another")):
        job = waiting_job(execution.stage_spec(step), tmp_path / "job", "")
        job.send_signal(signal.SIGSEGV)
        code = job.wait()
    with pytest.raises(StageFailed, match=r"1 quantize\.rtn crashed in native code \(SIGSEGV: .* under waiting\.py"):
        outcome(code, {}, step.label, tmp_path / "job" / "log.txt", {})


@pytest.mark.parametrize("do", ["stage", "measure"])
def test_a_job_whose_turn_has_come_wants_room_on_the_disk_first(execution: Execution, tmp_path: Path, do: str) -> None:
    origin, step = execution.plan.steps
    origin = replace(origin, measuring=Estimate(1, 1, cache=2 * 10**18))
    step = replace(step, work=Estimate(1, 1, state=10**18))
    spec = execution.stage_spec(step) if do == "stage" else execution.measure_spec(origin)
    with Slot("cpu", Waiter("another")):
        job = waiting_job(spec, tmp_path / "job", "")
    code, last = job.wait(), read(events_file(tmp_path / "job"))[0][-1]
    store = execution.plan.home.store.root
    words = rf"^2 quantize.rtn: up to 2,000,000,000\.0 GB are to be written, and {store} has .* kept"
    with pytest.raises(StageFailed, match=words):
        outcome(code, last, "2 quantize.rtn", tmp_path / "job" / "log.txt", {})
    assert not any(list((execution.plan.home.store.root / kind).glob("*")) for kind in ("tmp", "state", "evaluation"))
