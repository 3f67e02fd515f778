"""What stages there are and what their settings mean, read from their classes."""

import inspect
import json
from typing import Any

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
    schema = kind.model_json_schema()["properties"]
    settings = [
        {
            "name": key,
            "type": _type(schema.get(key, {}), field),
            "default": _default(field),
            "description": field.description or "",
        }
        for key, field in kind.model_fields.items()
        if key != "stage"
    ]
    return {"name": name, "summary": first, "text": "\n\n".join(rest), "settings": settings}


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
    if "const" in schema:
        return json.dumps(schema["const"])
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2].lower()
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}), field)}"
    bounds = (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
    limits = [f"{sign} {schema[key]:g}" for key, sign in bounds if key in schema]
    return " ".join([str(schema.get("type", "any")), *([", ".join(limits)] if limits else [])])
