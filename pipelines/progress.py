"""Shows a run while it goes: follows its journal and its children's events, as bars or as plain lines."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from attar import events
from attar.events import Event
from pipelines.journal import JOURNAL, Record

EVERY_SECONDS = 0.25


@contextmanager
def shown(folder: Path, console: Console) -> Iterator[None]:
    """Follow the run in ``folder`` on ``console`` for as long as the block lasts."""
    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.fields[note]}", style="dim"),
        TimeElapsedColumn(),
        _Remaining(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    view = _View(bars, console)
    stop = threading.Event()

    def follow() -> None:
        while not stop.wait(EVERY_SECONDS):
            view.update(folder)

    thread = threading.Thread(target=follow, name="attar-progress", daemon=True)
    with bars:
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            view.update(folder)
            view.clear()


class _Remaining(ProgressColumn):
    """Time still to go: from the bar's own pace once it moves, from the plan's estimate before."""

    def render(self, task: Task) -> Text:
        left = task.time_remaining if task.completed else task.fields.get("estimate", 0.0) - (task.elapsed or 0)
        if left is None or left <= 0:
            return Text("", style="cyan")
        return Text(f"about {duration(left)} left", style="cyan")


class _View:
    """State of the display; used by one thread at a time."""

    def __init__(self, bars: Progress, console: Console) -> None:
        self.bars = bars
        self.console = console
        self.journal_offset = 0
        self.events_path: Path | None = None
        self.events_offset = 0
        self.whole: TaskID = bars.add_task("starting", total=None, note="", estimate=0.0)
        self.child: TaskID | None = None
        self.label = ""
        self.began = time.monotonic()

    def update(self, folder: Path) -> None:
        for record in self._records(folder):
            self._record(record)
        if self.events_path is not None:
            new, self.events_offset = events.read(self.events_path, self.events_offset)
            for event in new:
                self._event(event)

    def clear(self) -> None:
        for task in list(self.bars.task_ids):
            self.bars.remove_task(task)

    def _records(self, folder: Path) -> list[Record]:
        new, self.journal_offset = events.read(folder / JOURNAL, self.journal_offset)
        return [dict(record) for record in new]

    def _record(self, record: Record) -> None:
        kind = record["kind"]
        if kind == "run":
            self.bars.update(self.whole, description=record["name"], total=len(record["plan"]), note="steps")
        elif kind == "warning":
            self.console.print(f"[yellow]warning:[/yellow] {escape(record['text'])}", highlight=False, soft_wrap=True)
        elif kind == "step":
            self.began = time.monotonic()
            self.label = record["label"]
        elif kind == "child":
            self._child(record)
        elif kind == "measured":
            self._measured(record["row"])
        elif kind == "probe":
            self.console.print(f"[dim]probe[/dim] {escape(record['text'])}", highlight=False, soft_wrap=True)
        elif kind == "gate":
            self._gate(record)
        elif kind == "end-step":
            self._end_child()
            self.bars.advance(self.whole)

    def _child(self, record: Record) -> None:
        self._end_child()
        self.events_path, self.events_offset = Path(record["events"]), 0
        what = record["label"] if record["what"] == "stage" else f"{record['label']}: measuring"
        self.child = self.bars.add_task(what, total=None, note="starting", estimate=record["seconds"])

    def _event(self, event: Event) -> None:
        if self.child is None:
            return
        if event["kind"] == "progress":
            done, total, unit = event["done"], event["total"], event["unit"]
            self.bars.update(self.child, completed=done, total=total, note=f"{done:,} of {total:,} {unit}")
        elif event["kind"] == "waiting":
            self.bars.update(self.child, note=event["text"])
            if event["text"] and not self.console.is_terminal:
                self.console.print(f"{self.label}: {event['text']}", highlight=False, markup=False, soft_wrap=True)
        elif event["kind"] == "metric" and event["name"] == "loss":
            self.bars.update(self.child, description=f"{self.label}  loss {event['value']:.3f}")

    def _gate(self, record: Record) -> None:
        decision = record["decision"]
        mark = "[green]✓[/green]" if decision["kept"] else "[red]✗[/red]"
        self.console.print(
            f"{mark} gate after {decision['label']}: {escape(decision['text'])}", highlight=False, soft_wrap=True
        )
        if record["again"] is not None:  # from there the steps run anew
            self.bars.update(self.whole, completed=record["again"], total=len(record["needs"]))

    def _end_child(self) -> None:
        if self.child is not None:
            self.bars.remove_task(self.child)
        self.child, self.events_path = None, None

    def _measured(self, row: dict[str, Any]) -> None:
        took = "already there" if row["cached"] else duration(time.monotonic() - self.began)
        if row.get("pairs") is not None:
            told = f"{row['pairs']:,} pairs kept, {row['tokens']:,} tokens"
        else:
            told = (
                f"{row['bytes'] / 1e6:.1f} MB, ratio {row['compression_ratio']:.2f}×, "
                f"perplexity {row['perplexity_other']:.2f}, retained {row['retained']:.1%}"
            )
        self.console.print(
            f"[green]✓[/green] {row['step']} {row['name']}: {told} [dim]({took})[/dim]",
            highlight=False,
            soft_wrap=True,
        )


def duration(seconds: float) -> str:
    """A time span for readers: ``42 s``, ``3 min 5 s``, ``2 h 10 min``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
