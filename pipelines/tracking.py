"""Chooses the tracker of a run, and sends later what could not be sent at once."""

from pathlib import Path
from typing import TYPE_CHECKING

from attar.errors import StageFailed, first_line
from pipelines import journal
from pipelines.home import Home
from pipelines.journal import NullTracker, Record, Tracker
from pipelines.process import alive
from pipelines.recipe import Recipe, Track

if TYPE_CHECKING:
    from pipelines.mlflow_tracker import MlflowTracker


def open_tracker(recipe: Recipe, home: Home, folder: Path, track: bool) -> Tracker:
    """MLflow, or nothing; a connection is made with the first record, so that a server that is down stops no run."""
    return _Late(recipe.track, home, folder) if track else NullTracker()


class _Late:
    """Imports and connects when the first record comes: what can fail, fails inside the journal's guard."""

    def __init__(self, track: Track, home: Home, folder: Path) -> None:
        self._given = (track, home, folder)
        self._tracker: MlflowTracker | None = None

    def send(self, record: Record) -> None:
        if self._tracker is None:
            from pipelines.mlflow_tracker import MlflowTracker

            track, home, folder = self._given
            self._tracker = MlflowTracker(home, folder, track.experiment, track.weights)
        self._tracker.send(record)

    def close_dead(self) -> None:
        """Mark as killed what a process that is gone left running."""
        if self._tracker is not None:
            self._tracker.close_dead()


def sync(home: Home) -> dict[str, int]:
    """Send what the tracker has not got of every run that is not running now: run id → records sent.

    Raises:
        StageFailed: one sentence about the runs that could not be sent, after all others were.
    """
    results: dict[str, int] = {}
    failed: dict[str, str] = {}
    for folder in sorted(path for path in home.runs.glob("*") if path.is_dir()):
        records = journal.read(folder)
        begun = next((record for record in records if record["kind"] == "run"), None)
        if begun is None or journal.sent(folder) >= len(records):
            continue
        if records[-1]["kind"] != "end-run" and alive(begun["process"]):
            continue
        try:
            # Only this part of the recipe matters: the rest may be of an older version.
            tracker = _Late(Track.model_validate(begun["recipe"]["track"]), home, folder)
            results[folder.name] = journal.replay(folder, tracker)
            tracker.close_dead()
        except Exception as error:
            failed[folder.name] = first_line(error)
    if failed:
        name, text = next(iter(failed.items()))
        more = f", and {len(failed) - 1} more" if len(failed) > 1 else ""
        raise StageFailed(
            f"the run {name}{more} could not be sent to {home.mlflow_uri}: {text} ({len(results)} runs were sent)"
        )
    return results
