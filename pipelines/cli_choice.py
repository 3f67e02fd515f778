"""The commands that choose among what was made: ``attar best``, ``attar report`` and ``attar champion``."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines import printing
from pipelines.as_good import MARGIN
from pipelines.cli_options import AsJson, HomeFolder


def add(app: typer.Typer) -> None:
    """Make them commands of the command line."""
    app.command()(best)
    app.command()(report)
    app.command()(champion)


def best(
    max_bytes: Annotated[
        str | None, typer.Option(metavar="SIZE", help="size of all files that a runtime needs, such as 60MB")
    ] = None,
    least: Annotated[
        list[str] | None,
        typer.Option("--min", metavar="MEASURE=LIMIT", help="such as headline=0.9, task/facts=60%, decode=1.5×"),
    ] = None,
    most: Annotated[
        list[str] | None, typer.Option("--max", metavar="MEASURE=LIMIT", help="such as kl=0.3, parameters=100M")
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="rank what is comparable with this recipe or sweep [default: the newest]"),
    ] = None,
    margin: Annotated[
        float, typer.Option(min=0, max=1, help="of headline, that a smaller one offered may lose; 0.01 is a point")
    ] = MARGIN,
    home: HomeFolder = None,
    as_json: AsJson = False,
) -> None:
    """Say which model to ship, of all that were ever measured in this home; limits count at the interval's end."""
    from pipelines import best as choosing
    from pipelines import best_words
    from pipelines.home import Home

    asked = choosing.limits(max_bytes, least or (), most or ())
    found = choosing.choose(Home.open(home), asked, recipe, margin)
    if as_json:
        printing.print_json(found.as_json())
    else:
        best_words.show(printing.console(), found)


def report(
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RUN]...",
            help="runs, or a sweep's name (all its variants), or a recipe's [default: the newest run]",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="[default: report.html in the run's folder; of several: report-NAME.html here]"
        ),
    ] = None,
    home: HomeFolder = None,
) -> None:
    """Write one page about runs that opens anywhere without a network: which to ship, why, and how to make it again."""
    from pipelines import html_report
    from pipelines.home import Home

    typer.echo(html_report.write(Home.open(home), runs or (), out))


def champion(
    line: Annotated[str | None, typer.Argument(metavar="[LINE]", help="a model line [default: list them]")] = None,
    rollback: Annotated[bool, typer.Option("--rollback", help="the champion before is champion again")] = False,
    to: Annotated[
        int | None, typer.Option(min=1, metavar="VERSION", help="make this version the champion, whatever was measured")
    ] = None,
    home: HomeFolder = None,
    as_json: AsJson = False,
) -> None:
    """Show a line of registered models and its champion, or change who that is. Recipes say: champion: {line: NAME}."""
    from attar.errors import BadInput
    from pipelines.embedded import configure
    from pipelines.home import Home

    if line is None and (rollback or to is not None):
        raise BadInput("name the line whose champion is to change: attar champion LINE --rollback")
    if rollback and to is not None:
        raise BadInput("--rollback and --to say two different things; give one of them")
    place = Home.open(home)
    configure(place)
    from pipelines import champion_lines

    lines = champion_lines.Lines.open(place)
    told = ""
    if line is not None and rollback:
        told = lines.roll_back(line)
    elif line is not None and to is not None:
        told = lines.crown(line, str(to))
    names = lines.names() if line is None else [line]
    found = {name: lines.versions(name) for name in names}
    if as_json:
        printing.print_json({name: [vars(one) for one in ones] for name, ones in found.items()})
        return
    console = printing.console()
    if told:
        console.print(told, highlight=False, markup=False, soft_wrap=True)
    for name, ones in found.items():
        champion_lines.show(console, name, ones)
