"""What commands print on: a terminal, a pipe that gets tables whole, or JSON."""

import json
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

WIDE = 240  # columns of a pipe; a table that needs more has a narrower form


def console(stderr: bool = False) -> "Console":
    """Results go to standard output, progress and remarks to standard error."""
    from rich.console import Console

    return Console(stderr=stderr)


def whole(shown: "Console") -> "Console":
    """The console itself where it is a terminal; a file or a pipe has no width that a table had to be cut to."""
    from rich.console import Console

    return shown if shown.is_terminal else Console(file=shown.file, width=WIDE)


def print_json(value: Any) -> None:
    """The one thing on standard output where ``--json`` asks for it."""
    typer.echo(json.dumps(value, indent=1))
