"""From the entries of a recipe to its chain of stages: ``{repeat: 3, stages: […]}`` stands for its stages thrice."""

from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

import stages
from attar.complaint import complaint
from attar.errors import BadInput
from stages.base import Stage

Entry = dict[str, Any]
MOST_STAGES = 100  # of a whole chain


class Repeat(BaseModel):
    """A part of the chain that is gone through several times, such as prune – train: fractions are of what is left."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    repeat: Annotated[int, Field(ge=1, le=MOST_STAGES, description="how many times the stages follow each other")]
    stages: Annotated[list[Entry], Field(min_length=1, description="the settings of the repeated stages, in order")]


class Link(NamedTuple):
    """A stage of the chain and where the recipe asks for it."""

    stage: Stage
    where: str  # "stages.1.stages.0 (round 2 of 3)"


def links(entries: Sequence[Entry]) -> tuple[Link, ...]:
    """The whole chain, every round written out, or one sentence about the first entry that is wrong."""
    found: list[Link] = []
    for index, entry in enumerate(entries):
        _extend(found, entry, f"stages.{index}", "")
    return tuple(found)


def spelled(entries: Sequence[Entry]) -> str:
    """The chain in one line: ``distill.logit → 3 × (prune.width → finetune.full)``."""
    return " → ".join(
        f"{entry['repeat']} × ({spelled(entry['stages'])})" if "repeat" in entry else entry["stage"]
        for entry in entries
    )


def _extend(found: list[Link], entry: Entry, where: str, rounds: str) -> None:
    if "repeat" not in entry:
        found.append(Link(stages.parse(entry, where), f"{where} ({rounds})" if rounds else where))
        if len(found) > MOST_STAGES:
            raise BadInput(f"{where}: the recipe asks for more than {MOST_STAGES} stages, every round counted")
        return
    if "stage" in entry:
        raise BadInput(
            f"{where}: repeat stands beside stage {entry['stage']!r}; a repetition holds its stages in a list: "
            "{repeat: 3, stages: [{stage: …}, …]}"
        )
    try:
        block = Repeat(**entry)
    except ValidationError as error:
        raise BadInput(f"{where}: {complaint(error, Repeat)}") from None
    for turn in range(1, block.repeat + 1):
        text = f"round {turn} of {block.repeat}"
        for index, inner in enumerate(block.stages):
            _extend(found, inner, f"{where}.stages.{index}", f"{rounds}, {text}" if rounds else text)
