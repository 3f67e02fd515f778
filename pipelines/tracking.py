"""Chooses the tracker of a run, and sends later what could not be sent at once."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from attar.credentials import without_credentials
from attar.errors import StageFailed, first_line
from pipelines import journal, mlflow_place
from pipelines.home import Home
from pipelines.journal import NullTracker, Record
from pipelines.mlflow_words import RUNS
from pipelines.process import alive
from pipelines.recipe import Recipe, Track
from pipelines.sender import Backlog, Tracker, only_sender

if TYPE_CHECKING:
    from pipelines.mlflow_tracker import MlflowTracker

SERVER_SECONDS = 20.0  # without a sign of life, then the end of a run waits no longer
DATABASE_SECONDS = 300.0  # a file in the home does not go away; a busy machine takes its time


def open_tracker(recipe: Recipe, home: Home, folder: Path, track: bool) -> Tracker:
    """MLflow, or nothing; a connection is made with the first record, so that a server that is down stops no run."""
    return _Late(recipe.track, home, folder) if track else NullTracker()


class _Late:
    """Imports and connects when the first record comes: what can fail, fails in the sender's thread."""

    def __init__(self, track: Track, home: Home, folder: Path) -> None:
        slow = home.mlflow_uri.startswith("sqlite:") or track.weights == "copy"  # one record uploads gigabytes
        self.patience = DATABASE_SECONDS if slow else SERVER_SECONDS
        self._given = (track, home, folder)
        self._tracker: MlflowTracker | None = None

    def send(self, record: Record) -> None:
        if self._tracker is None:
            from pipelines.mlflow_tracker import MlflowTracker

            track, home, folder = self._given
            self._tracker = MlflowTracker(home, folder, track.experiment, track.weights)
        self._tracker.send(record)


def sync(home: Home, tell: Callable[[str], None] = lambda text: None) -> dict[str, int]:
    """Send what the tracker has not got of every run that is not running now, and close the runs of dead processes.

    Args:
        home: whose runs are sent.
        tell: gets a sentence about records that were refused, and about runs that were begun in another MLflow.

    Returns:
        Run id → records sent.

    Raises:
        StageFailed: one sentence about the runs that could not be sent, after all others were.
    """
    results: dict[str, int] = {}
    failed: dict[str, str] = {}
    experiments: set[str] = set()
    elsewhere: dict[str, list[str]] = {}
    for folder in sorted(path for path in home.runs.glob("*") if path.is_dir()):
        try:
            if journal.unsent(folder):
                _send_rest(home, folder, results, experiments, elsewhere, tell)
            elif (experiment := _died(folder)) is not None:
                experiments.add(experiment)
        except (KeyError, TypeError, ValueError) as error:
            failed[folder.name] = f"its journal is damaged ({type(error).__name__}: {first_line(error)})"
        except Exception as error:
            failed[folder.name] = first_line(error)
    for place, runs in elsewhere.items():
        tell(mlflow_place.advice(home, place, runs))
    for name in sorted(experiments):
        try:
            close_dead(home, name)
        except Exception as error:
            failed.setdefault(f"of experiment {name}", first_line(error))
    if failed:
        name, text = next(iter(failed.items()))
        more = f", and {len(failed) - 1} more" if len(failed) > 1 else ""
        raise StageFailed(
            without_credentials(
                f"the run {name}{more} could not be sent to {home.mlflow_uri}: {text} ({len(results)} runs were sent)"
            )
        )
    return results


def waits(home: Home) -> bool:
    """Whether :func:`sync` may find something to send or to close."""
    folders = [path for path in home.runs.glob("*") if path.is_dir() and not alive(path)]
    return any(journal.unsent(folder) or _died(folder) is not None for folder in folders)


def _died(folder: Path) -> str | None:
    """The experiment of a tracked run that never said how it ended and whose process is gone."""
    records = journal.read(folder) if (folder / RUNS).is_file() else []
    begun = next((record for record in records if record["kind"] == "run"), None)
    if begun is None or journal.ended(records) or alive(folder):
        return None
    return Track.model_validate(begun["recipe"]["track"]).experiment


def close_dead(home: Home, experiment: str) -> None:
    """Mark as killed what processes that are gone left running."""
    from pipelines import mlflow_tracker

    mlflow_tracker.close_dead(home, *mlflow_tracker.connect(home, experiment))


def close_all_dead(home: Home) -> None:
    """The same for the experiments of all dead runs of this home."""
    folders = [path for path in home.runs.glob("*") if path.is_dir()]
    for name in sorted({found for folder in folders if (found := _died(folder)) is not None}):
        close_dead(home, name)


def catch_up(recipe: Recipe, home: Home) -> threading.Thread:
    """In the background: send what other runs of this home have left behind, close those of dead processes."""

    def work() -> None:
        try:
            sync(home)
            close_dead(home, recipe.track.experiment)
        except Exception:
            return  # the new run's own sender says that the server is away; the next start tries again

    thread = threading.Thread(target=work, name="attar-catch-up", daemon=True)
    thread.start()
    return thread


def _send_rest(
    home: Home,
    folder: Path,
    results: dict[str, int],
    experiments: set[str],
    elsewhere: dict[str, list[str]],
    tell: Callable[[str], None],
) -> None:
    records = journal.read(folder)
    begun = next((record for record in records if record["kind"] == "run"), None)
    if begun is None or (not journal.ended(records) and alive(folder)):
        return
    # Only this part of the recipe matters: the rest may be of an older version.
    track = Track.model_validate(begun["recipe"]["track"])
    with only_sender(folder) as mine:
        if not mine:
            return
        if (place := mlflow_place.elsewhere(home, folder)) is not None:
            elsewhere.setdefault(place, []).append(folder.name)
            return
        backlog = Backlog(folder / journal.JOURNAL, _Late(track, home, folder))
        backlog.send()
    results[folder.name] = backlog.sent
    experiments.add(track.experiment)
    if backlog.refused:
        tell(f"{folder.name}: {len(backlog.refused)} records were refused for good ({backlog.refused[0]})")
