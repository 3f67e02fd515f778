"""One technique per file, and the registry that names them. Importing this never imports torch."""

from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from attar.errors import BadInput, nearest
from stages.base import Stage

REGISTRY: dict[str, str] = {
    "generate.responses": "stages.generate_responses:Responses",
    "distill.logit": "stages.distill_logit:Logit",
    "distill.response": "stages.distill_response:Response",
    "prune.depth": "stages.prune_depth:Depth",
    "prune.width": "stages.prune_width:Width",
    "quantize.rtn": "stages.quantize_rtn:RoundToNearest",
    "quantize.gptq": "stages.quantize_gptq:Gptq",
    "distill.qad": "stages.distill_qad:Qad",
    "finetune.scales": "stages.finetune_scales:Scales",
    "finetune.full": "stages.finetune_full:Full",
    "finetune.lora": "stages.finetune_lora:Lora",
}


def names() -> list[str]:
    """All stage names: ours in pipeline order, then those of installed packages (entry points ``attar.stages``)."""
    return [*REGISTRY, *sorted(e.name for e in entry_points(group="attar.stages") if e.name not in REGISTRY)]


@cache
def stage_class(name: str) -> type[Stage]:
    """The class behind a stage name, or a sentence that suggests the nearest name."""
    if name in REGISTRY:
        module, attribute = REGISTRY[name].split(":")
        return getattr(import_module(module), attribute)  # type: ignore[no-any-return]
    for entry in entry_points(group="attar.stages"):
        if entry.name == name:
            return entry.load()  # type: ignore[no-any-return]
    raise BadInput(f"there is no stage {name!r}; {nearest(name, names())}")


def parse(settings: dict[str, Any], where: str = "stage") -> Stage:
    """A stage from its settings, or one sentence about the first thing that is wrong with them."""
    if not isinstance(settings, dict) or not isinstance(settings.get("stage"), str):
        raise BadInput(f"{where}: expected settings with a key 'stage', one of: {', '.join(names())}")
    try:
        kind = stage_class(settings["stage"])
    except BadInput as error:
        raise BadInput(f"{where}: {error}") from None
    try:
        return kind(**settings)
    except ValidationError as error:
        raise BadInput(f"{where}: {settings['stage']}: {sentence(error, kind)}") from None


def sentence(error: ValidationError, model: type[Any]) -> str:
    """The first of pydantic's complaints as one sentence, unknown keys with the nearest name."""
    first, *others = error.errors()
    if first["type"] == "missing":  # misspelt, if there is an unknown one as well
        first = next((other for other in others if other["type"] == "extra_forbidden"), first)
    if _one_of_several(first["loc"], model):  # a complaint for each type that the setting may have
        return _of_union([first, *(other for other in others if other["loc"][0] == first["loc"][0])])
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "missing":
        return f"the setting {key!r} is missing"
    if first["type"] == "extra_forbidden":
        return f"unknown setting {key!r}; {nearest(str(first['loc'][-1]), _holder(model, first['loc']).model_fields)}"
    if first["type"] == "string_pattern_mismatch":
        field = _holder(model, first["loc"]).model_fields[str(first["loc"][-1])]
        return f"{key}={first['input']!r} is not possible; possible: {field.description}"
    if first["type"] == "model_type":
        return f"{key}={first['input']!r}: Input should be a mapping of its own settings"
    if not key and first["type"] == "value_error":  # a model's own sentence about settings that do not go together
        return str(first["ctx"]["error"])
    return f"{key}={first.get('input')!r}: {first['msg']}"


def _holder(model: type[Any], loc: tuple[int | str, ...]) -> type[Any]:
    """The model that has the setting: the settings may lie in a mapping."""
    for part in loc[:-1]:
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
