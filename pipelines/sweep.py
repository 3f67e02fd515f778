"""A sweep: variants of one recipe, one run each; what ended is written down, so that the same command goes on."""

import fcntl
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from attar.errors import AttarError, BadInput, Cancelled
from attar.fingerprint import hash_json
from pipelines import recipe_yaml, sweep_bounds
from pipelines.home import Home
from pipelines.recipe import Recipe, validate
from pipelines.report import Report, Row, here
from pipelines.searching import key, searcher
from pipelines.sweep_space import Space, read
from pipelines.sweep_words import MARK, Document, Values

TRIALS = "trials.jsonl"
FILE = "sweep.yaml"  # what was asked for, in the sweep's folder
MOST_REFUSALS = 50  # one after the other, then a search finds nothing more
OTHERWISE = "measured otherwise than the first, so tpe learns nothing from it"


@dataclass(frozen=True)
class Trial:
    """One variant and what came of it."""

    number: int
    values: Values
    # refused: it could not be planned, and nothing was computed; outdated: what was measured is no longer what it says;
    # stopped: its gate was not kept, and what was made until then has figures
    status: Literal["finished", "stopped", "failed", "refused", "outdated"]
    run: str = ""
    text: str = ""
    row: Row | None = None  # of the final model, or of that which the gate stopped
    label: str = ""  # the values in words, see Space.label
    evaluation: str = ""  # fingerprint of the final measurement, as planned


@dataclass(frozen=True)
class Foreseen:
    """What the plan says of a variant."""

    evaluation: str  # fingerprint of its final measurement
    inputs: Mapping[str, str] = field(default_factory=dict)  # of that, role → fingerprint
    costs: Mapping[str, float] = field(default_factory=dict)  # fingerprint of what is not there yet → seconds

    @property
    def seconds(self) -> float:
        return sum(self.costs.values())


Carry = Callable[[Recipe, Trial], tuple[str, Report]]  # runs a variant; its run and report
Foresee = Callable[[Recipe], Foreseen]  # raises BadInput for a variant that cannot work
Hear = Callable[[Trial], None]


class Sweep:
    """The variants of a document in a home; :meth:`go` runs what is not there yet."""

    def __init__(self, document: Document, home: Home) -> None:
        self.document = document
        self.space: Space = read(document)
        self.store = home.store
        self._measured: str | None = None  # how the first was, see Row.group
        sweep_bounds.require(self.space, self._first())
        validate(self.space.assign(self._first(), 1))  # what is wrong with the whole recipe is told at once
        self.folder = _folder(home.root / "sweeps", document)

    def trials(self) -> list[Trial]:
        """What ended so far, every variant's last word."""
        return [replace(trial, label=self.space.label(trial.values)) for trial in trials_in(self.folder)]

    @property
    def spent(self) -> float:
        """Seconds that variants have run for, over all starts; what a kill or a crash cut off has left no record."""
        return sum(float(record["spent"]) for record in _records(self.folder) if "spent" in record)

    @property
    def budget(self) -> str | None:
        """What is left of the minutes asked for, in words; None where no end was asked for."""
        limit = self.space.search.minutes
        if limit is None:
            return None
        return f"{round(max(0.0, limit - self.spent / 60), 1):g} of {limit:g} minutes are left"

    def go(self, carry: Carry, foresee: Foresee, hear: Hear = lambda trial: None) -> str:
        """Run variants until there are no more, or the budget is spent; says which.

        A variant that fails or cannot be planned is recorded and does not stop the rest; nor does one that its gate
        stops, which is an end, with figures, that no search takes for a good one. One that would not be measured as it
        was runs again: its data, model or versions are others now; what is known stays until the first of these begins,
        and is then given up of all, so that nothing of before is ranked with what is new. One that failed before is
        tried again where the search comes to it: a grid does, and so does the same choice at random; tpe goes where
        results promise most, and learns nothing from one that was measured otherwise than the first.

        Raises:
            BadInput: no variant can be planned.
            Cancelled: somebody stopped it; the same sweep goes on from there.
        """
        search = self.space.search
        choose = searcher(self.space)
        with self._alone():
            text = yaml.safe_dump(
                self.document, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110
            )
            (self.folder / FILE).write_text(text, encoding="utf-8")
            done = {key(trial.values): self._up_to_date(trial, foresee, hear) for trial in self.trials()}
            for known in done.values():
                if known.row is not None:
                    choose.told(known.values, self._score(known))
            count = sum(trial.row is not None for trial in done.values())
            outdated = {name: trial for name, trial in done.items() if trial.status == "outdated"}
            again = [trial.values for trial in outdated.values()]
            refusals = 0  # one after the other
            while (values := again.pop(0) if again else choose.next()) is not None:
                if search.runs is not None and count >= search.runs:
                    return f"stopped after {count} variants, as sweep.runs asks"
                before = done.get(key(values))
                number = before.number if before else 1 + max((other.number for other in done.values()), default=0)
                begun = Trial(number, values, "failed", label=self.space.label(values))
                trial = self._try(begun, carry, foresee, lambda: self._give_up(outdated))
                if trial is None:
                    return (
                        f"stopped before variant {number}, which does not fit: {self.budget}; raise sweep.minutes to "
                        "go on"
                    )
                score = self._score(trial)
                if search.search == "tpe" and score is None and trial.status == "finished":
                    trial = replace(trial, text=OTHERWISE)
                done[key(values)] = trial
                choose.told(values, score)
                count += trial.status != "refused"
                if key(values) in outdated:
                    outdated[key(values)] = trial  # refused: it costs no figures as long as nothing has begun
                else:
                    self._write(trial)
                hear(trial)
                refusals = refusals + 1 if trial.status == "refused" else 0
                if search.search != "grid" and refusals >= MOST_REFUSALS:
                    break
            refused = [other for other in done.values() if other.status == "refused"]
            if done and len(refused) == len(done):
                raise BadInput(f"none of the {len(done)} variants can be planned; the first: {refused[0].text}")
            self._give_up(outdated)
            return "every variant has been there"

    def changed(self, trial: Trial, now: Foreseen) -> str | None:
        """Why a measured variant has to run again; None where it would be measured as it was."""
        if trial.row is None or now.evaluation in (trial.evaluation, trial.row.evaluation):
            return None
        found = self.store.find("evaluation", trial.row.evaluation)
        if found is None or trial.evaluation not in ("", trial.row.evaluation):  # what a gate chose tells nothing
            return "what it would be made of and measured with is not what it was"
        others = {name for name, made in now.inputs.items() if found.inputs.get(name) != made}
        if "origin" in others:
            return "the model that it starts from is another"
        if names := sorted(name.partition(".")[2] for name in others if "." in name):
            return f"what it is measured on is not what it was ({', '.join(names)})"
        if others:
            return "its model would be another: data of a stage, settings or versions of libraries have changed"
        return "it would be measured otherwise: versions of libraries, dtype or machine have changed"

    def _up_to_date(self, trial: Trial, foresee: Foresee, hear: Hear) -> Trial:
        """A measured variant as it is, or as outdated, which is written down once one of these begins."""
        if trial.row is None:
            return trial
        try:
            why = self.changed(trial, foresee(validate(self.space.assign(trial.values, trial.number))))
        except BadInput as error:
            why = str(error)
        if why is None:
            return trial
        trial = replace(trial, status="outdated", text=f"runs again, for {why}", row=None)
        hear(trial)
        return trial

    def _give_up(self, outdated: dict[str, Trial]) -> None:
        """Write down, once, what is no longer what it says."""
        for trial in outdated.values():
            self._write(trial)
        outdated.clear()

    def _try(self, trial: Trial, carry: Carry, foresee: Foresee, begins: Callable[[], None]) -> Trial | None:
        """The variant's end; None if it does not fit into the budget."""
        try:
            recipe = validate(self.space.assign(trial.values, trial.number))
            planned = foresee(recipe)
        except BadInput as error:
            return replace(trial, status="refused", text=str(error))
        limit = self.space.search.minutes
        if limit is not None and self.spent + planned.seconds > 60 * limit:
            return None
        begins()
        began = time.monotonic()
        try:
            run, report = carry(recipe, trial)
        except Cancelled:
            raise
        except AttarError as error:
            return replace(trial, status="failed", text=str(error))
        finally:
            self._append({"spent": time.monotonic() - began})
        ended = replace(trial, status="finished", run=run, row=report.final, evaluation=planned.evaluation)
        return replace(ended, status="stopped", text=report.stopped) if report.stopped else ended

    def _score(self, trial: Trial) -> float | None:
        if trial.row is None or trial.status == "stopped":  # which may not be chosen, however good
            return None
        self._measured = self._measured or trial.row.group
        if trial.row.group != self._measured:  # nobody can say which of the two is better
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
        self._append(asdict(trial))

    def _append(self, record: dict[str, Any]) -> None:
        with open(self.folder / TRIALS, "a", encoding="utf-8") as file:
            file.write("\n" + json.dumps(record) + "\n")  # what a kill cut short stays a line of its own

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
    found: dict[str, Trial] = {}
    for record in _records(folder):
        if "values" in record:
            with suppress(TypeError, KeyError, ValueError):  # of another version: to this one it has not run
                row = record.pop("row")
                made = here(Row(**row), folder.absolute().parents[1]) if row else None
                found[key(record["values"])] = Trial(**record, row=made)
    return sorted(found.values(), key=lambda trial: trial.number)


def _records(folder: Path) -> Iterator[dict[str, Any]]:
    """Ends of variants, and the seconds that were spent on them, in the order in which they were written."""
    try:
        lines = (folder / TRIALS).read_text().splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        with suppress(ValueError):  # cut short by a kill or a full disk: that variant runs again
            if isinstance(record := json.loads(line), dict):
                yield record


def _folder(sweeps: Path, document: Document) -> Path:
    """Where a sweep is; with a larger budget the same one goes on, and one of an older Attar where it was begun."""
    same, name = _unbudgeted(document), document["name"]
    # Older ones hashed the budget, too, or the block that is empty without it.
    known = [sweeps / f"{name}-{hash_json(one)[:8]}" for one in (same, {MARK: {}, **same}, document)]
    for folder in known + sorted(sweeps.glob(f"{name}-????????")):
        if folder.is_dir() and (folder in known or _unbudgeted(_kept(folder)) == same):
            return folder
    return known[0]


def _kept(folder: Path) -> Document:
    """What a sweep was asked for last, with another budget perhaps; of an Attar that did not keep it, nothing."""
    with suppress(BadInput):
        return recipe_yaml.parse(recipe_yaml.read_text(folder / FILE), str(folder / FILE))
    return {}


def _unbudgeted(document: Document) -> Document:
    """What tells a sweep from others, where its block is empty without a budget as if it had none."""
    block = document.get(MARK) or {}
    if not isinstance(block, dict):
        return document
    left = {name: value for name, value in block.items() if name not in ("runs", "minutes")}
    rest = {name: value for name, value in document.items() if name != MARK}
    return {**rest, MARK: left} if left else rest


def save(trials: list[Trial], folder: Path) -> Path:
    """Write ``sweep.json``: every variant's values, run, status and figures."""
    path = folder / "sweep.json"
    path.write_text(json.dumps([asdict(trial) for trial in trials], indent=1) + "\n")
    return path
