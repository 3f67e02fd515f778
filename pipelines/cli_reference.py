"""The commands that explain what may stand in a recipe: ``attar stages`` and ``attar recipe``."""

from typing import Annotated

import typer

from pipelines import printing
from pipelines.cli_options import AsJson


def add(app: typer.Typer) -> None:
    """Make them commands of the command line."""
    app.command()(stages)
    app.command()(recipe)


def stages(
    name: Annotated[str | None, typer.Argument(help="a stage, to see its settings")] = None, as_json: AsJson = False
) -> None:
    """List the stages, or the settings of one."""
    from pipelines import catalogue, tables

    described = catalogue.summary() if name is None else catalogue.describe(name)
    if as_json:
        return printing.print_json(described)
    console = printing.console()
    if isinstance(described, list):
        width = 2 + max(len(entry["name"]) for entry in described)
        for entry in described:
            console.print(f"[bold]{entry['name']:<{width}}[/bold]{entry['summary']}", highlight=False, soft_wrap=True)
        return None
    console.print(f"[bold]{described['name']}[/bold]  {described['summary']}\n", highlight=False, soft_wrap=True)
    if described["text"]:
        console.print(described["text"], highlight=False, markup=False)
    console.print(tables.settings_table(described["settings"]))
    return None


def recipe(
    part: Annotated[
        str | None, typer.Argument(help="data, measure, gates, sweep, champion or track, to see its keys")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the keys of a recipe, or of one of its parts: measures, gates, sweeps."""
    from pipelines import recipe_reference, tables

    console = printing.console()
    if part is None:
        rows = recipe_reference.summary()
        if as_json:
            return printing.print_json(rows)
        console.print(tables.settings_table(rows))
        return None
    described = recipe_reference.describe(part)
    if as_json:
        return printing.print_json(described)
    console.print(f"[bold]{described['name']}[/bold]  {described['summary']}\n", highlight=False, soft_wrap=True)
    console.print(described["example"], highlight=False, markup=False, soft_wrap=True)
    console.print(tables.settings_table(described["settings"]))
    if described["measures"]:
        console.print(tables.plain_table(described["measures"]))
    return None
