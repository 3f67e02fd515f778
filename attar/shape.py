"""The shape of a fresh model: what a recipe says of it, the rest as in the model it is derived from. Torch-free."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from attar.errors import BadInput
from attar.facts import ModelFacts

Count = Annotated[int, Field(gt=0)]


class Shape(BaseModel):
    """Sizes that differ from those of the incoming model; its family, vocabulary and everything else stay."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    layers: Annotated[Count | None, Field(description="layers")] = None
    hidden: Annotated[Count | None, Field(description="width of the hidden states")] = None
    ffn: Annotated[Count | None, Field(description="channels of the feed-forward part")] = None
    heads: Annotated[Count | None, Field(description="attention heads")] = None
    kv_heads: Annotated[Count | None, Field(description="key/value heads, a divisor of the heads")] = None
    head_dim: Annotated[Count | None, Field(description="width of a head, even")] = None

    def of(self, facts: ModelFacts, stage: str) -> ModelFacts:
        """Facts of a model of this shape, or :class:`BadInput` when no model can have it."""
        layers, heads = self.layers or facts.layers, self.heads or facts.heads
        kv_heads, head_dim = self.kv_heads or facts.kv_heads, self.head_dim or facts.head_dim
        if heads % kv_heads:
            possible = ", ".join(str(n) for n in range(1, heads + 1) if heads % n == 0)
            raise BadInput(f"{stage}: {heads} heads cannot share {kv_heads} kv_heads; possible kv_heads: {possible}")
        if head_dim % 2:
            raise BadInput(f"{stage}: head_dim={head_dim} is odd; rotary positions turn pairs of channels")
        kinds = facts.config.get("layer_types")
        changes = {"layer_types": [kinds[i % len(kinds)] for i in range(layers)]} if kinds else {}
        return facts.changed(
            num_hidden_layers=layers,
            hidden_size=self.hidden or facts.hidden,
            intermediate_size=self.ffn or facts.ffn,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            head_dim=head_dim,
            **changes,
        )
