"""The shape of a fresh model: what a recipe says of it, the rest as in the model it is derived from. Torch-free."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from attar import architecture
from attar.facts import ModelFacts

Count = Annotated[int, Field(gt=0)]


class Shape(BaseModel):
    """Sizes that differ from those of the incoming model; its family, vocabulary and everything else stay."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    layers: Annotated[Count | None, Field(description="layers")] = None
    hidden: Annotated[Count | None, Field(description="width of the hidden states")] = None
    ffn: Annotated[Count | None, Field(description="channels of the feed-forward part")] = None
    heads: Annotated[Count | None, Field(description="attention heads")] = None
    kv_heads: Annotated[
        Count | None, Field(description="key/value heads, a divisor of the heads, in families that group them")
    ] = None
    head_dim: Annotated[
        Count | None, Field(description="width of a head, even, in families where it is not hidden ÷ heads")
    ] = None

    def of(self, facts: ModelFacts, stage: str) -> ModelFacts:
        """Facts of a model of this shape, or :class:`~attar.errors.BadInput` when no model can have it."""
        return facts.changed(**architecture.shaped(facts.config, stage, **self.model_dump(exclude_none=True)))
