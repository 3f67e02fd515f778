"""Tables for the terminal: the plan, the report, stages and their settings."""

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from pipelines import cost_figures, gate_edits, task_figures
from pipelines.changes import Changes
from pipelines.plan import Plan, Step
from pipelines.printing import whole
from pipelines.progress import duration
from pipelines.report import COLUMNS, Report, cells, told


def report_table(report: Report) -> Table:
    """One row per step; the last is the result."""
    table = Table(box=box.SIMPLE_HEAD, title=f"{report.recipe} · {report.run}", title_justify="left", pad_edge=False)
    for index, (heading, _) in enumerate(COLUMNS):
        table.add_column(heading, justify="left" if index == 0 else "right", no_wrap=True)
    for row in report.rows:
        style = "bold" if row is report.final and row.step else ""
        table.add_row(*cells(row), style=style)
    return table


def narrow_report_table(report: Report) -> Table:
    """The same, one column per step: five steps fit on 80 characters."""
    table = Table(box=box.SIMPLE_HEAD, title=f"{report.recipe} · {report.run}", title_justify="left", pad_edge=False)
    table.add_column("", no_wrap=True)
    for row in report.rows:
        table.add_column(row.label.replace(" ", "\n").replace(".", ".\n"), justify="right", no_wrap=True)
    columns = [cells(row) for row in report.rows]
    for index, (heading, _) in enumerate(COLUMNS[1:], start=1):
        name = heading.replace("-\n", "").replace("\n", " ")
        table.add_row(name, *(_narrow(texts[index]) for texts in columns))
    return table


def _narrow(text: str) -> str:
    """The bounds of an interval below what it is of."""
    value, _, interval = text.partition(" (")
    low, _, high = interval.removesuffix(")").partition("–")
    return f"{value}\n≥ {low}\n≤ {high}" if interval else text


def plan_table(plan: Plan) -> Group:
    """What every step makes, whether it is there already, and what it may take."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    first = plan.origin.shape
    moving = [key for key in first if any(step.shape[key] != first[key] for step in plan.steps)]
    widths = [key.replace("_", " ") for key in moving]
    numbers = (*widths, "parameters", "size", "ratio", "memory", "time")
    for heading in ("step", "stage", "measurement", *numbers, "fingerprint"):
        table.add_column(heading, justify="right" if heading in numbers else "left")
    for step in plan.steps:
        seconds = step.work.seconds * (not step.cached) + step.measuring.seconds * (not step.measured)
        memory = max(step.work.memory, step.measuring.memory)
        table.add_row(
            step.label,
            "–" if step.stage is None else _state(step.cached),
            *_result(plan, step, moving),
            f"{memory / 1e9:.1f} GB",
            duration(seconds) if seconds else "–",
            step.made.fingerprint,
        )
    machine = plan.machine
    total = f"about {duration(plan.seconds)}" if plan.seconds else "nothing to run: everything is cached"
    lines = [
        Text(
            f"{total} on {machine.device} ({machine.dtype}, {machine.threads} threads), "
            f"up to {plan.disk / 1e9:.2f} GB written to {plan.home.root}; times and memory are estimates"
        )
    ]
    lines += [Text(f"gate: {text}") for text in gate_edits.told(plan.recipe.chain(), plan.recipe.gated())]
    lines += [Text(f"warning: {text}", style="yellow") for text in plan.warnings]
    return Group(table, *lines)


def changes_table(plan: Plan, changes: Changes) -> Table:
    """Every step with what there is to do, and every input of it that moved."""
    before = changes.before
    title = f"beside {before.run}" if before else "there is no earlier run to compare with"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
    for heading in ("step", "stage", "measurement", "fingerprint", "because"):
        table.add_column(heading, no_wrap=heading == "step")
    for step in plan.steps:
        texts = [reason.text for reason in changes.reasons if reason.step == step.index]
        why = "\n".join(texts) or ("what goes in is made anew" if before and not step.cached else "")
        table.add_row(
            step.label,
            "–" if step.stage is None else _state(step.cached),
            "–" if step.dataset else _state(step.measured),
            step.made.fingerprint,
            Text(why),
        )
    return table


def _result(plan: Plan, step: Step, moving: Sequence[str]) -> tuple[Text | str, ...]:
    """Measurement, dimensions that change, parameters, size and ratio; a dataset has none of them."""
    if step.dataset is not None:
        return ("–", *("–" for _ in moving), "dataset", "–", "–")
    return (
        _state(step.measured),
        *(str(step.shape[key]) for key in moving),
        f"{step.facts.parameters / 1e6:,.1f} M",
        f"{step.facts.bytes / 1e6:,.1f} MB",
        f"{plan.ratio(step):.2f}×",
    )


def _state(there: bool) -> Text:
    return Text("cached", style="green") if there else Text("will run", style="cyan")


def show_report(console: Console, report: Report) -> None:
    """Print the table and what its columns mean: steps downwards where that fits, else steps across."""
    wide = whole(console)
    table = report_table(report)
    needed = wide.measure(table, options=wide.options.update(width=1000)).maximum
    wide.print(table if needed <= wide.width else narrow_report_table(report))
    wide.print(
        "perplexity, retained quality (95 % interval over documents), KL and agreement are on the other-kind text, "
        "never trained on; seconds in brackets: made before",
        style="dim",
        highlight=False,
    )
    if busy := cost_figures.disturbed(report.rows).strip():
        wide.print(busy, style="yellow", highlight=False, markup=False, soft_wrap=True)
    for decision in report.gates:
        style = "green" if decision.kept else "red"
        wide.print(told(decision), style=style, highlight=False, markup=False, soft_wrap=True)
    tasks = _across(task_figures.table(report.rows))
    if tasks is not None:
        wide.print(tasks)
        wide.print(
            "tasks: share of right answers, or likeness to the origin's (95 % interval over items); ↑ better, ↓ worse "
            "than the origin beyond doubt; sure: from a confidence of 90 % on",
            style="dim",
            highlight=False,
        )
    costs = _across(cost_figures.table(report.rows))
    if costs is not None:
        needed = wide.measure(costs, options=wide.options.update(width=1000)).maximum
        wide.print(costs if needed <= wide.width else _across(cost_figures.table(report.rows), broken=True))
        wide.print(cost_figures.meaning(report.rows), style="dim", highlight=False)


def _across(made: tuple[list[str], list[list[str]]] | None, broken: bool = False) -> Table | None:
    """A figure downwards, a step across, whose name is on lines of its own if ``broken``; None of no figure."""
    if made is None:
        return None
    headings, lines = made
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, heading in enumerate(headings):
        name = heading.replace(" ", "\n").replace(".", ".\n") if broken else heading
        table.add_column(name, justify="right" if index else "left", overflow="fold")
    for line in lines:
        table.add_row(*line)
    return table


def settings_table(rows: list[dict[str, Any]]) -> Table:
    """The settings of a stage, or of a part of a recipe."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("setting", "type", "default", "description"):
        table.add_column(heading)
    for row in rows:
        table.add_row(row["name"], Text(row["type"]), Text(str(row["default"])), Text(row["description"]))
    return table


def plain_table(rows: list[dict[str, str]]) -> Table:
    """Rows of texts under their keys."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for place, heading in enumerate(rows[0]):
        table.add_column(heading, overflow="fold", no_wrap=place == 0)  # a name that is cut off helps nobody
    for row in rows:
        table.add_row(*map(Text, row.values()))
    return table
