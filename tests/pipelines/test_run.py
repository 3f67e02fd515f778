"""Whole runs of the smoke recipe: what they report, what a second one does, what a killed one loses."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from safetensors import safe_open

from attar import events
from attar.checkpoint import read_facts
from attar.fingerprint import sha256_file

if TYPE_CHECKING:
    from tests.pipelines.conftest import Attar

SAVE_EVERY = 2  # of the smoke recipe
STAGES = ("distill.logit", "prune.width", "quantize.gptq", "finetune.scales")


def test_the_report_tells_what_lies_on_disk(attar: "Attar", finished: dict[str, Any]) -> None:
    rows = finished["rows"]
    assert [row["name"] for row in rows] == ["origin", *STAGES]
    for row in rows:
        folder = Path(row["folder"])
        on_disk = sum(path.stat().st_size for path in folder.iterdir() if path.name != "manifest.json")
        assert row["bytes"] == on_disk == read_facts(folder).bytes
    assert rows[0]["retained"] == 1 and rows[0]["kl"] == 0 and rows[0]["agreement"] == 1
    assert [row["cached"] for row in rows[1:]] == [False] * 4
    folder = Path(finished["folder"])
    for name in ("report.json", "report.md", "table.csv", "pareto.png", "recipe.yaml", "journal.jsonl"):
        assert (folder / name).stat().st_size > 0
    links = sorted((folder / "models").iterdir())
    assert [link.resolve() for link in links] == [Path(row["folder"]) for row in rows]


def test_the_plan_foresees_the_sizes(attar: "Attar", finished: dict[str, Any]) -> None:
    for step, row in zip(attar("plan")["steps"], finished["rows"], strict=True):
        assert step["fingerprint"] == row["fingerprint"] and step["parameters"] == row["parameters"]
        assert abs(step["bytes"] - row["bytes"]) < 20_000  # headers of the files and the side files' growth


def test_a_job_is_told_how_much_it_writes(attar: "Attar", finished: dict[str, Any]) -> None:
    told = {}
    for record in attar.records(finished["run"], "child"):
        spec = json.loads(Path(record["events"]).with_name("spec.json").read_text())
        told[record["step"], record["what"]] = spec["disk"]
    origin, *rows = finished["rows"]
    hidden = attar.home / "store" / "evaluation" / origin["evaluation"] / "hidden.safetensors"
    assert 0 < told[0, "measure"] < hidden.stat().st_size < told[0, "measure"] + 1000  # its header
    for row in rows:
        assert told[row["step"], "measure"] == 0 and told[row["step"], "stage"] > row["bytes"] - 20_000


def test_the_same_recipe_again_executes_nothing(attar: "Attar", finished: dict[str, Any]) -> None:
    before = artifacts(attar.home)
    assert all(step["cached"] and step["measured"] for step in attar("plan")["steps"])
    again = attar("run", "--no-track")
    assert attar.records(again["run"], "child") == []
    assert artifacts(attar.home) == before
    compared = ("fingerprint", "perplexity_other", "kl", "bytes", "seconds")
    for row, old in zip(again["rows"], finished["rows"], strict=True):
        assert row["cached"] == (row["step"] > 0)
        assert {key: row[key] for key in compared} == {key: old[key] for key in compared}


def test_a_change_in_the_third_stage_runs_the_third_and_fourth(attar: "Attar", finished: dict[str, Any]) -> None:
    change = "stages.2.damping=0.1"
    steps = attar("plan", change)["steps"]
    assert [step["cached"] for step in steps] == [True, True, True, False, False]
    assert [step["measured"] for step in steps] == [True, True, True, False, False]
    result = attar("run", change, "--no-track")
    ran = [(record["step"], record["what"]) for record in attar.records(result["run"], "child")]
    assert ran == [(3, "stage"), (3, "measure"), (4, "stage"), (4, "measure")]


def test_a_damaged_artifact_is_not_used(attar: "Attar", finished: dict[str, Any], tmp_path: Path) -> None:
    """A flipped byte in an input is found before anything is computed from it."""
    home = tmp_path / "home"
    shutil.copytree(attar.home / "store", home / "store")
    shutil.rmtree(home / "store" / "model" / finished["rows"][2]["fingerprint"])
    weights = home / "store" / "model" / finished["rows"][1]["fingerprint"] / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    command = attar.command("run", "--no-track")
    command[command.index(str(attar.home))] = str(home)
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 4
    assert "error: " in done.stderr and "is not what was stored" in done.stderr
    assert "Traceback" not in done.stderr


def test_kill_in_every_stage_then_run_again(
    attar: "Attar", finished: dict[str, Any], text: Path, tmp_path: Path
) -> None:
    """SIGKILL amid each stage: no finished stage is lost, training goes on from its state, the bits are the same."""
    killed = type(attar)(tmp_path / "home", text)
    saved: dict[int, int] = {}  # training stage → steps that its state held when it was killed
    runs: list[Path] = []
    for index, name in enumerate(STAGES, start=1):
        fingerprint = finished["rows"][index]["fingerprint"]
        runs.append(kill_amid(killed, index, name, fingerprint))
        for row in finished["rows"][1:index]:
            assert (killed.home / "store" / "model" / row["fingerprint"] / "manifest.json").is_file()
        if trains(name):
            saved[index] = steps_in_state(killed.home / "store" / "state" / fingerprint)
            assert 0 <= losses(runs[-1], index, name)[-1] + 1 - saved[index] <= SAVE_EVERY
    result = killed("run", "--no-track")
    runs.append(Path(result["folder"]))
    for index, steps in saved.items():
        assert losses(runs[index], index, STAGES[index - 1])[0] == steps  # the run after the kill goes on there
    for row, reference in zip(result["rows"], finished["rows"], strict=True):
        assert contents(Path(row["folder"])) == contents(Path(reference["folder"])), row["name"]
    assert not any((killed.home / "store" / "tmp").iterdir())
    assert not any((killed.home / "store" / "state").iterdir())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_stopped_run_ends_its_child_and_says_so(
    attar: "Attar", finished: dict[str, Any], number: signal.Signals
) -> None:
    """Ctrl-C in the terminal and Prefect's cancelling: exit code 130, one sentence, nobody left behind."""
    before = set(attar.home.glob("runs/*"))
    long = ("stages.3.train_tokens=1_000_000", f"stages.3.learning_rate={number.value}e-5")
    process = start(attar, *long)
    folder = wait_for_progress(process, attar.home, before, 4, STAGES[3])
    children = psutil.Process(process.pid).children(recursive=True)
    assert any("stages" in words_of(child) for child in children)
    os.killpg(process.pid, number)  # the whole group, as a terminal does
    process.wait()
    error = (attar.home / "stderr").read_text()
    assert process.returncode == 130
    assert "cancelled; run the same command again to go on" in error and "Traceback" not in error
    psutil.wait_procs(children)
    ends = attar.records(folder.name, "end-step") + attar.records(folder.name, "end-run")
    assert [record["status"] for record in ends] == ["finished"] * 4 + ["cancelled"] * 2


def start(attar: "Attar", *more: str) -> "subprocess.Popen[bytes]":
    """``attar run`` in the background; a process group of its own, as in a terminal; what it says goes to a file."""
    attar.home.mkdir(exist_ok=True)
    # What a shell starts in the background ignores SIGINT, and so does all that it starts: the tests may be such.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with open(attar.home / "stderr", "wb") as file:
        return subprocess.Popen(
            attar.command("run", *more), stdout=subprocess.DEVNULL, stderr=file, start_new_session=True
        )


def wait_for_progress(
    process: "subprocess.Popen[bytes]", home: Path, before: set[Path], index: int, name: str, file: Path | None = None
) -> Path:
    """Wait until a stage of a new run reports progress (and ``file`` is there); the run's folder."""
    while True:
        assert process.poll() is None, (home / "stderr").read_text()
        folder = next(iter(set(home.glob("runs/*")) - before), None)
        if folder is not None:
            seen, _ = events.read(job_events(folder, index, name))
            if any(event["kind"] == "progress" for event in seen) and (file is None or file.exists()):
                return folder
        time.sleep(0.01)


def trains(name: str) -> bool:
    return name.startswith(("distill", "finetune"))


def kill_amid(killed: "Attar", index: int, name: str, fingerprint: str) -> Path:
    """Start a run, kill it when the stage is at work (a training: after its first save); the run's folder."""
    before = set(killed.home.glob("runs/*"))
    process = start(killed, "--no-track")
    state = killed.home / "store" / "state" / fingerprint / "training.safetensors"
    folder = wait_for_progress(process, killed.home, before, index, name, state if trains(name) else None)
    children = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    psutil.wait_procs(children)  # job and server die with their parent
    return folder


def words_of(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def job_events(run: Path, index: int, name: str) -> Path:
    return run / "jobs" / f"{index}-{name}-stage" / "events.jsonl"


def losses(run: Path, index: int, name: str) -> list[int]:
    """Steps of the loss curve that a run's process wrote."""
    seen, _ = events.read(job_events(run, index, name))
    return [event["step"] or 0 for event in seen if event["kind"] == "metric" and event["name"] == "loss"]


def steps_in_state(folder: Path) -> int:
    with safe_open(folder / "training.safetensors", framework="np") as file:
        return int(file.metadata()["steps"])


def contents(folder: Path) -> dict[str, str]:
    """Hash of every file of a model but the manifest, which tells of time and machine."""
    return {path.name: sha256_file(path) for path in folder.iterdir() if path.name != "manifest.json"}


def artifacts(home: Path) -> dict[str, float]:
    """Every stored file with its time of change."""
    return {str(path): path.stat().st_mtime for path in home.glob("store/*/*/*") if path.is_file()}
