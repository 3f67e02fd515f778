"""The recipe: what is compressed, by which stages in which order, on what data, measured how."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from attar.complaint import complaint
from attar.data import DataSettings
from attar.errors import BadInput, nearest
from attar.suite import Suite
from pipelines import gate_edits, recipe_yaml
from pipelines.chain import Link, links
from pipelines.champion import Champion
from pipelines.gates import Gate

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
DEVICE = r"^(auto|cpu|cuda(:[0-9]{1,3})?)$"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Track(_Part):
    """What MLflow is told."""

    experiment: Annotated[str, Field(pattern=NAME, description="name of the MLflow experiment")] = "attar"
    weights: Annotated[
        Literal["reference", "copy"],
        Field(description="record where the final weights lie, or copy them into MLflow's artifacts"),
    ] = "reference"


class Recipe(_Part):
    """One pipeline as data. Order and repetition of the stages are free; ``attar plan`` says what cannot work."""

    name: Annotated[str, Field(pattern=NAME, description="letters, digits, dot, dash and underscore; names the runs")]
    model: Annotated[str, Field(min_length=1, description="the origin: folder, file.gguf, hub id, package:NAME")]
    task: Annotated[Literal["causal-lm"], Field(description="what the model does")] = "causal-lm"
    seed: Annotated[int, Field(ge=0, lt=2**32, description="seed of all randomness")] = 0
    device: Annotated[str, Field(pattern=DEVICE, description="auto, cpu, cuda or cuda:N")] = "auto"
    dtype: Annotated[
        Literal["auto", "bfloat16", "float32"], Field(description="compute dtype; auto: bfloat16 where it is fast")
    ] = "auto"
    data: Annotated[DataSettings, Field(description="texts to train, calibrate and measure on")] = DataSettings()
    stages: Annotated[
        list[dict[str, Any]],
        Field(
            min_length=1,
            description="the stages' settings in order; {repeat: 3, stages: […]} repeats some",
        ),
    ]
    measure: Annotated[Suite, Field(description="what is measured after every stage")] = Suite()
    price_per_hour: Annotated[
        Annotated[float, Field(gt=0, allow_inf_nan=False)] | None,
        Field(
            description="what the machine costs an hour, in any currency: the report then says what a million tokens "
            "cost; nothing is measured again for it"
        ),
    ] = None
    gates: Annotated[
        list[dict[str, Any]],
        Field(description="lines that a model must not cross, and what is done where it does: stop, bisect, insert"),
    ] = []
    progress_timeout: Annotated[
        int,
        Field(
            ge=0,
            description="seconds after which a stage that shows no progress is ended; 0: never. Waiting does not count",
        ),
    ] = 1800
    champion: Annotated[
        Champion, Field(description="where MLflow registers the final model, and when it is the champion there")
    ] = Champion()
    track: Annotated[Track, Field(description="what MLflow is told")] = Track()

    def chain(self) -> tuple[Link, ...]:
        """The stages as settings objects, every round written out, or one sentence about the first that is wrong."""
        return links(self.stages)

    def gated(self) -> tuple[Gate, ...]:
        """The gates, or one sentence about the first that cannot work with these stages."""
        return gate_edits.check(self.stages, self.gates, self.measure, self.price_per_hour is not None)

    def changed(self, stages: list[dict[str, Any]], gates: list[dict[str, Any]] | None = None) -> "Recipe":
        """The same with other stages, checked."""
        moved = {"stages": stages, "gates": self.gates if gates is None else gates}
        return validate(self.model_dump(mode="json") | moved)


def load(path: Path, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe file and apply overrides such as ``stages.1.ffn=0.3`` (entries counted from 0)."""
    document = recipe_yaml.parse(recipe_yaml.read_text(path), f"the recipe {path}")
    for text in overrides or []:
        _override(document, text)
    return validate(document)


def validate(document: dict[str, Any]) -> Recipe:
    """A recipe from plain values; raises :class:`BadInput` with one sentence."""
    if "sweep" in document:
        raise BadInput("this is no single recipe but a sweep of many; run it with: attar sweep")
    try:
        recipe = Recipe(**document)
    except ValidationError as error:
        raise BadInput(f"recipe: {complaint(error, Recipe, 'key')}") from None
    recipe.chain()
    recipe.gated()
    return recipe


def _override(document: dict[str, Any], text: str) -> None:
    path, equals, raw = text.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise BadInput(f"override {text!r} is not of the form KEY=VALUE, such as seed=1 or stages.1.ffn=0.3")
    value = recipe_yaml.value_of(raw, f"the value of override {text!r}")
    place: Any = document
    for depth, key in enumerate(keys):
        here, last = ".".join(keys[:depth]) or "the recipe", depth == len(keys) - 1
        if isinstance(place, list):
            if not key.isdecimal() or int(key) >= len(place):
                raise BadInput(
                    f"override {text!r}: {here} has {len(place)} entries, counted from 0; there is no entry {key}"
                )
            if last:
                place[int(key)] = value
            else:
                place = place[int(key)]
        elif isinstance(place, dict):
            if depth == 0 and key not in Recipe.model_fields:
                raise BadInput(f"override {text!r}: a recipe has no key {key!r}; {nearest(key, Recipe.model_fields)}")
            if last:
                place[key] = value
            else:
                place = place.setdefault(key, {})
        else:
            raise BadInput(f"override {text!r}: {here} is a single value and has no key {key!r}")
