"""The commands of what runs unattended: ``attar serve``, ``attar worker`` and ``attar deploy``."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from pipelines import printing
from pipelines.cli_options import AsJson, HomeFolder

PoolName = Annotated[str | None, typer.Option("--pool", help="work pool to serve [default: the file's, or attar]")]


def add(app: typer.Typer) -> None:
    """Make them commands of the command line."""
    app.command()(serve)
    app.command()(worker)
    app.command()(deploy)


def serve(
    file: Annotated[
        Path, typer.Argument(metavar="[FILE]", help="deployments file: forms, schedules, their recipes")
    ] = Path("conf/deployments.yaml"),
    home: HomeFolder = None,
    prefect_port: Annotated[int, typer.Option(min=1, max=65535, help="port of Prefect's pages")] = 4200,
    mlflow_port: Annotated[int, typer.Option(min=1, max=65535, help="port of MLflow's pages")] = 5000,
) -> None:
    """Bring up Prefect, MLflow and a worker on this machine, until Ctrl-C."""
    from pipelines import serve as services
    from pipelines.home import Home

    console = printing.console()

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    services.serve(Home.open(home), file, (prefect_port, mlflow_port), say)


def worker(
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="deployments file, whose pool is served")
    ] = None,
    pool: PoolName = None,
    home: HomeFolder = None,
) -> None:
    """Run what the Prefect server of PREFECT_API_URL hands out, until Ctrl-C."""
    from attar import slots
    from attar.errors import BadInput
    from pipelines import deployments_yaml, guard
    from pipelines.embedded import SILENT
    from pipelines.home import Home

    if not os.environ.get("PREFECT_API_URL"):
        raise BadInput("PREFECT_API_URL names no server; set it, or bring up everything here with: attar serve")
    if file is not None and pool is not None:
        raise BadInput(f"the pool is that of {file} or that of --pool; give one of them")
    named = deployments_yaml.read(file).pool if file else deployments_yaml.Pool()
    chosen = {"ATTAR_HOME": str(Home.open(home).root)} if home else {}  # else that of the deployment
    chosen[slots.FOLDER] = str(slots.folder())  # the worker has a temporary folder of its own
    environment = SILENT | dict(os.environ) | chosen
    command = guard.arguments(0, guard.worker(pool or named.name))
    os.execve(command[0], command, environment)


def deploy(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="deployments file: forms, schedules, their recipes")
    ] = Path("conf/deployments.yaml"),
    take_over: Annotated[bool, typer.Option("--take-over", help="also what is registered for another home")] = False,
    home: HomeFolder = None,
    as_json: AsJson = False,
) -> None:
    """Register the file's forms and schedules at PREFECT_API_URL; what stood in it before is removed."""
    from pipelines.embedded import configure
    from pipelines.home import Home

    place = Home.open(home)
    configure(place)
    from pipelines import deployments

    done, remarks = deployments.deploy(file, place, take_over)
    if as_json:
        printing.print_json({one.name: one.what for one in done})
    for one in [] if as_json else done:
        typer.echo(f"{one.name}: {one.what}")
    for text in remarks:
        print(f"warning: {text}", file=sys.stderr)  # noqa: T201
