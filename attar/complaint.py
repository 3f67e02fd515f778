"""What pydantic complains about, as one sentence."""

from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from attar.errors import nearest


def complaint(error: ValidationError, model: type[Any], word: str = "setting") -> str:
    """The first of pydantic's complaints about ``model`` as one sentence, unknown keys with the nearest name.

    ``word`` is what the keys are called where they are written.
    """
    first, *others = error.errors()
    if first["type"] == "missing":  # misspelt, if there is an unknown one as well
        first = next((other for other in others if other["type"] == "extra_forbidden"), first)
    if _one_of_several(first["loc"], model):  # a complaint for each type that the setting may have
        return _of_union([first, *(other for other in others if other["loc"][0] == first["loc"][0])])
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "missing":
        return f"the {word} {key!r} is missing"
    if first["type"] == "extra_forbidden":
        if len(first["loc"]) > 1 and first["loc"][-1] in model.model_fields:
            return f"unknown {word} {key!r}; {str(first['loc'][-1])!r} is a {word} of the top level"
        return f"unknown {word} {key!r}; {nearest(str(first['loc'][-1]), _holder(model, first['loc']).model_fields)}"
    if first["type"] == "string_pattern_mismatch":
        possible = _meaning(model, first["loc"]) or "letters, digits, dot, dash and underscore"
        return f"{key}={first['input']!r} is not possible; possible: {possible}"
    if first["type"] == "model_type":
        return f"{key}={first['input']!r}: Input should be a mapping of its own settings"
    if first["type"] == "value_error":  # a model's own sentence, about one setting or some that do not go together
        whole = not key or isinstance(first["input"], dict)
        return str(first["ctx"]["error"]) if whole else f"{key}={first['input']!r}: {first['ctx']['error']}"
    meant = _meaning(model, first["loc"]) if first["type"].endswith("_type") else ""
    return f"{key}={first.get('input')!r}: {first['msg']}" + (f"; it means: {meant}" if meant else "")


def _meaning(model: type[Any], loc: tuple[int | str, ...]) -> str:
    field = _holder(model, loc).model_fields.get(str(loc[-1]))  # none for an entry of a list
    return (field and field.description) or ""


def _holder(model: type[Any], loc: tuple[int | str, ...]) -> type[Any]:
    """The model that has the setting: it may lie in a mapping, or in a list of them."""
    for part in loc[:-1]:
        if part in model.model_fields:
            annotation = model.model_fields[str(part)].annotation
            inner = (kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type))
            model = next((kind for kind in inner if issubclass(kind, BaseModel)), model)
    return model


def _one_of_several(loc: tuple[int | str, ...], model: type[Any]) -> bool:
    """Whether a complaint is about a setting that may have several types, such as a number or a list."""
    if len(loc) < 2 or loc[0] not in model.model_fields:
        return False
    annotation = model.model_fields[str(loc[0])].annotation
    return get_origin(annotation) in (Union, UnionType) and len(set(get_args(annotation)) - {NoneType}) > 1


def _of_union(errors: list[Any]) -> str:
    """What is wrong with the value as the type that it has, or which types it may have."""
    of_its_type = [e for e in errors if len(e["loc"]) > 2 or not e["type"].endswith(("_type", "_parsing"))]
    first = (of_its_type or errors)[0]
    key = ".".join(str(part) for part in (first["loc"][0], *first["loc"][2:]))  # the second part names the type
    types = dict.fromkeys(error["msg"].removeprefix("Input should be ") for error in errors)
    text = first["msg"] if of_its_type else f"Input should be {' or '.join(types)}"
    return f"{key}={first.get('input')!r}: {text}"
