"""Runs that others start: from the form, on a schedule, cancelled, killed, retried; nothing is computed twice."""

import json
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError

import psutil
import pytest

from tests.services.conftest import SECRET

if TYPE_CHECKING:
    from tests.services.conftest import Served


def until_the_second_stage(served: "Served", run: str) -> None:
    """Wait until a long run has finished its first stage and computes the second one."""

    def is_there() -> bool:
        state = served.flow_run(run)["state"]
        assert state["type"] in ("SCHEDULED", "PENDING", "RUNNING"), state
        return any(record["step"] == 2 and record["what"] == "stage" for record in served.records(run, "child"))

    served.until(is_there)


def test_registering_again_changes_nothing(served: "Served") -> None:
    def seen() -> Any:
        names = ("recipe", "stages", "minutely")
        return [{key: value for key, value in served.deployment(name).items() if key != "status"} for name in names]

    before = seen()
    assert served.attar("deploy", str(served.file)) == dict.fromkeys(("recipe", "stages", "minutely"), "unchanged")
    after = seen()
    for old, new in zip(before, after, strict=True):
        for moving in ("last_polled", "updated"):  # the worker asks every few seconds
            old.pop(moving, None), new.pop(moving, None)
    assert after == before


def test_the_form_makes_what_the_command_line_makes(served: "Served") -> None:
    run = served.submit("recipe", recipe="small", overrides=["stages.0.ffn=0.5"], seed=3)
    state = served.wait(run)
    assert state["type"] == "COMPLETED", state["message"]
    recipe = str(served.folder / "recipes" / "small.yaml")
    planned = served.attar("plan", recipe, "stages.0.ffn=0.5", "seed=3")
    assert all(step["cached"] and step["measured"] for step in planned["steps"])
    fingerprints = [step["fingerprint"] for step in planned["steps"]]
    rows = json.loads((served.folders(run)[0] / "report.json").read_text())["rows"]
    assert [row["fingerprint"] for row in rows] == fingerprints
    assert len(served.computed(run)) == 2

    stages = served.deployment("stages")["parameters"]["stages"]
    stages[0] |= {"ffn": 0.5}
    again = served.submit("stages", stages=stages, seed=3)
    assert served.wait(again)["type"] == "COMPLETED"
    assert [
        row["fingerprint"] for row in json.loads((served.folders(again)[0] / "report.json").read_text())["rows"]
    ] == fingerprints
    assert served.computed(again) == []


def test_a_finished_run_is_found_in_mlflow_and_says_what_it_did(served: "Served") -> None:
    run = served.submit("recipe", recipe="small")
    assert served.wait(run)["type"] == "COMPLETED"
    name = served.folders(run)[0].name
    assert served.tracked()[name] == "FINISHED"
    assert name in served.flow_run(run)["name"]
    (why,) = served.records(run, "why")
    mine = {"logs": {"flow_run_id": {"any_": [run]}}, "limit": 200}
    served.until(lambda: any(why["text"] in line["message"] for line in served.ask("logs/filter", mine)))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [(["stages.0.fnn=0.3"], "ffn"), (["stages.0.ffn=2"], "ffn")],
    ids=["typo", "out of bounds"],
)
def test_bad_input_is_a_sentence_in_the_state(served: "Served", overrides: list[str], said: str) -> None:
    run = served.submit("recipe", recipe="small", overrides=overrides)
    state = served.wait(run)
    assert state["type"] == "FAILED"
    assert said in state["message"] and "Traceback" not in state["message"]
    assert served.flow_run(run)["name"] == f"small {overrides[0]}"
    assert not served.folders(run)


def test_what_a_failure_quotes_is_without_secrets(served: "Served") -> None:
    """In the message that everybody sees; what the person typed stands among the run's parameters, as typed."""
    secret = SECRET["TEACHER_TOKEN"]
    run = served.submit("recipe", recipe="small", overrides=[f"model=/absent/{secret}"])
    state = served.wait(run)
    assert state["type"] == "FAILED" and "/absent/…" in state["message"]
    lines = served.ask("logs/filter", {"logs": {"flow_run_id": {"any_": [run]}}, "limit": 200})
    assert secret not in json.dumps([state, served.flow_run(run)["name"], [line["message"] for line in lines]])


@pytest.mark.parametrize(
    "values", [{"recipe": "../../etc/passwd"}, {"overrides": ["stages.0.ffn"]}], ids=["recipe", "override"]
)
def test_what_the_form_does_not_offer_is_refused_at_once(served: "Served", values: dict[str, Any]) -> None:
    with pytest.raises(HTTPError) as refusal:
        served.submit("recipe", **values)
    assert 400 <= refusal.value.code < 500


def test_a_cancelled_run_ends_with_its_children_and_keeps_what_is_finished(served: "Served") -> None:
    run = served.submit("recipe", recipe="long", seed=1)
    until_the_second_stage(served, run)
    (flow,) = served.flow_processes()
    family = [flow, *flow.children(recursive=True)]
    assert len(family) > 1
    served.set_state(run, "CANCELLING", "Cancelling")
    assert served.wait(run)["type"] == "CANCELLED"
    psutil.wait_procs(family)
    (folder,) = served.folders(run)
    assert served.records(run, "end-run")[0]["status"] == "cancelled"
    assert served.tracked()[folder.name] == "KILLED"
    planned = served.attar("plan", str(served.folder / "recipes" / "long.yaml"), "seed=1")
    assert [step["cached"] for step in planned["steps"]] == [True, True, False]


def test_a_run_that_is_deaf_when_it_is_cancelled_is_closed_everywhere(served: "Served") -> None:
    """Prefect kills it after its grace, and calls that well ended: only the worker can tell MLflow."""
    run = served.submit("recipe", recipe="long", seed=7)
    until_the_second_stage(served, run)
    (flow,) = served.flow_processes()
    (folder,) = served.folders(run)
    served.until(lambda: served.tracked()[folder.name] == "RUNNING")
    flow.send_signal(signal.SIGSTOP)
    served.set_state(run, "CANCELLING", "Cancelling")
    served.until(lambda: served.tracked()[folder.name] == "KILLED")
    assert served.wait(run)["type"] == "CANCELLED"
    assert not served.records(run, "end-run")


def test_a_run_whose_worker_is_asked_to_end_is_cancelled_everywhere(served: "Served") -> None:
    run = served.submit("recipe", recipe="long", seed=6)
    until_the_second_stage(served, run)
    served.worker().terminate()  # attar serve starts another one
    state = served.wait(run)
    assert state["type"] == "CANCELLED" and "worker" in state["message"], state
    (folder,) = served.folders(run)
    assert served.records(run, "end-run")[0]["status"] == "cancelled"
    served.until(lambda: served.tracked()[folder.name] == "KILLED")


def test_a_run_whose_job_was_asked_to_end_is_cancelled_everywhere(served: "Served") -> None:
    run = served.submit("recipe", recipe="long", seed=5)
    until_the_second_stage(served, run)
    (flow,) = served.flow_processes()
    folder = served.folders(run)[0]

    def job() -> psutil.Process | None:
        for process in flow.children(recursive=True):
            with suppress(psutil.Error):
                if any(f"{folder.name}/jobs/2-" in file.path for file in process.open_files()):
                    return process
        return None

    # Its first word says that it listens.
    served.until(lambda: any(file.read_text() for file in folder.glob("jobs/2-*/events.jsonl")))
    found: psutil.Process = served.until(job)
    found.terminate()
    state = served.wait(run)
    assert state["type"] == "CANCELLED" and "Traceback" not in state["message"], state
    assert served.records(run, "end-run")[0]["status"] == "cancelled"
    assert served.tracked()[folder.name] == "KILLED"


def test_a_killed_flow_is_crashed_and_a_retry_computes_nothing_twice(served: "Served") -> None:
    # The shorter training is finished by the retry; of the long one nobody sees the end.
    tokens = "stages.1.train_tokens=400000"
    run = served.submit("recipe", recipe="long", seed=2, overrides=[tokens])
    until_the_second_stage(served, run)
    (flow,) = served.flow_processes()
    family = [flow, *flow.children(recursive=True)]
    flow.send_signal(signal.SIGKILL)
    assert served.wait(run)["type"] == "CRASHED"
    psutil.wait_procs(family)
    first = served.folders(run)[0].name
    served.until(lambda: served.tracked()[first] == "KILLED")  # before anything else is started
    served.set_state(run, "SCHEDULED", "AwaitingRetry")  # prefect flow-run retry
    served.until(lambda: served.flow_run(run)["state"]["type"] not in ("SCHEDULED", "PENDING", "CRASHED"))
    state = served.wait(run)
    assert state["type"] == "COMPLETED", state["message"]
    made = served.computed(run)
    assert len(made) == len(set(made)) == 2


def test_a_schedule_fires_and_the_second_time_there_is_nothing_to_compute(served: "Served") -> None:
    deployment = served.deployment("minutely")
    (schedule,) = deployment["schedules"]
    mine = {"deployments": {"id": {"any_": [deployment["id"]]}}}

    def switch(active: bool) -> None:
        served.ask(f"deployments/{deployment['id']}/schedules/{schedule['id']}", {"active": active}, "PATCH")

    def finished() -> list[dict[str, Any]]:
        found = served.flow_runs(**mine, flow_runs={"state": {"type": {"any_": ["COMPLETED"]}}})
        return sorted(found, key=lambda run: str(run["start_time"]))

    switch(True)
    try:
        served.until(lambda: len(finished()) > 1)
    finally:
        switch(False)
    first, second = finished()[:2]
    assert first["expected_start_time"] != second["expected_start_time"]
    assert served.computed(second["id"]) == []
    (why,) = served.records(second["id"], "why")
    assert "nothing to compute" in why["text"]
    assert why["text"] in json.dumps(served.flow_run(second["id"])["state"])
