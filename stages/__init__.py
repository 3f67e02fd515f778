"""One technique per file, and the registry that names them. Importing this never imports torch."""

from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from pydantic import ValidationError

from attar.complaint import complaint
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
        raise BadInput(f"{where}: {settings['stage']}: {complaint(error, kind)}") from None
