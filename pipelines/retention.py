"""What a home may forget: everything that no kept run, no registered model and no lineage needs. Pure: touches nothing.

A run is kept while it lives, while the tracker has not got all of it, when a registered model came from it, when it is
among the newest of its recipe's name, or younger than asked. An artifact is kept when a kept run or a registered model
names it, when it is an input of what is kept (and so on, down to the origin), or when it is young.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from attar.errors import BadInput

YOUNG_SECONDS = 3600.0  # what somebody may be making by hand, or has planned with and not yet begun
SECONDS = {"h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}

Sort = Literal["model", "dataset", "teacher-cache", "evaluation", "state", "draft", "run"]


@dataclass(frozen=True)
class Rule:
    """How much is kept of what nothing needs."""

    keep_runs: int  # newest runs of every recipe's name
    older_than: float  # seconds; younger runs are kept, too

    @classmethod
    def parse(cls, keep_runs: int, older_than: str) -> "Rule":
        """From the command line: ``30d``, ``12h``, ``2w``."""
        match = re.fullmatch(r"([0-9]{1,5})([hdw])", older_than)
        if match is None:
            raise BadInput(
                f"--older-than {older_than!r} is no age; write a number of hours, days or weeks: 12h, 30d, 2w"
            )
        return cls(keep_runs, int(match[1]) * SECONDS[match[2]])


@dataclass(frozen=True)
class Run:
    """A run's folder, as its journal tells of it."""

    id: str
    name: str  # of the recipe
    begun: float
    live: bool
    finished: bool
    sent: bool  # the tracker has all of it
    needs: frozenset[str]  # fingerprints that its plan, its steps and its report name


@dataclass(frozen=True)
class Item:
    """Something on disk that could go."""

    sort: Sort
    name: str  # the fingerprint, or the run's id
    path: Path
    changed: float
    bytes: int
    inputs: frozenset[str] = frozenset()  # fingerprints
    measures: str = ""  # of an evaluation: the model's fingerprint


@dataclass(frozen=True)
class Pins:
    """What the model registry needs."""

    fingerprints: frozenset[str] = frozenset()
    runs: frozenset[str] = frozenset()  # ids of pipeline runs


def expired(runs: Iterable[Run], items: Iterable[Item], pins: Pins, rule: Rule, now: float) -> list[Item]:
    """The items that may go."""
    items = list(items)
    kept = {run.id: run for run in kept_runs(runs, pins, rule, now)}
    live = [run for run in kept.values() if run.live]
    young = min([now - YOUNG_SECONDS, *(run.begun for run in live)])
    needed = _needed(items, kept.values(), pins, young)
    stored = {item.name for item in items if item.sort in ("model", "dataset", "evaluation", "teacher-cache")}

    def stays(item: Item) -> bool:
        if item.sort == "run":
            return item.name in kept
        if item.changed >= young:
            return True
        if item.sort == "teacher-cache":
            return item.name in needed or _cache_used(item, kept.values())
        if item.sort == "state":
            return item.name not in stored and (item.name in needed or _may_go_on(item, kept.values()))
        return item.sort != "draft" and item.name in needed

    return [item for item in items if not stays(item)]


def kept_runs(runs: Iterable[Run], pins: Pins, rule: Rule, now: float) -> list[Run]:
    """The runs that stay."""
    runs = sorted(runs, key=lambda run: (run.begun, run.id), reverse=True)
    seen: dict[str, int] = {}
    kept = []
    for run in runs:
        seen[run.name] = seen.get(run.name, 0) + 1
        young = run.begun > now - max(rule.older_than, YOUNG_SECONDS)
        if run.live or not run.sent or run.id in pins.runs or young or seen[run.name] <= rule.keep_runs:
            kept.append(run)
    return kept


def _needed(items: list[Item], kept: Iterable[Run], pins: Pins, young: float) -> frozenset[str]:
    """Fingerprints that something kept names, and all that these were made of."""
    made_of: dict[str, frozenset[str]] = {}
    for item in items:
        made_of[item.name] = made_of.get(item.name, frozenset()) | item.inputs
    roots = {fingerprint for run in kept for fingerprint in run.needs} | pins.fingerprints
    roots |= {item.name for item in items if item.sort not in ("run", "draft") and item.changed >= young}
    roots |= {item.name for item in items if item.sort == "evaluation" and item.measures in pins.fingerprints}
    return frozenset(_closure(roots, made_of))


def _closure(roots: set[str], made_of: Mapping[str, frozenset[str]]) -> set[str]:
    found: set[str] = set()
    waiting = list(roots)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting.extend(made_of.get(name, ()))
    return found


def _cache_used(cache: Item, kept: Iterable[Run]) -> bool:
    """A cache can be made again: it stays for a run that asks its teacher and had begun when it was last opened."""
    return any(cache.inputs & run.needs and (run.live or run.begun <= cache.changed) for run in kept)


def _may_go_on(state: Item, kept: Iterable[Run]) -> bool:
    """Shards of an unfinished teacher cache, whose name no plan holds: they serve a kept run that broke off."""
    return any(not run.finished and run.begun <= state.changed for run in kept)
