"""Chooses the tracker of a run, and sends later what could not be sent at once."""

from pathlib import Path

from attar.errors import StageFailed
from pipelines import journal
from pipelines.home import Home
from pipelines.journal import NullTracker, Record, Tracker
from pipelines.process import alive
from pipelines.recipe import Recipe, validate


def open_tracker(recipe: Recipe, home: Home, folder: Path, track: bool) -> Tracker:
    """MLflow, or nothing; a connection is made with the first record, so that a server that is down stops no run."""
    return _Late(recipe, home, folder) if track else NullTracker()


class _Late:
    """Imports and connects when the first record comes: what can fail, fails inside the journal's guard."""

    def __init__(self, recipe: Recipe, home: Home, folder: Path) -> None:
        self._given = (recipe.track, home, folder)
        self._tracker: Tracker | None = None

    def send(self, record: Record) -> None:
        if self._tracker is None:
            from pipelines.mlflow_tracker import MlflowTracker

            track, home, folder = self._given
            self._tracker = MlflowTracker(home, folder, track.experiment, track.weights)
        self._tracker.send(record)


def sync(home: Home) -> dict[str, int]:
    """Send what the tracker has not got of every run that is not running now: run id → records sent."""
    results: dict[str, int] = {}
    for folder in sorted(path for path in home.runs.glob("*") if path.is_dir()):
        records = journal.read(folder)
        begun = next((record for record in records if record["kind"] == "run"), None)
        if begun is None or journal.sent(folder) >= len(records):
            continue
        if records[-1]["kind"] != "end-run" and alive(begun["process"]):
            continue
        recipe = validate(begun["recipe"])
        try:
            results[folder.name] = journal.replay(folder, _Late(recipe, home, folder))
        except Exception as error:
            text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise StageFailed(f"the run {folder.name} could not be sent to {home.mlflow_uri}: {text[:300]}") from None
    return results
