"""Settings that every quantizer to packed integers shares. Torch-free."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from attar.encoding import packed_facts
from attar.facts import ModelFacts

Bits = Literal[2, 3, 4, 8]


class PackingSettings(BaseModel):
    """Into how many bits weights are packed, and on which grids."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    bits: Annotated[Bits, Field(description="bits of a weight")] = 4
    bits_of: Annotated[
        Mapping[str, Bits],
        Field(
            description='other bits for some linears, by pattern: {"layers.0.*": 8, "*.down_proj": 3}; the first that '
            "matches decides. GPTQModel, vLLM and SGLang read such mixtures, transformers alone does not"
        ),
    ] = Field(default_factory=dict)
    group_size: Annotated[
        int,
        Field(ge=-1, le=1024, description="inputs that share a scale and a zero point; divides every width; -1: all"),
    ] = 64
    symmetric: Annotated[
        bool, Field(description="zero point in the middle: some GPU kernels want it, it costs accuracy")
    ] = False
    mse: Annotated[bool, Field(description="shrink each group's range to where the rounding error is least")] = True

    def packed(self, facts: ModelFacts, stage: str, details: Mapping[str, Any]) -> ModelFacts:
        """Facts of the packed model, or :class:`BadInput` with a sentence (:func:`attar.encoding.packed_facts`)."""
        details = {**details, "mse": self.mse}
        return packed_facts(facts, stage, self.bits, self.group_size, self.symmetric, details, self.bits_of)
