"""Runs the variants of a sweep as ``attar run`` would, and shows what came of them: a table and a plot."""

import csv
import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from attar.errors import BY_EXIT_CODE, GateFailed, StageFailed
from pipelines import journal, report
from pipelines.front import front, rank
from pipelines.home import Home
from pipelines.plan import make_plan
from pipelines.plot import GRID, INK, LINE
from pipelines.printing import whole
from pipelines.recipe import Recipe
from pipelines.report import Report, Row, columns, interval
from pipelines.signs import SIGNS, Kind, legend
from pipelines.sweep import Foreseen, Trial

MARKERS: dict[Kind, str] = {"on-front": "D", "apart": "^", "refused": "x"}  # of the plot


class Runner:
    """Carries variants out, each in a process of its own, which leaves the recipe of it for whoever wants it again."""

    def __init__(self, folder: Path, home: Home, track: bool) -> None:
        self.recipes = folder / "recipes"
        self.home = home
        self.track = track

    def foresee(self, recipe: Recipe) -> Foreseen:
        """What the plan expects of a variant, given what the others have left in the store."""
        plan = make_plan(recipe, self.home, complete=False)
        costs = {step.made.fingerprint: step.work.seconds for step in plan.steps if not step.cached}
        costs |= {step.evaluation: step.measuring.seconds for step in plan.steps if not step.measured}
        return Foreseen(plan.steps[-1].evaluation, plan.steps[-1].evaluation_inputs, costs)

    def carry(self, recipe: Recipe, trial: Trial) -> tuple[str, Report]:
        """Run one variant; its run and report, also where its gate stopped it, or the error that it ended with."""
        before = set(self._runs(recipe.name))
        self.recipes.mkdir(parents=True, exist_ok=True)
        file = self.recipes / f"{recipe.name}.yaml"
        file.write_text(yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False))
        track = "--track" if self.track else "--no-track"
        command = [sys.executable, "-P", "-m", "pipelines.cli", "run", str(file), "--json", track]
        process = subprocess.Popen(
            [*command, "--home", str(self.home.root)], stdout=subprocess.PIPE, text=True, process_group=0
        )
        try:
            printed, _ = process.communicate()
        except BaseException:
            process.terminate()  # a terminal's Ctrl-C reaches this process alone; a script's & had SIGINT ignored
            process.wait()
            raise
        if process.returncode:
            kind = BY_EXIT_CODE.get(process.returncode, StageFailed)
            begun = next((folder for folder in self._runs(recipe.name) if folder not in before), None)
            if begun is None:
                raise kind(f"it ended with exit code {process.returncode} before it had a run")
            made = report.load(begun) if kind is GateFailed else None
            if made is not None and made.stopped:
                return made.run, made
            raise kind(words_of(begun))
        result: dict[str, Any] = json.loads(printed)
        return result["run"], Report.from_json(result)

    def _runs(self, name: str) -> list[Path]:
        """The folders of a variant's runs, the newest first."""
        called = re.compile(rf"[0-9]{{8}}-[0-9]{{6}}-{re.escape(name)}(-[0-9]+)?")
        return sorted((path for path in self.home.runs.glob("*") if called.fullmatch(path.name)), reverse=True)


def words_of(folder: Path) -> str:
    """How a run ended, in its own words."""
    try:
        told = [str(record.get("text", "")) for record in journal.read(folder) if record["kind"] == "end-run"]
    except ValueError:
        return f"the journal of its run {folder.name} is damaged"
    return (told[-1] if told else "") or f"its run {folder.name} broke off and has not said why"


def best_first(trials: Sequence[Trial]) -> list[Trial]:
    """Those that may be ranked by quality, then those measured otherwise, stopped by a gate, and failed, in order."""
    alike = {trial.number for trial in ranked(trials)}

    def place(trial: Trial) -> tuple[bool, bool, bool, tuple[float, ...]]:
        by_quality = rank(trial.row) if trial.row and trial.number in alike else ()
        return trial.row is None, trial.status == "stopped", trial.number not in alike, by_quality

    return sorted(trials, key=place)


def ranked(trials: Sequence[Trial]) -> list[Trial]:
    """Those that may be chosen and were measured alike: the largest group, none of two that are equal.

    It is as the report chooses, see :func:`pipelines.html_variants.compare`. What a gate stopped beats nothing.
    """
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        if trial.row is not None and trial.row.group is not None and trial.status != "stopped":
            groups.setdefault(trial.row.group, []).append(trial)
    models = {name: len({one.row.fingerprint for one in group if one.row}) for name, group in groups.items()}
    largest = [group for name, group in groups.items() if models[name] == max(models.values())]
    return largest[0] if len(largest) == 1 else []


def unbeaten(trials: Sequence[Trial]) -> list[Row]:
    """The front of those that may be ranked."""
    return front([trial.row for trial in ranked(trials) if trial.row is not None])


def kinds(trials: Sequence[Trial]) -> dict[int, Kind]:
    """Variant → what its sign says of it; of one that is ranked and beaten nothing."""
    alike, best = {trial.number for trial in ranked(trials)}, {id(row) for row in unbeaten(trials)}
    found: dict[int, Kind] = {}
    for trial in (one for one in trials if one.row is not None):
        if trial.status == "stopped":
            found[trial.number] = "refused"
        elif trial.number not in alike:
            found[trial.number] = "apart"
        elif id(trial.row) in best:
            found[trial.number] = "on-front"
    return found


def show(console: Console, trials: Sequence[Trial]) -> None:
    """One row a variant, the best first, with a sign for those that no other beats in size and quality at once."""
    signs = kinds(trials)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("", "variant", "size", "ratio", "retained quality", "KL nats", "run"):
        table.add_column(heading, justify="right" if heading in ("size", "ratio", "KL nats") else "left")
    for trial in best_first(trials):
        name = Text(f"{trial.number:02} {trial.label}")
        if trial.row is None:
            table.add_row("", name, "–", "–", Text(f"{trial.status}: {trial.text}"), "–", "–", style="red")
        else:
            sign = signs.get(trial.number)
            table.add_row(SIGNS[sign] if sign else "", name, *_figures(trial.row), trial.run)
    whole(console).print(table)
    for trial in trials:
        if trial.status == "stopped":
            text = f"{SIGNS['refused']} {trial.number:02} was stopped by its gate {trial.text}"
            console.print(text, highlight=False, markup=False, soft_wrap=True)
    if "apart" in signs.values():
        console.print(_apart(signs), highlight=False, markup=False, soft_wrap=True)


def _apart(signs: Mapping[int, Kind]) -> str:
    numbers = ", ".join(f"{number:02}" for number, kind in signs.items() if kind == "apart")
    told = "not measured alike, so none is the best of them"
    if "on-front" in signs.values():
        told = "not measured as the others, so not ranked with them"
    return f"{SIGNS['apart']} {numbers}: {told}; the report says why"


def _figures(row: Row) -> tuple[str, ...]:
    kl = "–" if row.kl is None else f"{row.kl:.3f}"
    return f"{row.bytes / 1e6:.1f} MB", f"{row.compression_ratio:.2f}×", interval(row), kl


def plot(trials: Sequence[Trial], title: str, path: Path) -> Path:
    """Draw the final models of all variants with their intervals, the Pareto front as a line."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    found = [(trial, trial.row) for trial in best_first(trials) if trial.row is not None]
    line, signs = unbeaten(trials), kinds(trials)
    axes.plot([r.compression_ratio for r in line], [100 * r.retained for r in line], color=LINE, zorder=1)
    for place, (trial, row) in enumerate(found, start=1):
        x, y = row.compression_ratio, 100 * row.retained
        if row.retained_low is not None and row.retained_high is not None:
            bars = [[y - 100 * row.retained_low], [100 * row.retained_high - y]]
            axes.errorbar([x], [y], yerr=bars, color=GRID, capsize=2, zorder=0)
        kind = signs.get(trial.number)
        label = f"{trial.number:02}  {y:.1f} %  {trial.label}{' (stopped by its gate)' if kind == 'refused' else ''}"
        marker = MARKERS.get(kind, "o") if kind else "o"
        axes.scatter([x], [y], s=60 if kind == "on-front" else 40, marker=marker, color=LINE, zorder=2, label=label)
        axes.annotate(f"{trial.number:02}", (x, y), xytext=(6 if place % 2 else -6, 4), textcoords="offset points",
                      ha="left" if place % 2 else "right", fontsize=8, color=INK)  # fmt: skip
    axes.set_xlabel("compression ratio (bytes of the bf16 origin ÷ bytes)")
    axes.set_ylabel("retained quality, % (perplexity on other-kind text)")
    axes.set_title(title, loc="left", fontsize=11)
    axes.margins(x=0.2)
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    told = legend(kind for kind in signs.values() if kind != "refused")
    title = f"best first; {told}" if line else told
    figure.legend(loc="outside right upper", fontsize=7, frameon=False, title=title)
    figure.savefig(path, dpi=150)
    return path


def table(trials: Sequence[Trial], path: Path) -> Path:
    """Write a CSV file: a line a variant, the best first, with its values, its run and its figures."""
    found = best_first(trials)
    values = sorted({name for trial in found for name in trial.values})
    heads, *lines = columns([trial.row for trial in found if trial.row is not None])  # in the order of the variants
    told = iter(lines)
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["variant", "label", *values, "status", "text", "run", *heads])
        for trial in found:
            chosen = (trial.values.get(name, "") for name in values)
            ended = (trial.status, trial.text, trial.run)
            writer.writerow([trial.number, trial.label, *chosen, *ended, *(next(told) if trial.row else [])])
    return path


def environment(home: Home) -> None:
    """One Prefect server for all variants, and nothing of ours in their way."""
    from pipelines import prefect_check, prefect_server
    from pipelines.embedded import configure

    configure(home)
    prefect_check.check()
    prefect_server.start(home)
