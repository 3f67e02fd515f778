"""The command line: ``attar run``, ``plan``, ``explain``, ``deploy``, ``show``, ``stages``, ``doctor`` and more.

Exit codes: 0 done, 2 bad input, 3 a gate was not passed, 4 a stage broke, 130 cancelled. Errors are one sentence on
standard error. What is heavy is imported inside the commands, so that ``--help`` is quick.
"""

import os
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attar import shortage
from attar.credentials import without_credentials
from attar.errors import AttarError, BadInput, GateFailed, StageFailed
from pipelines import cli_choice, cli_export, cli_reference, cli_search, cli_services, printing
from pipelines.cli_options import AsJson, HomeFolder, Overrides, RecipeFile

if TYPE_CHECKING:
    from rich.console import Console

    from attar.events import Event
    from pipelines.home import Home
    from pipelines.recipe import Recipe

CANCELLED = 130

app = typer.Typer(
    help="Compress language models: distil, prune, quantize, fine-tune, measured after every stage.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.command()
def run(
    recipe: RecipeFile,
    overrides: Overrides = None,
    home: HomeFolder = None,
    as_json: AsJson = False,
    track: Annotated[bool, typer.Option(help="record the run in MLflow")] = True,
) -> None:
    """Run a recipe. What the store has already is not computed again; after a crash, run the same command again."""
    from pipelines import changes, child, prefect_check, prefect_server, progress
    from pipelines.embedded import configure

    parsed, place = _open(recipe, overrides, home)
    configure(place)
    prefect_check.check()
    console = printing.console(stderr=True)
    plan = _plan(parsed, place, True, console)
    told = f"about {progress.duration(plan.seconds)} on {plan.machine.device} ({plan.machine.dtype})"
    told = f"{parsed.name}: {changes.compare(plan).line}\n{told}"
    console.print(told, highlight=False, markup=False, soft_wrap=True)
    for text in plan.warnings:
        console.print(f"warning: {text}", style="yellow", highlight=False, markup=False, soft_wrap=True)
    if plan.seconds and not plan.machine.device.startswith("cuda"):
        child.prepare(plan.machine.threads)  # while the servers start
    name = place.new_run(parsed.name)
    folder = place.runs / name
    prefect_server.start(place)
    from pipelines import patience
    from pipelines.flow import compress

    outcome = patience.Outcome()

    with ExitStack() as stack:

        def tell(outcome: patience.Outcome) -> int:
            """The end of the run when Prefect does not come to one."""
            stack.close()
            if outcome.error is not None:
                if isinstance(outcome.error, GateFailed) and not as_json:
                    _show_kept(folder)
                return _ending(outcome.error)
            _show_result(outcome.result, place, folder, track, as_json)
            return 0

        def warn(error: Exception) -> None:
            text = f"warning: {patience.lost(error)}"
            console.print(text, style="yellow", highlight=False, markup=False, soft_wrap=True)

        stack.enter_context(progress.shown(folder, console))
        with patience.LastWord(outcome, tell):
            try:
                patience.through(outcome, warn, compress, parsed.model_dump(mode="json"), str(place.root), name, track)
            except GateFailed:
                stack.close()
                if not as_json:
                    _show_kept(folder)
                raise
    _show_result(outcome.result, place, folder, track, as_json)


@app.command()
def plan(recipe: RecipeFile, overrides: Overrides = None, home: HomeFolder = None, as_json: AsJson = False) -> None:
    """Check a recipe and say what every step makes, what is cached, and what the rest will take."""
    from pipelines import tables

    parsed, place = _open(recipe, overrides, home)
    made = _plan(parsed, place, False, printing.console(stderr=True))
    if as_json:
        printing.print_json(made.as_json())
    else:
        console = printing.console()
        printing.whole(console).print(tables.plan_table(made))


@app.command()
def explain(recipe: RecipeFile, overrides: Overrides = None, home: HomeFolder = None, as_json: AsJson = False) -> None:
    """Say what a run would compute, and which input made the difference to the last run of the recipe."""
    from pipelines import changes, tables

    parsed, place = _open(recipe, overrides, home)
    made = _plan(parsed, place, False, printing.console(stderr=True))
    found = changes.compare(made)
    if as_json:
        printing.print_json(found.as_json())
        return
    console = printing.console()
    console.print(found.line, highlight=False, markup=False, soft_wrap=True)
    printing.whole(console).print(tables.changes_table(made, found))


@app.command()
def show(
    run: Annotated[str | None, typer.Argument(help="id of the run [default: the newest]")] = None,
    home: HomeFolder = None,
    as_json: AsJson = False,
) -> None:
    """Show the report of a run."""
    from pipelines import changes, report, tables
    from pipelines.home import Home
    from pipelines.mlflow_words import RUNS

    place = Home.open(home)
    folder = place.run_folder(run)
    found = report.load(folder)
    if found is None:
        raise BadInput(f"the run {folder.name} has measured nothing yet; its journal is {folder / 'journal.jsonl'}")
    if as_json:
        printing.print_json(found.as_json() | {"folder": str(folder)})
        return
    tables.show_report(printing.console(), found)
    if told := changes.unfinished(folder):
        printing.console().print(f"the run {told}: this is what it has measured", highlight=False, markup=False)
    _end(place, folder, (folder / RUNS).exists())


@app.command()
def doctor(home: HomeFolder = None, as_json: AsJson = False) -> None:
    """Check this installation and this machine."""
    from pipelines import doctor as checks
    from pipelines.home import Home

    results = checks.examine(Home.open(home))
    if as_json:
        printing.print_json([result._asdict() for result in results])
    else:
        console = printing.console()
        marks = {"ok": "[green]✓[/green]", "note": "[yellow]•[/yellow]", "bad": "[red]✗[/red]"}
        for result in results:
            console.print(f"{marks[result.state]} [bold]{result.name:<12}[/bold]", end=" ")
            console.print(result.text, highlight=False, markup=False, soft_wrap=True)
    if any(result.state == "bad" for result in results):
        raise typer.Exit(2)


@app.command()
def sync(home: HomeFolder = None, as_json: AsJson = False) -> None:
    """Send to MLflow the journals of runs that could not be tracked when they ran, and mark what sweeps came to."""
    from pipelines.embedded import configure
    from pipelines.home import Home

    place = Home.open(home)
    configure(place)
    from pipelines import mlflow_pages, tracking

    def warn(text: str) -> None:
        print(f"warning: {text}", file=sys.stderr)  # noqa: T201

    results = tracking.sync(place, warn)
    told: list[str] = []
    mlflow_pages.refresh(place, told.append, warn)
    if as_json:
        printing.print_json(results)
        return
    for line in [*(f"{name}: {count} records sent" for name, count in results.items()), *told]:
        printing.console().print(line, highlight=False, markup=False, soft_wrap=True)


@app.command()
def gc(
    home: HomeFolder = None,
    keep_runs: Annotated[
        int, typer.Option(min=0, help="newest runs of every recipe's name that are kept with all they need")
    ] = 10,
    older_than: Annotated[str, typer.Option(metavar="AGE", help="younger runs are kept, too: 12h, 30d, 2w")] = "30d",
    yes: Annotated[bool, typer.Option("--yes", help="delete; without it nothing is changed")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete what no kept run, no running one, no registered model and no lineage needs; first say what that is.

    What is younger than an hour stays, and so does a run that MLflow has not got yet.
    """
    from pipelines import collection
    from pipelines.embedded import configure
    from pipelines.home import Home
    from pipelines.retention import Rule

    rule, place = Rule.parse(keep_runs, older_than), Home.open(home)
    configure(place)
    result = collection.collect(place, rule, yes)
    if as_json:
        printing.print_json(result.as_json())
    else:
        collection.show(printing.console(), result)


def main(arguments: list[str] | None = None) -> None:
    """Entry point: every error that is meant for readers becomes one sentence and an exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stopped from outside is stopped as by Ctrl-C
    try:
        result = app(arguments, standalone_mode=False)
        code = result if isinstance(result, int) else 0  # typer hands back the code of its Exit
        if code == CANCELLED:  # which is what it makes of Ctrl-C
            code = _ending(KeyboardInterrupt())
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except (Exception, KeyboardInterrupt) as error:
        code = _ending(error)
    if (patience := sys.modules.get("pipelines.patience")) is not None:
        patience.leave(code)
    sys.exit(code)


def _ending(error: BaseException) -> int:
    """Say what an error has to say; the exit code that belongs to it."""
    code = CANCELLED
    if isinstance(error, AttarError):
        code = error.exit_code
        if code != CANCELLED:
            print(f"error: {error}", file=sys.stderr)  # noqa: T201
    elif isinstance(error, Exception) and not isinstance(error, typer.Abort):  # else Ctrl-C, or Prefect's own signal
        code = _usage(error)
    if code == CANCELLED:
        print("cancelled; run the same command again to go on", file=sys.stderr)  # noqa: T201
    return code


def _usage(error: Exception) -> int:
    """Typer's own complaints, or a disk that is full; anything else is a fault of ours and shows itself."""
    show = getattr(error, "format_message", None)
    if show is not None:
        print(f"error: {show()}", file=sys.stderr)  # noqa: T201
        return BadInput.exit_code
    short = shortage.sentence(error, {})
    if short is None:
        raise error
    print(f"error: {without_credentials(short)}", file=sys.stderr)  # noqa: T201
    return StageFailed.exit_code


def _open(recipe: Path, overrides: list[str] | None, home: Path | None) -> "tuple[Recipe, Home]":
    from pipelines.home import Home
    from pipelines.recipe import load

    return load(recipe, overrides), Home.open(home)


def _plan(recipe: "Recipe", home: "Home", complete: bool, console: "Console") -> Any:
    """Make the plan, with a line that moves while models are converted and texts extracted."""
    from pipelines.child import QUIET
    from pipelines.plan import make_plan

    for name, value in QUIET.items():
        os.environ.setdefault(name, value)

    with console.status("planning") as status:

        def watch(event: "Event") -> None:
            if event["kind"] == "progress":
                status.update(f"planning: {event['done']:,} of {event['total']:,} {event['unit']}")
            elif event["kind"] in ("log", "waiting"):
                status.update(f"planning: {event['text']}")

        return make_plan(recipe, home, complete, watch)


def _show_result(result: dict[str, Any], home: "Home", folder: Path, tracked: bool, as_json: bool) -> None:
    """The report of a run that has just finished."""
    if as_json:
        printing.print_json(result | {"folder": str(folder)})
        return
    from pipelines import tables
    from pipelines.report import Report

    tables.show_report(printing.console(), Report.from_json(result))
    _end(home, folder, tracked)


def _show_kept(folder: Path) -> None:
    """What a run had made when a gate stopped it: all of it is kept."""
    from pipelines import report, tables

    found = report.load(folder)
    if found is not None:
        tables.show_report(printing.console(), found)


def _end(home: "Home", folder: Path, tracked: bool) -> None:
    """Where everything is, and how to look at it in MLflow."""
    console = printing.console()
    files = (("report", folder / "report.html"), ("plot", folder / "pareto.png"), ("models", folder / "models"))
    lines: list[tuple[str, Callable[[], str | None]]] = [
        (name, partial(str, path))
        for name, path in files
        if path.exists()  # the first two are made at its end
    ]
    if tracked:
        from pipelines import mlflow_pages
        from pipelines.champion import CHAMPION
        from pipelines.mlflow_link import comparison, open_command

        mlflow_pages.ensure(home, folder)
        lines.append(("MLflow", lambda: open_command(home, folder)))
        lines.append(("compare", lambda: comparison(home, folder)))
        if (decided := folder / CHAMPION).is_file():
            lines.append(("line", lambda: decided.read_text().strip()))
    for name, text in lines:
        if (found := text()) is not None:
            console.print(f"[bold]{name:<7}[/bold]", end=" ")
            console.print(found, highlight=False, markup=False, soft_wrap=True)


cli_reference.add(app)
cli_search.add(app)
cli_choice.add(app)
cli_export.add(app)
cli_services.add(app)

if __name__ == "__main__":
    main()
