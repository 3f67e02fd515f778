"""The flows behind the forms: a recipe from the list, or stages edited in the form; both end where ``attar run`` does.

Their parameters come from the schemas of ``forms`` and are checked here, so that what is wrong is one sentence in the
state of the run. Annotations are evaluated, since Prefect reads them.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from inspect import Parameter, Signature
from pathlib import Path
from typing import Any

from prefect import flow, runtime
from prefect.client.schemas.objects import State
from prefect.exceptions import TerminationSignal
from prefect.states import Cancelled as CancelledState
from prefect.states import Completed, Failed
from pydantic_core import PydanticUndefined

from attar import shortage
from attar.credentials import without_credentials
from attar.errors import AttarError, BadInput, Cancelled
from pipelines import deployments, display, form_values, journal, mlflow_link
from pipelines.deployments_yaml import recipe_file
from pipelines.embedded import configure
from pipelines.flow import compress
from pipelines.home import Home
from pipelines.plan import make_plan
from pipelines.recipe import Recipe, load
from pipelines.report import Report

LONGEST_NAME = 100  # of a run: characters of what was asked for


def _asked() -> str:
    """What a run goes by before it has an id, and for good when it never gets one: what was asked for."""
    asked = runtime.flow_run.parameters
    overrides = asked.get("overrides")
    parts = [asked.get("recipe", asked.get("name")), *(overrides if isinstance(overrides, list) else [overrides])]
    if "recipe" in asked and asked.get("seed") not in (None, ""):
        parts.append(f"seed={asked['seed']}")
    name = without_credentials(" ".join(" ".join(str(part) for part in parts if part is not None).split()))
    return (name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…") or "new run"


@flow(
    name=deployments.FLOWS["recipe"],
    flow_run_name=_asked,
    persist_result=False,
    result_serializer="json",
    validate_parameters=False,
)
def compress_recipe(recipe: str, seed: Any = None, overrides: Any = None) -> Any:
    """Run a recipe of the recipes' folder, with settings of one's own."""
    return _carry_out(lambda: _chosen(recipe, seed, overrides))


def _stages(**values: Any) -> Any:
    """Run the recipe that the form holds."""
    return _carry_out(lambda: form_values.recipe(values))


def _signature() -> Signature:
    """A parameter for every field of a recipe, so that the form forgets none."""
    given = [
        Parameter(
            name,
            Parameter.KEYWORD_ONLY,
            annotation=Any,
            default=Parameter.empty if field.default is PydanticUndefined else None,
        )
        for name, field in Recipe.model_fields.items()
    ]
    return Signature(given, return_annotation=Any)


_stages.__signature__ = _signature()  # type: ignore[attr-defined]
compress_stages = flow(
    name=deployments.FLOWS["stages"],
    flow_run_name=_asked,
    persist_result=False,
    result_serializer="json",
    validate_parameters=False,
)(_stages)


def _chosen(name: Any, seed: Any, overrides: Any) -> Recipe:
    path = recipe_file(_place("ATTAR_RECIPES", deployments.RECIPES), name)
    given = overrides if isinstance(overrides, list) else [] if overrides is None else [overrides]
    wrong = next((text for text in given if not isinstance(text, str)), None)
    if wrong is not None:
        raise BadInput(f"override {wrong!r} is not of the form KEY=VALUE, such as seed=1 or stages.1.ffn=0.3")
    return load(path, [*given, *([] if seed is None or seed == "" else [f"seed={seed}"])])


def _carry_out(make: Callable[[], Recipe]) -> State[Any]:
    """One run from its recipe to the state that Prefect shows."""
    try:
        home = Home.open(_place("ATTAR_HOME", deployments.HOME))
        configure(home)
        display.listen()
        _enter_folder()
        recipe = make()
        make_plan(recipe, home, complete=True, watch=display.preparing)  # what cannot work leaves no run behind
        run = home.new_run(recipe.name)
        display.rename(f"{recipe.name} · {run}")
        result = compress.fn(recipe.model_dump(mode="json"), str(home.root), run)
    except Cancelled as error:  # not raised: Prefect would take it for a failure, with a traceback
        return CancelledState(message=without_credentials(str(error)))
    except TerminationSignal:  # whoever ended the worker cancelled what it did, as journal and MLflow say, too
        return CancelledState(message="cancelled, as its worker was asked to end; run it again to go on")
    except AttarError as error:
        return Failed(message=without_credentials(str(error)))
    except Exception as error:  # a fault of ours shows itself; a full disk is none, wherever it was noticed
        if (short := shortage.sentence(error, {})) is None:
            raise
        return Failed(message=without_credentials(short))
    folder = home.runs / run
    why = next(record["text"] for record in journal.read(folder) if record["kind"] == "why")
    address = mlflow_link.address(home, folder)
    return Completed(message=display.finished(Report.from_json(result), why, home, address))


def _enter_folder() -> None:
    """Go where the deployment was registered. Prefect's ``working_dir`` ends a run on a machine without that folder."""
    with suppress(OSError):
        os.chdir(os.environ.get(deployments.FOLDER, ""))


def _place(own: str, deployed: str) -> Path:
    """A folder that the worker's environment names, else the one that was there when the deployment was registered."""
    found = os.environ.get(own) or os.environ.get(deployed)
    if not found:
        raise BadInput(f"{own} is not set where the worker runs; set it, or register again with: attar deploy")
    return Path(found).expanduser().absolute()
