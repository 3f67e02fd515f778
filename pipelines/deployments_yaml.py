"""The deployments file: which forms and schedules there are, checked before anything is registered."""

from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from attar.complaint import complaint
from attar.errors import BadInput, nearest
from pipelines import recipe_yaml
from pipelines.recipe import NAME, Recipe
from pipelines.recipe import load as load_recipe
from pipelines.sweep_words import MARK

LONGEST_YEARS = 50  # without a match, after which a cron line is taken for one that never comes


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Schedule(_Part):
    """When it runs by itself."""

    cron: Annotated[str, Field(min_length=1, description="minute, hour, day, month, weekday: 0 3 * * *")]
    timezone: Annotated[str, Field(min_length=1, description="whose clock that is, such as Europe/Berlin")] = "UTC"
    active: Annotated[
        bool, Field(description="on from the first; who pauses or resumes it in the UI afterwards has the last word")
    ] = True


class Concurrency(_Part):
    """What happens when it is to begin while it runs still."""

    limit: Annotated[int, Field(ge=1, le=1000, description="runs of this deployment at once")] = 1
    collision_strategy: Annotated[
        Literal["ENQUEUE", "CANCEL_NEW"], Field(description="one too many waits, or is cancelled")
    ] = "ENQUEUE"


class Pool(_Part):
    """The work pool whose worker runs the deployments; files that share one give it the same limit."""

    name: Annotated[str, Field(pattern=NAME, description="name of the work pool")] = "attar"
    limit: Annotated[int | None, Field(ge=1, le=1000, description="runs at once in the pool; none: no limit")] = None


class Deployment(_Part):
    """One form, one schedule, or both."""

    name: Annotated[str, Field(pattern=NAME, description="what it is called in the UI")]
    form: Annotated[
        Literal["recipe", "stages"], Field(description="choose a recipe and override some of it, or edit its stages")
    ] = "recipe"
    recipe: Annotated[str, Field(pattern=NAME, description="a recipe of the folder: what the form begins with")]
    overrides: Annotated[
        list[str], Field(description="settings that replace the recipe's, such as stages.1.ffn=0.3")
    ] = []
    description: Annotated[str, Field(description="what people read beside the form")] = ""
    schedule: Annotated[Schedule | None, Field(description="when it runs by itself; none: when somebody asks")] = None
    concurrency: Annotated[Concurrency | None, Field(description="runs at once; none: no limit")] = None


class Deployments(_Part):
    """The whole file."""

    recipes: Annotated[str, Field(min_length=1, description="folder of the recipes, relative to this file")] = "."
    pool: Annotated[Pool, Field(description="the work pool")] = Pool()
    deployments: Annotated[list[Deployment], Field(min_length=1, description="the forms and schedules")]

    @model_validator(mode="after")
    def _once(self) -> "Deployments":
        names = [deployment.name for deployment in self.deployments]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"the name {twice!r} is there twice")
        return self


class Offer(BaseModel):
    """A checked file: its folder of recipes, all of them, and what each deployment begins with."""

    model_config = ConfigDict(frozen=True)

    file: Path
    folder: Path
    content: Deployments
    recipes: dict[str, Recipe]
    chosen: dict[str, Recipe]  # deployment → its recipe with its overrides


def read(file: Path) -> Deployments:
    """What the file says, without a look at its recipes; raises :class:`BadInput` with one sentence."""
    where = f"the deployments file {file}"
    document = recipe_yaml.parse(recipe_yaml.read_text(file, "the deployments file"), where)
    try:
        return Deployments(**document)
    except ValidationError as error:
        raise BadInput(f"{where}: {complaint(error, Deployments, 'key')}") from None


def load(file: Path) -> Offer:
    """Read and check a deployments file with every recipe it offers; raises :class:`BadInput` with one sentence."""
    where = f"the deployments file {file}"
    content = read(file)
    for index, deployment in enumerate(content.deployments):
        if deployment.schedule is not None:
            _check(deployment.schedule, f"{where}: deployments.{index}.schedule")
    file = file.absolute()
    folder = (file.parent / content.recipes).resolve()
    paths = recipe_files(folder)
    chosen = {}
    for deployment in content.deployments:
        if deployment.recipe not in paths:
            raise BadInput(
                f"{where}: {deployment.name}: there is no recipe {deployment.recipe!r} in {folder}; "
                f"{nearest(deployment.recipe, paths)}"
            )
        chosen[deployment.name] = load_recipe(paths[deployment.recipe], deployment.overrides)
    recipes = {name: load_recipe(path) for name, path in paths.items()}
    return Offer(file=file, folder=folder, content=content, recipes=recipes, chosen=chosen)


def recipe_files(folder: Path) -> dict[str, Path]:
    """Name → file of every recipe in a folder; a deployments file or a sweep among them is none."""
    found = {path.stem: path for path in sorted(folder.glob("*.yaml")) if _is_recipe(path)}
    if not found:
        raise BadInput(f"there is no recipe in {folder}; a recipe is a .yaml file with name, model and stages")
    return found


def recipe_file(folder: Path, name: Any) -> Path:
    """The file of one recipe, whatever its neighbours hold; raises :class:`BadInput` with one sentence."""
    paths = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    if isinstance(name, str) and name in paths and _is_recipe(paths[name]):
        return paths[name]
    possible = [stem for stem, path in paths.items() if _can_be_offered(path)] or recipe_files(folder)
    raise BadInput(f"there is no recipe {name!r} in {folder}; {nearest(str(name), possible)}")


def _can_be_offered(path: Path) -> bool:
    try:
        return _is_recipe(path)
    except BadInput:  # somebody is editing it
        return False


def _is_recipe(path: Path) -> bool:
    document = recipe_yaml.parse(recipe_yaml.read_text(path), f"the recipe {path}")
    return "deployments" not in document and MARK not in document


def _check(schedule: Schedule, where: str) -> None:
    """The clock and the cron line, as Prefect will read them."""
    try:
        ZoneInfo(schedule.timezone)
    except (ValueError, OSError, LookupError):
        raise BadInput(
            f"{where}: timezone={schedule.timezone!r} is none of the IANA time zones, such as Europe/Berlin or UTC"
        ) from None
    from prefect._vendor.croniter.croniter import CroniterBadDateError, croniter  # what Prefect's own scheduler asks
    from prefect.client.schemas.schedules import CronSchedule

    try:
        if len(schedule.cron.split()) != 5 and not schedule.cron.startswith("@"):
            raise ValueError("five fields")
        CronSchedule(cron=schedule.cron, timezone=schedule.timezone)
        croniter(schedule.cron, max_years_between_matches=LONGEST_YEARS).get_next()  # type: ignore[no-untyped-call]
    except CroniterBadDateError:
        raise BadInput(
            f"{where}: cron={schedule.cron!r} never comes: no day in the next {LONGEST_YEARS} years is that day of "
            "the month, in that month, on that weekday"
        ) from None
    except ValueError:
        raise BadInput(
            f"{where}: cron={schedule.cron!r} is no cron line (minute, hour, day, month, weekday), such as '0 3 * * *'"
        ) from None
