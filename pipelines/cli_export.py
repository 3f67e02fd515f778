"""The command that hands a model out: ``attar export``."""

import json
from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli_options import AsJson, HomeFolder


def add(app: typer.Typer) -> None:
    """Make it a command of the command line."""
    app.command()(export)


def export(
    model: Annotated[
        str,
        typer.Argument(
            metavar="RUN|FINGERPRINT", help="a run, of which the last model; or a model, by 6 digits or more"
        ),
    ],
    to: Annotated[Path, typer.Argument(metavar="TO", help="the new folder")],
    step: Annotated[int | None, typer.Option(min=1, metavar="N", help="of a run: the model of this step")] = None,
    home: HomeFolder = None,
    as_json: AsJson = False,
) -> None:
    """Copy a model into a folder that any loader opens: with its tokenizer, its card and the origin's licence."""
    from pipelines import export as exporting
    from pipelines.home import Home

    made = exporting.export(Home.open(home), model, to, step)
    typer.echo(json.dumps(made.as_json(), indent=1) if as_json else made.told)
