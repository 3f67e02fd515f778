"""The forms of the Prefect UI, as JSON schemas made from the settings of recipes and stages.

Prefect's UI shows a list of ``anyOf`` as tabs and opens the tab that has most keys in common with the value, the first
of several; so a variant whose keys are all in another one stands before it. Its server would say of a number out of
bounds only that the stage "is not valid under any of the given schemas"; so the tabs carry types, defaults and help,
and the bounds are asked of the variant that the stage's name chooses (``if`` … ``then``), which names the very field.
Nothing is forbidden to be there: what the form leaves behind of another tab is for ``form_values`` to strip.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from pydantic import BaseModel

import stages
from pipelines import catalogue
from pipelines.chain import Repeat
from pipelines.recipe import Recipe

Schema = dict[str, Any]

REPEAT = "repeat"  # the form's name for a repetition, where a stage has its name
BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minLength", "maxLength", "minItems", "pattern")
OVERRIDES = "settings that replace the recipe's, such as stages.1.ffn=0.3 (entries are counted from 0)"


def recipe_form(recipes: Sequence[str], chosen: str) -> Schema:
    """A recipe from a list, a seed, and what is different this time."""
    seed = Recipe.model_json_schema()["properties"]["seed"]
    properties: Schema = {
        "recipe": {
            "type": "string",
            "enum": list(recipes),
            "default": chosen,
            "description": "what is compressed, and how: a file of the recipes' folder, read when the run begins",
        },
        "seed": {
            "anyOf": [_bounded(seed, loose=False) | {"type": "integer", "title": "number"}, {"type": "null"}],
            "default": None,
            "description": "seed of all randomness; none: the recipe's own",
        },
        "overrides": {
            "type": "array",
            "items": {"type": "string", "pattern": r"^[^=\s]+=[\s\S]*$", "title": "KEY=VALUE"},
            "default": [],
            "description": OVERRIDES,
        },
    }
    return _form(properties, ["recipe"], {})


def stages_form() -> Schema:
    """The whole recipe, its stages to be added, removed, reordered, changed in kind and edited."""
    schema = Recipe.model_json_schema(ref_template="#/definitions/{model}")
    definitions: Schema = {name: _bounded(found, loose=False) for name, found in schema.get("$defs", {}).items()}
    properties = {name: _bounded(found, loose=False) for name, found in schema["properties"].items()}
    for name, field in Recipe.model_fields.items():
        if isinstance(field.default, BaseModel):
            properties[name]["default"] = field.default.model_dump(mode="json")
    names = variants()
    for name in names:
        definitions |= _stage(name, loose=True) | _stage(name, loose=False)
    single = _any(names)
    for loose in (True, False):
        repeat = _bounded(Repeat.model_json_schema()["properties"]["repeat"], loose)
        inner = {"type": "array", "items": single, "default": [], "description": "the repeated stages, in order"}
        kind = {
            "type": "string",
            "enum": [REPEAT],
            "default": REPEAT,
            "description": "a part that is gone through again",
        }
        definitions[_key(REPEAT, loose)] = _object(
            REPEAT, {"stage": kind, "repeat": repeat | {"default": 2}, "stages": inner}
        )
    properties["stages"] |= {
        "items": _any([*names, REPEAT]),
        "title": "stages",
        "description": "what is done, in order",
    }
    return _form(properties, schema["required"], definitions)


def variants() -> list[str]:
    """The stages in the order of the form's tabs: no stage after one that has all of its settings."""
    known = stages.names()
    return sorted(known, key=lambda name: (len(stages.stage_class(name).model_fields), known.index(name)))


def _form(properties: Schema, required: Sequence[str], definitions: Schema) -> Schema:
    placed = {name: {"title": name, **found, "position": n} for n, (name, found) in enumerate(properties.items())}
    return {
        "title": "Parameters",
        "type": "object",
        "properties": placed,
        "required": list(required),
        "definitions": definitions,
    }


def _any(names: Sequence[str]) -> Schema:
    """One of several: the tabs, and what is asked of the one that is chosen."""
    chosen = [
        {
            "if": {"properties": {"stage": {"const": name}}, "required": ["stage"]},
            "then": {"$ref": f"#/definitions/{_key(name, loose=False)}"},
        }
        for name in names
    ]
    return {"anyOf": [{"$ref": f"#/definitions/{_key(name, loose=True)}"} for name in names], "allOf": chosen}


def _key(name: str, loose: bool) -> str:
    return name if loose else f"{name} in bounds"


def _object(title: str, properties: Mapping[str, Any]) -> Schema:
    placed = {name: {"title": name, **found, "position": n} for n, (name, found) in enumerate(properties.items())}
    return {"title": title, "type": "object", "properties": placed, "required": ["stage"]}


def _stage(name: str, loose: bool) -> Schema:
    """Definitions of one stage: itself, and the mappings among its settings."""
    kind = stages.stage_class(name)
    key = _key(name, loose)
    schema = kind.model_json_schema(ref_template=f"#/definitions/{key}: {{model}}")
    properties = {field: _bounded(found, loose) for field, found in schema["properties"].items()}
    properties["stage"] = {
        "title": "stage",
        "type": "string",
        "enum": [name],
        "default": name,
        "description": catalogue.describe(name)["summary"],
    }
    for field, info in kind.model_fields.items():
        if info.default_factory is not None:  # the form shows what the schema says, and it says nothing of factories
            properties[field]["default"] = info.get_default(call_default_factory=True, validated_data={})
    found = {f"{key}: {inner}": _bounded(text, loose) for inner, text in schema.get("$defs", {}).items()}
    short = name.rpartition(".")[2]  # a dozen tabs stand side by side; the first field says the whole name
    return {key: _object(short, properties), **found}


def _bounded(schema: Schema, loose: bool) -> Schema:
    """A setting's schema for the form: named by its key, with its bounds in the help; without them where ``loose``."""
    made = deepcopy(schema)
    made.pop("additionalProperties", None)
    if "properties" in made:
        made["properties"] = {
            name: {**_bounded(found, loose), "title": name, "position": place}
            for place, (name, found) in enumerate(made["properties"].items())
        }
    else:
        made.pop("title", None)
    text = catalogue.bounds(schema)
    if "description" in made and text:
        made["description"] += f" ({text})"
    if "anyOf" in made:
        made["anyOf"] = _tabs([_bounded(option, loose) for option in made["anyOf"]])
    if isinstance(made.get("items"), dict):
        made["items"] = _bounded(made["items"], loose)
    if "const" in made:
        made["enum"] = [made.pop("const")]
    if loose:
        for bound in BOUNDS:
            made.pop(bound, None)
    return made


def _tabs(options: list[Schema]) -> list[Schema]:
    """One tab for numbers: whole ones and fractions are told apart by their value."""
    numbers = [option for option in options if option.get("type") in ("integer", "number")]
    if len(numbers) < 2:
        return options
    first = min(options.index(option) for option in numbers)
    lower = {"exclusiveMinimum": 0} if all("exclusiveMinimum" in option for option in numbers) else {}
    others = [option for option in options if option not in numbers]
    return [*others[:first], {"type": "number", **lower}, *others[first:]]
