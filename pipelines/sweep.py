"""A sweep: variants of one recipe, one run each; what ended is written down, so that the same command goes on."""

import fcntl
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from attar.errors import AttarError, BadInput, Cancelled
from attar.fingerprint import hash_json
from pipelines.home import Home
from pipelines.recipe import Recipe, validate
from pipelines.report import Report, Row
from pipelines.searching import key, searcher
from pipelines.sweep_space import Document, Space, Values, read

TRIALS = "trials.jsonl"
MOST_REFUSALS = 50  # one after the other, then a search finds nothing more


@dataclass(frozen=True)
class Trial:
    """One variant and what came of it."""

    number: int
    values: Values
    status: Literal["finished", "failed", "refused"]  # refused: it could not be planned, and nothing was computed
    run: str = ""
    text: str = ""
    row: Row | None = None  # of the final model

    @property
    def label(self) -> str:
        """The values in words: ``temperature 4, order 1 0 2``."""
        return ", ".join(f"{path.rpartition('.')[2]} {_told(value)}" for path, value in self.values.items())


Carry = Callable[[Recipe, Trial], tuple[str, Report]]  # runs a variant; its run and report
Seconds = Callable[[Recipe], float]  # what a variant would take now; raises BadInput for one that cannot work
Hear = Callable[[Trial], None]


class Sweep:
    """The variants of a document in a home; :meth:`go` runs what is not there yet."""

    def __init__(self, document: Document, home: Home) -> None:
        self.space: Space = read(document)
        name = str(document.get("name", "sweep"))
        validate(self.space.assign(self._first(), 1))  # what is wrong with the whole recipe is told at once
        self.folder = home.root / "sweeps" / f"{name}-{hash_json(document)[:8]}"

    def trials(self) -> list[Trial]:
        """What ended so far, every variant's last word."""
        return trials_in(self.folder)

    def go(self, carry: Carry, seconds: Seconds, hear: Hear = lambda trial: None) -> str:
        """Run variants until there are no more, or the budget is spent; says which.

        A variant that fails or cannot be planned is recorded and does not stop the rest; one that failed before is
        tried again.

        Raises:
            BadInput: no variant can be planned.
            Cancelled: somebody stopped it; the same sweep goes on from there.
        """
        search = self.space.search
        began = time.monotonic()
        choose = searcher(self.space)
        with self._alone():
            done = {key(trial.values): trial for trial in self.trials()}
            for known in done.values():
                if known.status == "finished":
                    choose.told(known.values, self._score(known))
            count = sum(trial.status == "finished" for trial in done.values())
            refusals = 0  # one after the other
            while (values := choose.next()) is not None:
                if search.runs is not None and count >= search.runs:
                    return f"stopped after {count} variants, as sweep.runs asks"
                before = done.get(key(values))
                number = before.number if before else 1 + max((other.number for other in done.values()), default=0)
                trial = self._try(Trial(number, values, "failed"), carry, seconds, began)
                if trial is None:
                    return (
                        f"stopped before variant {number}: it would end after the {search.minutes:g} minutes asked for"
                    )
                done[key(values)] = trial
                choose.told(values, self._score(trial))
                count += trial.status != "refused"
                self._write(trial)
                hear(trial)
                refusals = refusals + 1 if trial.status == "refused" else 0
                if search.search != "grid" and refusals >= MOST_REFUSALS:
                    break
            refused = [other for other in done.values() if other.status == "refused"]
            if done and len(refused) == len(done):
                raise BadInput(f"none of the {len(done)} variants can be planned; the first: {refused[0].text}")
            return "every variant has been there"

    def _try(self, trial: Trial, carry: Carry, seconds: Seconds, began: float) -> Trial | None:
        """The variant's end; None if it does not fit into the budget."""
        given = asdict(trial) | {"row": None}
        try:
            recipe = validate(self.space.assign(trial.values, trial.number))
            needed = seconds(recipe)
        except BadInput as error:
            return Trial(**given | {"status": "refused", "text": str(error)})
        limit = self.space.search.minutes
        if limit is not None and time.monotonic() - began + needed > 60 * limit:
            return None
        try:
            run, report = carry(recipe, trial)
        except Cancelled:
            raise
        except AttarError as error:
            return Trial(**given | {"status": "failed", "text": str(error)})
        return Trial(**given | {"status": "finished", "run": run, "row": report.final})

    def _score(self, trial: Trial) -> float | None:
        if trial.row is None:
            return None
        limit = self.space.search.max_bytes
        if limit is not None and trial.row.bytes > limit:
            return -trial.row.bytes / limit  # worse than any that fits, and the worse the larger
        return trial.row.retained

    def _first(self) -> Values:
        values = {}
        for name, found in self.space.dimensions.items():
            values[name] = found[0] if isinstance(found, list) else found.low
        return values

    def _write(self, trial: Trial) -> None:
        with open(self.folder / TRIALS, "a", encoding="utf-8") as file:
            file.write("\n" + json.dumps(asdict(trial)) + "\n")  # what a kill cut short stays a line of its own

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One process at a time goes on with a sweep; freed by the kernel."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / ".lock", "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BadInput(f"this sweep is going on already, in another process; see {self.folder}") from None
            yield


def trials_in(folder: Path) -> list[Trial]:
    """What ended so far of the sweep in a folder, every variant's last word."""
    try:
        lines = (folder / TRIALS).read_text().splitlines()
    except FileNotFoundError:
        return []
    found: dict[str, Trial] = {}
    for line in lines:
        try:
            value = json.loads(line)
        except ValueError:  # cut short by a kill or a full disk: that variant runs again
            continue
        row = value.pop("row")
        found[key(value["values"])] = Trial(**value, row=Row(**row) if row else None)
    return sorted(found.values(), key=lambda trial: trial.number)


def _told(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def save(trials: list[Trial], folder: Path) -> Path:
    """Write ``sweep.json``: every variant's values, run, status and figures."""
    path = folder / "sweep.json"
    path.write_text(json.dumps([asdict(trial) for trial in trials], indent=1) + "\n")
    return path
