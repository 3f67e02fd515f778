"""Collects what a home may forget (``attar gc``): beside live runs, atomically, and never anything outside the home.

What goes is renamed first, under the lock of its fingerprint, into the store's folder for drafts and deleted there: who
looks for it finds all of it or nothing, and what is left when this dies is swept by the next run. While a run plans and
writes down what it needs, nothing is renamed; a run that begins after that computes again what is gone.
"""

import os
import shutil
import time
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from attar.errors import BadInput, StageFailed, first_line
from attar.store import COLLECTING
from pipelines import mlflow_registry, tracking
from pipelines.home import Home
from pipelines.inventory import read_items, read_runs
from pipelines.retention import Item, Rule, Sort, expired

NAMES: dict[Sort, str] = {
    "model": "models",
    "dataset": "datasets",
    "teacher-cache": "teacher caches",
    "evaluation": "evaluations",
    "state": "training states",
    "draft": "drafts of dead processes",
    "run": "runs",
}


@dataclass(frozen=True)
class Collected:
    """What went, or would go."""

    home: Home
    items: tuple[Item, ...]
    deleted: bool
    busy: tuple[Item, ...] = ()  # somebody holds their locks: left alone

    def as_json(self) -> dict[str, Any]:
        return {
            "home": str(self.home.root),
            "deleted": self.deleted,
            "kinds": {
                sort: {"count": len(found), "bytes": sum(item.bytes for item in found)}
                for sort, found in self.by_sort.items()
            },
            "bytes": self.bytes,
            "items": [_told(item) for item in self.items],
            "busy": [_told(item) for item in self.busy],
        }

    @property
    def by_sort(self) -> dict[Sort, list[Item]]:
        return {sort: [item for item in self.items if item.sort == sort] for sort in NAMES}

    @property
    def bytes(self) -> int:
        return sum(item.bytes for item in self.items)


def collect(home: Home, rule: Rule, delete: bool) -> Collected:
    """Find what may go and, when asked to, delete it.

    Raises:
        BadInput: there is no such home, what a run needs is not known, or a run is being planned at this moment.
        StageFailed: the model registry cannot be asked.
    """
    if not home.root.is_dir():
        raise BadInput(f"there is no home {home.root}; name one with --home")

    def found() -> list[Item]:
        now = time.time()
        items = read_items(home)  # before the runs: what a run makes after that is not among them
        runs = read_runs(home)  # before the registry: what they registered until now is pinned
        return expired(runs, items, mlflow_registry.pins(home), rule, now)

    if not delete:
        return Collected(home, tuple(found()), False)
    home.store.require_writable()
    with home.store.lock(COLLECTING, wait=False) as held:
        if not held:
            raise BadInput(
                f"a run in {home.root} is being planned, and what it needs is not known yet; try again when that is "
                "done"
            )
        items = found()
        _close_dead(home)  # who closes runs of dead processes knows them by their folders
        gone, busy = _set_aside(home, items)
    for place in gone.values():
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place, ignore_errors=True)
    left = [item for item, place in gone.items() if place.exists()]
    if left:
        raise StageFailed(
            f"{len(left)} of {len(gone)} folders could not be deleted; they lie in {home.store.root / 'tmp'}: look at "
            "who owns them"
        )
    return Collected(home, tuple(gone), True, tuple(busy))


def _close_dead(home: Home) -> None:
    try:
        tracking.close_all_dead(home)
    except Exception as error:
        raise StageFailed(
            f"MLflow at {mlflow_registry.shown(home)} cannot be told which runs died ({first_line(error)}), so nothing "
            "is deleted; try again when it can"
        ) from None


def _set_aside(home: Home, items: Iterable[Item]) -> tuple[dict[Item, Path], list[Item]]:
    """Rename what may go; returns where it is now, and what somebody works on."""
    gone: dict[Item, Path] = {}
    busy: list[Item] = []
    aside = home.store.root / "tmp"
    aside.mkdir(exist_ok=True)
    if aside.is_symlink():
        raise BadInput(f"{aside} is a link, and gc follows none; put a folder in its place")
    for item in items:
        with nullcontext(True) if item.sort == "run" else home.store.lock(item.name, wait=False) as held:
            if not held:
                busy.append(item)
                continue
            place = aside / f"gone.{item.sort}-{item.name}"
            try:
                shutil.rmtree(place, ignore_errors=True)
                os.rename(item.path, place)
            except FileNotFoundError:  # a stage has finished and removed its state, or a run has swept the draft
                continue
            except OSError:  # on another file system, or of another owner
                busy.append(item)
                continue
            gone[item] = place
    return gone, busy


def show(console: Console, result: Collected) -> None:
    """Print the table."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("deleted" if result.deleted else "would be deleted", "count", "size"):
        table.add_column(heading, justify="left" if not table.columns else "right")
    for sort, items in result.by_sort.items():
        table.add_row(NAMES[sort], f"{len(items):,}", _size(sum(item.bytes for item in items)))
    table.add_row("all", f"{len(result.items):,}", _size(result.bytes), style="bold")
    console.print(table)
    if result.busy:
        console.print(f"{len(result.busy)} left alone: in use, or not ours to move", highlight=False)
    if not result.items:
        console.print("nothing can go; what is younger than an hour stays whatever the rule", highlight=False)
    if not result.deleted and result.items:
        console.print("nothing was changed; the same command with --yes deletes", highlight=False)


def _size(count: int) -> str:
    return f"{count / 1e9:,.2f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def _told(item: Item) -> dict[str, Any]:
    return {"kind": item.sort, "name": item.name, "bytes": item.bytes, "path": str(item.path)}
