"""Whether settings may be what a sweep would make them: both ends of what a range gives, and every value of a list.

What a value can never be is told once, before the first variant. What is wrong only beside other values is told of the
variants that have it, as they come.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

import stages
from attar.complaint import complaint
from attar.errors import BadInput
from pipelines.chain import Repeat, links
from pipelines.recipe import Recipe
from pipelines.sweep_space import Range, Space
from pipelines.sweep_words import ORDER, Values, keys


def require(space: Space, values: Values) -> None:
    """Raise :class:`BadInput` with one sentence about the first value that its setting can never have.

    ``values`` are some of every dimension, as the others of each.
    """
    still = {path: value for path, value in values.items() if path != ORDER}
    for path in still:
        found = space.dimensions[path]
        for value in found.ends if isinstance(found, Range) else found:
            why = _wrong(space.document, space.assign({**still, path: value}, 1), keys(path))
            if why is not None:
                raise BadInput(f"{path}: the sweep leaves what this setting can be: {why}; no variant was tried")


def _wrong(swept: Mapping[str, Any], recipe: Mapping[str, Any], way: Sequence[str]) -> str | None:
    """What is wrong with what stands there; ``swept`` is the same recipe with its holes."""
    holder, inside = _holder(recipe, way)
    marked, _ = _holder(swept, way)
    try:
        if inside[0] == "stages" and len(inside) == 2:  # a whole stage
            links([holder["stages"][int(inside[1])]])
        elif inside[0] == "stage":
            stages.stage_class(holder["stage"])
    except BadInput as error:
        return str(error)
    if "repeat" in holder:
        return _complaint(Repeat, holder, inside[0])
    if "stage" not in holder:
        return _complaint(Recipe, holder, inside[0])
    if not isinstance(marked["stage"], str):  # one of several stages, which need not all have the setting
        return None
    try:
        kind = stages.stage_class(marked["stage"])
    except BadInput:  # told of the whole recipe
        return None
    return _complaint(kind, holder, inside[0])


def _holder(recipe: Mapping[str, Any], way: Sequence[str]) -> tuple[Mapping[str, Any], Sequence[str]]:
    """The innermost stage or repetition on the way, or the recipe itself, and the rest of the way."""
    place: Any = recipe
    found = recipe, way
    for depth, key in enumerate(way[:-1], start=1):
        place = place[int(key) if isinstance(place, list) else key]
        if isinstance(place, dict) and ("stage" in place or "repeat" in place):
            found = place, way[depth:]
    return found


def _complaint(model: type[BaseModel], settings: Mapping[str, Any], name: str) -> str | None:
    """What is wrong with one setting, whatever the others are; where they are wrong, too, that is told elsewhere."""
    try:
        model(**settings)
    except ValidationError as error:
        if all(one["loc"][:1] == (name,) for one in error.errors()):  # no place: settings that do not go together
            return complaint(error, model)
    return None
