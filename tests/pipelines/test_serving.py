"""Who wants to see a run in MLflow is sent to the server that is there, while it is there."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from attar.errors import BadInput
from pipelines import mlflow_link, mlflow_place, serving
from pipelines.home import Home

ADDRESS = "http://127.0.0.1:5055"
PAGE = "/#/experiments/1/runs/r"
SERVE = """
import sys
from pathlib import Path
from pipelines import serving
from pipelines.home import Home

home = Home.open(Path(sys.argv[1]))
serving.begin(home)
print("begun", flush=True)
serving.tell(home, sys.stdin.readline().strip())
print("told", flush=True)
sys.stdin.read()
"""


class Serving:
    """A process that serves a home, with nothing behind it."""

    def __init__(self, home: Home) -> None:
        command = [sys.executable, "-c", SERVE, str(home.root)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.heard("begun")

    def heard(self, word: str) -> None:
        assert self.process.stdout is not None and self.process.stdout.readline() == f"{word}\n"

    def tell(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{ADDRESS}\n")
        self.process.stdin.flush()
        self.heard("told")

    def die(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def place(home: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home with a tracked run, whose user named no server."""
    for name in ("MLFLOW_TRACKING_URI", mlflow_link.BROWSED):
        monkeypatch.delenv(name, raising=False)
    made = Home.open(home)
    folder = made.runs / "r1"
    folder.mkdir(parents=True)
    (folder / "mlflow.json").write_text(json.dumps({"experiment": "1", "runs": {"parent": "r"}}))
    return made


def opened(home: Home) -> str:
    """How a user is told to see the run."""
    told = mlflow_link.open_command(home, home.runs / "r1")
    assert told is not None and PAGE in told
    return told


def test_a_server_that_is_there_is_named_and_no_second_one(place: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "mlflow server" in opened(place)
    one = Serving(place)
    try:
        assert "mlflow server" in opened(place)  # it does not answer yet
        one.tell()
        assert opened(place).startswith(f"{ADDRESS}{PAGE}")
        compared = mlflow_link.comparison(place, place.runs / "r1")
        assert compared is not None and compared.startswith(f"{ADDRESS}/")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", ADDRESS)
        assert mlflow_place.here(place) == mlflow_place.HOME  # whoever is told of the server tracks in the home
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://other.example:5000")  # where its runs are sent then
        assert opened(place).startswith(f"http://other.example:5000{PAGE}")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///other.db")
        assert "mlflow server" in opened(place) and ADDRESS not in opened(place)
    finally:
        one.die()


def test_a_run_is_shown_by_the_server_that_has_it(place: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a shell that names none, too."""
    team, folder = "http://team.example:5000", place.runs / "r1"
    known = {"experiment": "1", "place": team, "runs": {"parent": "r"}}
    (folder / "mlflow.json").write_text(json.dumps(known))
    for named in (None, f"{team}/", team.replace("//", "//me:secret@")):
        if named:
            monkeypatch.setenv("MLFLOW_TRACKING_URI", named)
        assert opened(place).startswith(f"{team}{PAGE}")
        compared = mlflow_link.comparison(place, folder)
        assert compared is not None and compared.startswith(f"{team}/#")


def test_what_a_killed_server_left_behind_names_nobody(place: Home) -> None:
    first = Serving(place)
    first.tell()
    with pytest.raises(BadInput, match="is being served already"):
        serving.begin(place)
    assert serving.mlflow(place) == ADDRESS
    first.die()
    assert serving.mlflow(place) is None and "mlflow server" in opened(place)
    second = Serving(place)
    try:
        assert serving.mlflow(place) is None  # the first one's address is not its own
    finally:
        second.die()


def test_a_home_that_cannot_be_written_is_a_sentence(place: Home) -> None:
    (place.root / "served").write_text("")
    with pytest.raises(BadInput, match="cannot be written"):
        serving.begin(place)
