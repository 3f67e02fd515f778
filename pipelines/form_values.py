"""What a form of the Prefect UI sends, as the values of a recipe: leftovers stripped, texts and numbers as typed.

The form leaves the settings of another kind of stage behind when a stage's kind was changed: those, and nothing else,
are dropped. Recipes are strict, so what comes as text where a number is meant is read as YAML would read it; what is
no such thing stays as it is, for the recipe to refuse with its own sentence.
"""

from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

import stages
from attar.errors import BadInput
from pipelines import recipe_yaml
from pipelines.chain import Repeat
from pipelines.forms import REPEAT
from pipelines.recipe import Recipe, validate


def recipe(values: dict[str, Any]) -> Recipe:
    """The recipe of a filled form; raises :class:`BadInput` with one sentence."""
    document = _settings(values, Recipe)
    if isinstance(values.get("stages"), list):
        document["stages"] = [_entry(entry) for entry in values["stages"]]
    return validate(document)


def shown(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The stages of a recipe as the form shows them: every setting written out, a repetition by its name."""
    return [
        {"stage": REPEAT, "repeat": entry["repeat"], "stages": shown(entry["stages"])}
        if "repeat" in entry
        else stages.parse(entry).settings()
        for entry in entries
    ]


def _entry(entry: Any) -> Any:
    """One item of the list of stages."""
    if not isinstance(entry, dict):
        return entry
    if entry.get("stage") == REPEAT:
        inner = entry.get("stages")
        inner = [_entry(one) for one in inner] if isinstance(inner, list) else []
        return _settings({key: entry[key] for key in ("repeat",) if key in entry}, Repeat) | {"stages": inner}
    try:
        kind = stages.stage_class(str(entry.get("stage")))
    except BadInput:
        return entry
    return _settings({key: found for key, found in entry.items() if key not in _others(kind)}, kind)


@cache
def _others(kind: type[BaseModel]) -> frozenset[str]:
    """Settings that only other variants of the form have."""
    all_of_them = {key for name in stages.names() for key in stages.stage_class(name).model_fields}
    return frozenset({*all_of_them, *Repeat.model_fields} - set(kind.model_fields))


def _settings(values: dict[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    """A mapping's values by the types of its fields; what is left empty takes its default."""
    found = {}
    for key, given in values.items():
        field = model.model_fields.get(key)
        value = given if field is None else _value(given, field.annotation)
        if value is None and field is not None and not _may_be(field.annotation, NoneType):
            if field.default is PydanticUndefined and field.default_factory is None:
                found[key] = given  # required and left empty: the recipe says so
            continue
        found[key] = value
    return found


def _value(value: Any, annotation: Any) -> Any:
    kinds = _kinds(annotation)
    if isinstance(value, str):
        if str in kinds:
            return None if not value.strip() and NoneType in kinds else value
        read = _read(value)
        return value if isinstance(read, str) else _value(read, annotation)
    if isinstance(value, float) and value.is_integer() and int in kinds and (float not in kinds or abs(value) >= 1):
        return int(value)
    if isinstance(value, dict):
        inner = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
        return value if inner is None else _settings(value, inner)
    if isinstance(value, list):
        items = next((get_args(kind) for kind in kinds if get_origin(kind) in (list, tuple)), ())
        return [_value(item, items[0]) for item in value] if items else value
    return value


def _read(text: str) -> Any:
    """A text as YAML reads it, or as it is."""
    try:
        return recipe_yaml.value_of(text, "the form")
    except BadInput:
        return text


def _kinds(annotation: Any) -> tuple[Any, ...]:
    """The types that a setting may have: of a union all, of a choice those of its values."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _kinds(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return tuple(kind for part in get_args(annotation) for kind in _kinds(part))
    if origin is Literal:
        return tuple({type(choice) for choice in get_args(annotation)})
    return (annotation,)


def _may_be(annotation: Any, kind: type) -> bool:
    return kind in _kinds(annotation)
