"""A forked job computes what a spawned one does, on as many threads, and knows no password that is not its own."""

import hashlib
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from attar import testing
from pipelines.child import QUIET, events_file, run_child
from stages import parse
from stages.spec import StageSpec

TRAINED = {"stage": "distill.logit", "keep": 3, "train_tokens": 1024, "batch": 4, "length": 64, "learning_rate": 1e-3}


def spec(model: Path, text: Path, home: Path) -> StageSpec:
    """A training on two threads."""
    home.mkdir()
    told: dict[str, Any] = testing.job(parse(TRAINED), model, text, home, "x", "float32")
    return StageSpec(**told | {"events": str(events_file(home / "job")), "machine": told["machine"] | {"threads": 2}})


def hashes(home: Path) -> dict[str, str]:
    """The weights and settings a job made."""
    files = sorted((home / "store" / "model" / "x").glob("*.*"))
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in files if f.name != "manifest.json"}


def test_forked_and_spawned_jobs_make_the_same_bytes(model: Path, text: Path, tmp_path: Path) -> None:
    forked, spawned = spec(model, text, tmp_path / "forked"), spec(model, text, tmp_path / "spawned")
    run_child(forked, tmp_path / "forked" / "job", "training")
    file = tmp_path / "spec.json"
    file.write_text(spawned.model_dump_json())
    Path(spawned.events).parent.mkdir()
    environment = {**os.environ, **QUIET, "OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"}
    subprocess.run([sys.executable, "-P", "-m", "stages", str(file)], env=environment, check=True)
    made = hashes(tmp_path / "forked")
    assert "model.safetensors" in made and made == hashes(tmp_path / "spawned")


def test_jobs_do_not_get_what_only_servers_need(
    model: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The variables of Prefect and MLflow may hold passwords; a child of the job would show them all."""
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
    monkeypatch.setenv("PREFECT_API_KEY", "secret")
    home = tmp_path / "home"
    seen: list[bytes] = []

    def look(event: dict[str, Any]) -> None:
        seen.extend(environments())

    run_child(spec(model, text, home), home / "job", "training", look)
    assert seen and b"secret" not in b"".join(seen)


def environments() -> list[bytes]:
    """Of the processes that this one started, as the system shows them."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with suppress(OSError):  # it may have ended by now
            found.append(Path(f"/proc/{child.pid}/environ").read_bytes())
    return found
