"""What stages there are and what their settings mean, read from their classes."""

import inspect
import json
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

import stages
from stages.base import Stage


def summary() -> list[dict[str, str]]:
    """Name and first sentence of every stage."""
    return [{"name": name, "summary": _paragraphs(stages.stage_class(name))[0]} for name in stages.names()]


def describe(name: str) -> dict[str, Any]:
    """Documentation and settings of one stage, with type, bounds, default and description of each."""
    kind = stages.stage_class(name)
    first, *rest = _paragraphs(kind)
    rows = [row for row in settings(kind) if row["name"] != "stage"]
    return {"name": name, "summary": first, "text": "\n\n".join(rest), "settings": rows}


def settings(model: type[BaseModel], prefix: str = "", nested: bool = True) -> list[dict[str, Any]]:
    """A row for every setting; with ``nested``, those of a mapping follow it by their dotted names."""
    schema = model.model_json_schema()["properties"]
    rows = []
    for key, field in model.model_fields.items():
        rows.append(
            {
                "name": f"{prefix}{key}",
                "type": _type(schema.get(key, {}), field),
                "default": _default(field),
                "description": field.description or "",
            }
        )
        for inner in (field.annotation, *get_args(field.annotation)) if nested else ():
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                rows += settings(inner, f"{prefix}{key}.")
    return rows


def _paragraphs(kind: type[Stage]) -> list[str]:
    text = inspect.cleandoc(kind.__doc__ or "")
    return [" ".join(part.split()) for part in text.split("\n\n") if part.strip()] or [""]


def _default(field: FieldInfo) -> Any:
    if field.default is PydanticUndefined:
        return "required" if field.default_factory is None else "…"
    return field.default


def _type(schema: dict[str, Any], field: FieldInfo) -> str:
    """Type and bounds in the recipe's own words."""
    if "enum" in schema:
        return " | ".join(json.dumps(value) for value in schema["enum"])
    if "anyOf" in schema:
        return " | ".join(_type(option, field) for option in schema["anyOf"])
    if "$ref" in schema:
        return "mapping"
    if "const" in schema:
        return json.dumps(schema["const"])
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}), field)}"
    return " ".join([str(schema.get("type", "any")), bounds(schema)]).strip()


def bounds(schema: dict[str, Any]) -> str:
    """Between which values a number may lie: ``≥ 0, < 1``; nothing where that depends on its type."""
    if "anyOf" in schema:
        found = [option for option in schema["anyOf"] if option.get("type") != "null"]
        return bounds(found[0]) if len(found) == 1 else ""
    signs = (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
    return ", ".join(f"{sign} {_figure(schema[key])}" for key, sign in signs if key in schema)


def _figure(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"
