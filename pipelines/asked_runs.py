"""The runs that a page is about: one by its id, all variants of a sweep, or the newest run of a recipe."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from attar.errors import BadInput, StageFailed
from pipelines import journal, report, sweep, sweep_words
from pipelines.home import AS_RUN, RECIPE, RUN_ID, Home
from pipelines.journal import Record
from pipelines.report import Report
from pipelines.sweep_words import ORDER

SUFFIX = 9  # of a sweep's folder: a dash and eight digits of its recipe's hash
MOST_SETTINGS = 4  # columns of what differs between runs that are no sweep's
LONGEST = 40  # characters of a value


@dataclass(frozen=True)
class Shown:
    """A run with all that its folder tells."""

    tag: str  # short, for a point in a plot: the number of a variant
    folder: Path
    report: Report
    records: Sequence[Record]
    recipe: str  # as YAML, with what gates changed in it
    status: str  # finished, failed, cancelled, or "" of one that has not said how it ended
    text: str = ""  # why it failed
    # What tells it from the others: setting → value in words, different words for different values.
    values: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """``07 (temperature 4, prune.width → …)``."""
        told = ", ".join(value if key == ORDER else f"{key} {value}" for key, value in self.values.items())
        return f"{self.tag} ({told})" if told else self.tag

    @property
    def kept_gates(self) -> bool:
        """Whether no gate has stopped it."""
        return not self.report.stopped

    @property
    def changed(self) -> str:
        """What gates changed in its recipe, in words: it is not what was asked for."""
        told = {"bisect": "{0.setting}={0.value}", "insert": "a stage after {0.label}"}
        return ", ".join(told[one.action].format(one) for one in self.report.gates if one.action in told)

    @property
    def ended(self) -> str:
        """How it ended, if otherwise than by being finished."""
        told = {"finished": "", "failed": "failed", "cancelled": "was cancelled"}
        return told.get(self.status, "has not ended")

    @property
    def document(self) -> dict[str, Any]:
        found = yaml.safe_load(self.recipe) if self.recipe else {}
        return found if isinstance(found, dict) else {}


@dataclass(frozen=True)
class Asked:
    """What a page shows: runs, and what the sweep that they are of has besides."""

    name: str
    runs: tuple[Shown, ...]
    failures: tuple[str, ...] = ()  # sentences about variants that have no figures
    is_sweep: bool = False
    file: Path | None = None  # of the sweep's recipe, which makes all of them again


def find(home: Home, names: Sequence[str]) -> Asked:
    """The runs of these names, each once; of no name the newest run.

    Raises:
        BadInput: there is no such run, sweep or recipe, or it has measured nothing yet.
    """
    if len(names) == 1 and (folder := _sweep(home, names[0])) is not None:
        return of_sweep(home, folder)
    folders: dict[Path, str] = {}
    asked: Sequence[str | None] = names or [None]
    for name in asked:
        swept = _sweep(home, name) if name else None
        found = [home.runs / run for run in _runs(swept)] if swept else [_folder(home, name)]
        folders |= dict.fromkeys(found, "")
    shown = [read(folder, str(number)) for number, folder in enumerate(folders, start=1)]
    if len(shown) == 1:
        return Asked(shown[0].report.run, tuple(shown))
    recipes = sorted({one.report.recipe for one in shown})
    return Asked(" and ".join(recipes), tuple(_with_differences(shown)))


def of_sweep(home: Home, folder: Path) -> Asked:
    """All variants of the sweep in a folder.

    Raises:
        BadInput: none of them has finished yet.
    """
    name = folder.name[:-SUFFIX]
    shown, failures = [], []
    for trial in sweep.trials_in(folder):
        place = home.runs / trial.run
        if trial.run and trial.row is not None and report.load(place) is not None:
            shown.append((read(place, f"{trial.number:02}"), trial.values))
        else:
            failures.append(trial)
    if not shown:
        raise BadInput(f"no variant of the sweep {name} has finished yet; see {folder}")
    document = sweep_words.whole([(values, _asked(one)) for one, values in shown])
    headings = sweep_words.names(shown[0][1], document)
    found: dict[str, list[tuple[Any, str]]] = {path: [] for path in headings}
    for _, values in shown:
        for path, text in sweep_words.words(values, document).items():
            found[path].append((values[path], text if path == ORDER else _shortened(text)))
    once = {path: worded(pairs) for path, pairs in found.items()}
    runs = [
        Shown(**vars(one) | {"values": {headings[path]: once[path][_key(values[path])] for path in headings}})
        for one, values in shown
    ]
    failed = []
    for trial in failures:
        told = sweep_words.label(trial.values, document)
        failed.append(f"{trial.number:02} ({told}) {trial.status}: {trial.text or 'its run is gone'}")
    file = folder / sweep.FILE
    return Asked(name, tuple(runs), tuple(failed), is_sweep=True, file=file if file.is_file() else None)


def read(folder: Path, tag: str = "1", end: tuple[str, str] | None = None) -> Shown:
    """A run from its folder; ``end`` is how it ends, where its journal does not say so yet.

    Raises:
        BadInput: it has measured nothing yet.
    """
    try:
        found, records = report.load(folder), journal.read(folder)
    except (ValueError, KeyError, TypeError) as error:
        raise StageFailed(f"the journal of the run {folder.name} is damaged ({type(error).__name__})") from None
    if found is None:
        raise BadInput(f"the run {folder.name} has measured nothing yet; its journal is {folder / 'journal.jsonl'}")
    begun = max((place for place, record in enumerate(records) if record["kind"] == "run"), default=0)
    ends = [record for record in records[begun:] if record["kind"] == "end-run"]
    status, text = end or ((ends[-1]["status"], ends[-1].get("text", "")) if ends else ("", ""))
    files = [path for name in (AS_RUN, RECIPE) if (path := folder / name).is_file()]
    return Shown(tag, folder, found, records, files[0].read_text() if files else "", status, text)


def sweeps(home: Home) -> dict[str, dict[str, str]]:
    """Sweep → run → what tells it from the others, in short words; of several sweeps of one name all runs."""
    found: dict[str, dict[str, str]] = {}
    for folder in sorted(path for path in (home.root / "sweeps").glob("*") if (path / sweep.TRIALS).is_file()):
        trials = [one for one in sweep.trials_in(folder) if one.run and (home.runs / one.run / RECIPE).is_file()]
        if trials:
            document = sweep_words.whole([(one.values, _document(home.runs / one.run / RECIPE)) for one in trials])
            told = {one.run: sweep_words.short(one.values, document) for one in trials}
            found.setdefault(folder.name[:-SUFFIX], {}).update(told)
    return found


def _folder(home: Home, name: str | None) -> Path:
    """The run of an id, or the newest one of a recipe."""
    if name is None or (RUN_ID.fullmatch(name) and (home.runs / name).is_dir()):
        return home.run_folder(name)
    known = sorted((path for path in home.runs.glob("*") if path.is_dir()), reverse=True)
    recipes: dict[str, Path] = {}
    for path in known:
        if (made := report.load(path)) is not None:
            recipes.setdefault(made.recipe, path)
    if name in recipes:
        return recipes[name]
    sweeps = sorted({path.name[:-SUFFIX] for path in (home.root / "sweeps").glob("*") if path.is_dir()})
    told = [f"{what}: {', '.join(some)}" for what, some in (("sweeps", sweeps), ("recipes", sorted(recipes))) if some]
    told.append(f"the newest runs: {', '.join(path.name for path in known[:5]) or 'none'}")
    raise BadInput(f"there is no run, sweep or recipe {name!r} in {home.root}; {'; '.join(told)}")


def _sweep(home: Home, name: str) -> Path | None:
    """The folder of a sweep by its name or its recipe's, the newest of several; a run's id goes before."""
    if not RUN_ID.fullmatch(name) or (home.runs / name).is_dir():
        return None
    known = [path for path in (home.root / "sweeps").glob("*") if (path / sweep.TRIALS).is_file()]
    found = [path for path in known if name in (path.name, path.name[:-SUFFIX])]
    return max(found, key=lambda path: (path / sweep.TRIALS).stat().st_mtime, default=None)


def _runs(folder: Path) -> list[str]:
    return [trial.run for trial in sweep.trials_in(folder) if trial.run and trial.row is not None]


def _asked(one: Shown) -> dict[str, Any]:
    """A run's recipe as it was asked for: a gate may have put a stage between those that a sweep knows."""
    path = one.folder / RECIPE
    return _document(path) if path.is_file() else one.document


def _document(path: Path) -> dict[str, Any]:
    """A recipe as it was asked for; of one that cannot be read nothing is known."""
    try:
        found = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


def worded(found: Sequence[tuple[Any, str]]) -> dict[str, str]:
    """Values and their words, as words by the value in JSON: those of two values are never the same.

    Two long lists may look alike once they are shortened, and two orders where stages have one name: they are numbered.
    """
    words = {_key(value): text for value, text in found}
    for text in set(words.values()):
        alike = [key for key, other in words.items() if other == text]
        if len(alike) > 1:
            words |= {key: f"{text} #{number}" for number, key in enumerate(alike, start=1)}
    return words if len(set(words.values())) == len(words) else {key: key for key in words}


def _with_differences(shown: Sequence[Shown]) -> list[Shown]:
    """Runs that are no sweep's, told apart by the settings that differ most often."""
    flat = [dict(_flat({key: value for key, value in one.document.items() if key != "name"})) for one in shown]
    paths = dict.fromkeys(path for settings in flat for path in settings)
    words = {
        path: worded([(one[path], _shortened(sweep_words.told(one[path]))) for one in flat if path in one])
        for path in paths
    }
    moving = {path: len(found) + any(path not in one for one in flat) for path, found in words.items()}
    chosen = [path for path in sorted(moving, key=lambda path: -moving[path]) if moving[path] > 1][:MOST_SETTINGS]
    found = []
    for one, settings in zip(shown, flat, strict=True):
        told = {path: words[path][_key(settings[path])] if path in settings else "–" for path in chosen}
        found.append(Shown(**vars(one) | {"values": {"recipe": one.report.recipe} | told}))
    return found


def _flat(value: Any, path: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        return [pair for key, entry in value.items() for pair in _flat(entry, f"{path}.{key}".lstrip("."))]
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return [pair for place, entry in enumerate(value) for pair in _flat(entry, f"{path}.{place}")]
    return [(path, value)]


def _plain(value: Any) -> str:
    return _shortened(sweep_words.told(value))


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}…"


def _key(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)
