"""The command that compares many variants: ``attar sweep``."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines import printing
from pipelines.cli_options import AsJson, HomeFolder

if TYPE_CHECKING:
    from pipelines.home import Home
    from pipelines.sweep import Sweep, Trial
    from pipelines.variants import Runner


def add(app: typer.Typer) -> None:
    """Make it a command of the command line."""
    app.command()(sweep)


def sweep(
    recipe: Annotated[
        Path,
        typer.Argument(metavar="RECIPE", help="recipe with {sweep: …} in place of some values"),
    ],
    home: HomeFolder = None,
    as_json: AsJson = False,
    track: Annotated[bool, typer.Option(help="record the runs in MLflow")] = True,
    dry: Annotated[
        bool, typer.Option("--dry-run", help="list the variants with what they will cost, and run nothing")
    ] = False,
) -> None:
    """Run variants of one recipe and show which are best. Started again, it goes on where it was.

    In place of a value: {sweep: [2, 4, 8]} or {sweep: {low: 0.1, high: 0.4, step: 0.1}}. In the block sweep: search
    (grid, random or tpe), runs, minutes, seed, max_bytes, orders (of the stages, by place: [[0, 1, 2], [1, 0, 2]]).
    """
    from attar.errors import first_line
    from pipelines import html_report, recipe_yaml, variants
    from pipelines.home import Home
    from pipelines.signs import legend
    from pipelines.sweep import FILE, Sweep, Trial, save

    document = recipe_yaml.parse(recipe_yaml.read_text(recipe), f"the recipe {recipe}")
    place = Home.open(home)
    console = printing.console(stderr=True)
    going = Sweep(document, place)
    runner = variants.Runner(going.folder, place, track)
    if dry:
        _foretell(going, runner, as_json)
        return
    if going.budget is not None:
        console.print(going.budget, highlight=False, markup=False)
    variants.environment(place)

    def hear(trial: Trial) -> None:
        told = trial.status if trial.row is None else f"retained {trial.row.retained:.1%} of the quality"
        told = trial.text if trial.status == "outdated" else told
        told = f"{told}; {trial.text}" if trial.status == "finished" and trial.text else told
        told = f"stopped by its gate {trial.text}" if trial.status == "stopped" else told
        text = f"variant {trial.number:02} ({trial.label}): {told}"
        console.print(text, highlight=False, markup=False, soft_wrap=True)  # labels and folders may hold brackets

    why = going.go(runner.carry, runner.foresee, hear)
    found = going.trials()
    path = save(found, going.folder)
    picture = variants.plot(found, f"{document['name']}: {len(found)} variants", going.folder / "pareto.png")
    files = [picture, path, variants.table(found, going.folder / "sweep.csv"), going.folder / FILE]
    try:
        files.append(html_report.write_sweep(place, going.folder))
        page = str(files[-1])
    except Exception as error:  # all figures are there without it
        page = f"was not written ({type(error).__name__}: {first_line(error)})"
    compared = _tracked(place, document, going.folder, found, files) if track else None
    if as_json:
        printing.print_json({"why": why, "trials": json.loads(path.read_text())})
        return
    out = printing.console()
    variants.show(out, found)
    signs = legend(variants.kinds(found).values())
    lines = ["; ".join(filter(None, (why, signs))), f"plot    {picture}", f"report  {page}"]
    lines += [f"compare {compared}"] if compared is not None else []
    for line in lines:
        out.print(line, highlight=False, markup=False, soft_wrap=True)


def _tracked(home: "Home", document: dict[str, Any], folder: Path, found: "list[Trial]", files: list[Path]) -> str:
    """Record the sweep in MLflow; how to see its variants side by side there, or why that cannot be."""
    from attar.credentials import without_credentials
    from attar.errors import first_line
    from pipelines import mlflow_link, mlflow_sweep
    from pipelines.recipe import Track
    from pipelines.sweep_space import read

    experiment = Track.model_validate(document.get("track") or {}).experiment
    try:
        seen = mlflow_sweep.record(home, experiment, folder, found, files, read(document))
        return mlflow_link.to_open(home, seen)
    except Exception as error:  # a server that is down: all is on disk, and the same command asks again
        why = without_credentials(first_line(error))
        return f"in MLflow is not possible now ({why}); the same command does it later and computes nothing anew"


def _foretell(going: "Sweep", runner: "Runner", as_json: bool) -> None:
    """Print the variants and what the plan expects of them."""
    from pipelines import sweep_cost

    found = []
    for one in sweep_cost.expected(going, runner.foresee):
        found.append(one)
        if not as_json:
            trial = one.trial
            told = _time(one.seconds) if trial.row is None else "is there"
            told = f"cannot be planned: {trial.text}" if trial.status == "refused" else told
            typer.echo(f"{trial.number:02} {trial.label}: {told}")
    seconds = sum(one.seconds for one in found)
    if as_json:
        entries = [
            {"number": one.trial.number, "values": one.trial.values, "label": one.trial.label, "text": one.trial.text,
             "status": "planned" if one.trial.status == "failed" else one.trial.status, "seconds": one.seconds}
            for one in found
        ]  # fmt: skip
        printing.print_json({"seconds": seconds, "spent": going.spent, "variants": entries})
        return
    search = going.space.search
    learnt = "; tpe chooses the later ones by results: these stand for them" if search.search == "tpe" else ""
    ended = f"; {going.budget}" if going.budget is not None else ""
    typer.echo(f"some {_time(seconds)} in all, what variants share counted once{ended}{learnt}")


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
