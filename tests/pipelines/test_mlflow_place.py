"""The rest of a run goes to the MLflow that has its beginning, however that is called, and to no other."""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pipelines import embedded, journal, mlflow_place, tracking
from pipelines.home import Home
from pipelines.journal import Journal
from pipelines.process import LOCK
from pipelines.recipe import validate

if TYPE_CHECKING:
    from mlflow.entities import Run

TEAM = "http://team.example:5000"


@pytest.fixture
def place(home: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    for name in ("PREFECT_HOME", "MLFLOW_HTTP_REQUEST_MAX_RETRIES"):
        monkeypatch.setenv(name, "0")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    embedded.configure(Home(home))
    return Home(home)


def broken_off(home: Home, document: dict[str, Any]) -> Path:
    """A run of which MLflow has got the beginning, the server having gone away; its process has ended."""
    recipe, folder = validate(document), home.runs / "r1"
    folder.mkdir(parents=True)
    written = Journal(folder, tracking.open_tracker(recipe, home, folder, True))
    facts = {
        "name": recipe.name,
        "recipe": recipe.model_dump(mode="json"),
        "machine": {},
        "process": "",
        "flow_run": "",
    }
    written.write("run", run="r1", **facts)
    written.close()
    assert (folder / "journal.sent").read_text() == "1"
    step = {"name": "x", "label": "1 x", "cached": False, "measured": False, "fingerprint": "a", "folder": ""}
    rest = [
        {"kind": "warning", "step": None, "text": "tracking waits"},
        {"kind": "step", "step": 1, "settings": {}, "inputs": {}, **step},
        {"kind": "metrics", "step": 0, "points": [["loss", 0.5, 1, 2e9]]},
        {"kind": "end-step", "step": 1, "status": "finished"},
        {"kind": "end-run", "status": "finished", "text": "", "files": []},
    ]
    with open(folder / journal.JOURNAL, "a") as file:
        file.writelines(json.dumps({"time": 2e9, **record}) + "\n" for record in rest)
    (folder / LOCK).unlink()
    return folder


def known(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "mlflow.json").read_text())
    return found


def runs_in(uri: str) -> "list[Run]":
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    return list(client.search_runs([found.experiment_id for found in client.search_experiments()]))


@pytest.mark.parametrize("noted", [True, False], ids=["noted", "of a time before places were noted"])
def test_the_rest_waits_for_the_place_that_has_the_beginning(
    place: Home, document: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, noted: bool
) -> None:
    team = f"sqlite:///{tmp_path / 'team.db'}"
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", team)
        folder = broken_off(place, document)
    before = known(folder)
    if not noted:
        del before["place"]
        (folder / "mlflow.json").write_text(json.dumps(before))
    told: list[str] = []
    for _ in range(2):  # the second time the home has a database, though not that run
        assert tracking.sync(place, told.append) == {}
        tracking.catch_up(validate(document), place).join()
    assert journal.unsent(folder) == 5 and known(folder) == before and runs_in(place.mlflow_uri) == []
    assert len(told) == 2 and told[0].startswith("the run r1 was begun in ")
    assert f"set MLFLOW_TRACKING_URI to {team} and run attar sync again" in told[0] or not noted
    assert "MLFLOW_TRACKING_URI as it was then" in told[0] or noted

    monkeypatch.setenv("MLFLOW_TRACKING_URI", team)
    assert tracking.sync(place, told.append) == {"r1": 5} and len(told) == 2
    assert {run.info.run_name: run.info.status for run in runs_in(team)} == {"r1": "FINISHED", "1 x": "FINISHED"}
    assert all("loss" in run.data.metrics for run in runs_in(team) if run.info.run_name == "r1")
    assert known(folder)["place"] == team


def test_a_home_is_itself_wherever_it_was_moved_and_however_it_is_called(
    place: Home, document: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert known(broken_off(place, document))["place"] == "home"
    there = Home(tmp_path / "elsewhere")
    shutil.move(place.root, there.root)
    assert tracking.sync(there) == {"r1": 5}
    (there.runs / "r1" / "journal.sent").write_text("3")
    (tmp_path / "link").symlink_to(there.root)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'link' / 'mlflow.db'}")
    assert tracking.sync(there) == {"r1": 3}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'none.db'}")
    (there.runs / "r1" / "journal.sent").write_text("3")
    told: list[str] = []
    assert tracking.sync(there, told.append) == {} and not (tmp_path / "none.db").exists()
    assert "the home's own MLflow" in told[0] and "unset MLFLOW_TRACKING_URI" in told[0]


def test_a_place_is_written_down_without_credentials(place: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    for spelled in (TEAM, f"{TEAM}/", TEAM.replace("//", "//me:secret@")):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", spelled)
        assert mlflow_place.here(place) == TEAM
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{place.root / 'mlflow.db'}")
    assert mlflow_place.here(place) == "home"
