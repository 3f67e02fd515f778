"""The command line: ``attar run``, ``plan``, ``show``, ``stages``, ``doctor``, ``sync``.

Exit codes: 0 done, 2 bad input, 3 a gate was not passed, 4 a stage broke, 130 cancelled. Errors are one sentence on
standard error. What is heavy is imported inside the commands, so that ``--help`` is quick.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attar.errors import AttarError
from pipelines import cli_services
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
    from pipelines import changes, prefect_server, progress, tables
    from pipelines.embedded import configure
    from pipelines.report import Report

    parsed, place = _open(recipe, overrides, home)
    console = _console()
    plan = _plan(parsed, place, True, console)
    console.print(
        f"{parsed.name}: {changes.compare(plan).line}\n"
        f"about {progress.duration(plan.seconds)} on {plan.machine.device} ({plan.machine.dtype})",
        highlight=False,
        soft_wrap=True,
    )
    for text in plan.warnings:
        console.print(f"warning: {text}", style="yellow", highlight=False, soft_wrap=True)
    configure(place)
    name = place.new_run(parsed.name)
    folder = place.runs / name
    prefect_server.start(place)
    with progress.shown(folder, console):
        from pipelines.flow import compress

        result = compress(parsed.model_dump(mode="json"), str(place.root), name, track)
    report = Report.from_json(result)
    if as_json:
        _print_json(result | {"folder": str(folder)})
        return
    tables.show_report(_console(stderr=False), report)
    _end(place, folder, track)


@app.command()
def plan(recipe: RecipeFile, overrides: Overrides = None, home: HomeFolder = None, as_json: AsJson = False) -> None:
    """Check a recipe and say what every step makes, what is cached, and what the rest will take."""
    from pipelines import tables

    parsed, place = _open(recipe, overrides, home)
    made = _plan(parsed, place, False, _console())
    if as_json:
        _print_json(made.as_json())
    else:
        console = _console(stderr=False)
        (console if console.is_terminal else _wide()).print(tables.plan_table(made))


@app.command()
def explain(recipe: RecipeFile, overrides: Overrides = None, home: HomeFolder = None, as_json: AsJson = False) -> None:
    """Say what a run would compute, and which input made the difference to the last run of the recipe."""
    from pipelines import changes, tables

    parsed, place = _open(recipe, overrides, home)
    made = _plan(parsed, place, False, _console())
    found = changes.compare(made)
    if as_json:
        _print_json(found.as_json())
        return
    console = _console(stderr=False)
    console.print(found.line, highlight=False, markup=False, soft_wrap=True)
    console.print(tables.changes_table(made, found))


@app.command()
def deploy(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="deployments file: forms, schedules, their recipes")
    ] = Path("conf/deployments.yaml"),
    home: HomeFolder = None,
    as_json: AsJson = False,
) -> None:
    """Register forms and schedules at the Prefect server that PREFECT_API_URL names; again, it changes nothing."""
    from pipelines.embedded import configure
    from pipelines.home import Home

    place = Home.open(home)
    configure(place)
    from pipelines import deployments

    done = deployments.deploy(file, place)
    if as_json:
        _print_json({one.name: one.what for one in done})
        return
    for one in done:
        _console(stderr=False).print(f"{one.name}: {one.what}", highlight=False, soft_wrap=True)


@app.command()
def show(
    run: Annotated[str | None, typer.Argument(help="id of the run [default: the newest]")] = None,
    home: HomeFolder = None,
    as_json: AsJson = False,
) -> None:
    """Show the report of a run."""
    from attar.errors import BadInput
    from pipelines import report, tables
    from pipelines.home import Home

    place = Home.open(home)
    folder = place.run_folder(run)
    found = report.load(folder)
    if found is None:
        raise BadInput(f"the run {folder.name} has measured nothing yet; its journal is {folder / 'journal.jsonl'}")
    if as_json:
        _print_json(found.as_json() | {"folder": str(folder)})
        return
    tables.show_report(_console(stderr=False), found)
    _end(place, folder, (folder / "mlflow.json").exists())


@app.command()
def stages(
    name: Annotated[str | None, typer.Argument(help="a stage, to see its settings")] = None, as_json: AsJson = False
) -> None:
    """List the stages, or the settings of one."""
    from pipelines import catalogue, tables

    console = _console(stderr=False)
    if name is None:
        found = catalogue.summary()
        if as_json:
            _print_json(found)
        for entry in [] if as_json else found:
            console.print(f"[bold]{entry['name']:<18}[/bold]{entry['summary']}", highlight=False, soft_wrap=True)
        return
    described = catalogue.describe(name)
    if as_json:
        _print_json(described)
        return
    console.print(f"[bold]{described['name']}[/bold]  {described['summary']}\n", highlight=False, soft_wrap=True)
    if described["text"]:
        console.print(described["text"], highlight=False, markup=False)
    console.print(tables.settings_table(described["settings"]))


@app.command()
def doctor(home: HomeFolder = None, as_json: AsJson = False) -> None:
    """Check this installation and this machine."""
    from pipelines import doctor as checks
    from pipelines.home import Home

    results = checks.examine(Home.open(home))
    if as_json:
        _print_json([result._asdict() for result in results])
    else:
        console = _console(stderr=False)
        marks = {"ok": "[green]✓[/green]", "note": "[yellow]•[/yellow]", "bad": "[red]✗[/red]"}
        for result in results:
            console.print(
                f"{marks[result.state]} [bold]{result.name:<12}[/bold] {result.text}", highlight=False, soft_wrap=True
            )
    if any(result.state == "bad" for result in results):
        raise typer.Exit(2)


@app.command()
def sync(home: HomeFolder = None, as_json: AsJson = False) -> None:
    """Send the journals of runs that could not be tracked when they ran."""
    from pipelines.embedded import configure
    from pipelines.home import Home

    place = Home.open(home)
    configure(place)
    from pipelines import tracking

    results = tracking.sync(place)
    if as_json:
        _print_json(results)
    for name, count in {} if as_json else results.items():
        _console(stderr=False).print(f"{name}: {count} records sent", highlight=False, soft_wrap=True)


def main(arguments: list[str] | None = None) -> None:
    """Entry point: every error that is meant for readers becomes one sentence and an exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stopped from outside is stopped as by Ctrl-C
    try:
        result = app(arguments, standalone_mode=False)
        code = result if isinstance(result, int) else 0  # typer hands back the code of its Exit
    except AttarError as error:
        code = error.exit_code
        if code != CANCELLED:
            print(f"error: {error}", file=sys.stderr)  # noqa: T201
    except (KeyboardInterrupt, typer.Abort):
        code = CANCELLED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except Exception as error:
        code = _usage(error)
    if code == CANCELLED:
        print("cancelled; run the same command again to go on", file=sys.stderr)  # noqa: T201
    sys.exit(code)


def _usage(error: Exception) -> int:
    """Typer's own complaints about the command line; anything else is a fault of ours and shows itself."""
    show = getattr(error, "format_message", None)
    if show is None:
        raise error
    print(f"error: {show()}", file=sys.stderr)  # noqa: T201
    return 2


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


def _end(home: "Home", folder: Path, tracked: bool) -> None:
    """Where everything is, and how to look at it in MLflow."""
    console = _console(stderr=False)
    lines: list[tuple[str, Callable[[], str | None]]] = [
        ("plot", lambda: str(folder / "pareto.png")),
        ("models", lambda: str(folder / "models")),
    ]
    if tracked:
        from pipelines.mlflow_link import open_command

        lines.append(("MLflow", lambda: open_command(home, folder)))
    for name, text in lines:
        if (found := text()) is not None:
            console.print(f"[bold]{name:<7}[/bold]", end=" ")
            console.print(found, highlight=False, markup=False, soft_wrap=True)


def _console(stderr: bool = True) -> "Console":
    from rich.console import Console

    return Console(stderr=stderr)


def _wide() -> "Console":
    from rich.console import Console

    return Console(width=200)


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=1))  # noqa: T201


cli_services.add(app)

if __name__ == "__main__":
    main()
