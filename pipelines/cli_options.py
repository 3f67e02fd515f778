"""Arguments and options that commands have in common."""

from pathlib import Path
from typing import Annotated

import typer

RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="recipe file, such as conf/quickstart.yaml")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...",
        help="settings that replace the recipe's; entries are counted from 0: stages.1.ffn=0.3 is the second stage",
    ),
]
HomeFolder = Annotated[
    Path | None, typer.Option("--home", help="folder for store and runs [default: $ATTAR_HOME or .attar]")
]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON and nothing else to standard output")]
