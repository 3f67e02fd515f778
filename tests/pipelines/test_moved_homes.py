"""A home that was moved or copied tells its own folders, not those where it was made."""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pipelines import cli, html_report, report, sweep
from pipelines.home import Home

if TYPE_CHECKING:
    from tests.pipelines.conftest import Shelf

RUN = "2026-1-mine"


@pytest.mark.parametrize("moved", [True, False])
def test_models_lie_in_the_home_that_is_asked(
    shelf: "Shelf", tmp_path: Path, moved: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    row = shelf.run(RUN, "mine", ("m1", 50, 0.1))[-1]
    there = Home(tmp_path / "elsewhere")
    (shutil.move if moved else shutil.copytree)(shelf.home.root, there.root)
    expected = str(there.store.folder("model", row.fingerprint))
    with pytest.raises(SystemExit, match="0"):
        cli.main(["show", RUN, "--home", str(there.root), "--json"])
    origin, model = json.loads(capsys.readouterr().out)["rows"]
    assert (model["folder"], origin["folder"]) == (expected, str(shelf.model))  # which lies in no home
    page = html_report.write(there, [RUN], tmp_path / "page.html").read_text()
    assert expected in page and str(shelf.home.root) not in page


def test_a_sweep_lies_in_the_home_that_is_asked(shelf: "Shelf", tmp_path: Path) -> None:
    row = shelf.run(RUN, "mine", ("m1", 50, 0.1))[-1]
    folder = shelf.home.root / "sweeps" / "mine-0123abcd"
    folder.mkdir(parents=True)
    told = {"number": 1, "values": {"seed": 1}, "status": "finished", "run": RUN, "text": "", "row": vars(row)}
    (folder / sweep.TRIALS).write_text(json.dumps(told) + "\n")
    there = Home(tmp_path / "elsewhere")
    shutil.copytree(shelf.home.root, there.root)
    (trial,) = sweep.trials_in(there.root / "sweeps" / folder.name)
    assert trial.row is not None and trial.row.folder == str(there.store.folder("model", row.fingerprint))


def test_a_model_that_only_another_home_has_is_told_where_it_is(shelf: "Shelf", tmp_path: Path) -> None:
    """Such as an origin that is a model of another home."""
    row = shelf.run(RUN, "mine", ("m1", 50, 0.1))[-1]
    there = Home(tmp_path / "elsewhere")
    shutil.copytree(shelf.home.runs, there.runs)
    found = report.load(there.runs / RUN)
    assert found is not None and found.final.folder == row.folder
