"""What is measured after every stage, as settings; the measures themselves are in ``quality`` and ``footprint``."""

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from attar.fingerprint import environment_versions, hash_json


class Suite(BaseModel):
    """Fixed windows for quality, fixed prompt for speed: equal for every model that is compared."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    version: ClassVar[int] = 2  # bump when a measure's numbers change

    windows: Annotated[int, Field(ge=1, le=100_000, description="windows scored on each of the two texts")] = 32
    length: Annotated[int, Field(ge=16, le=131_072, description="tokens in a window; the first is not scored")] = 512
    speed: Annotated[bool, Field(description="measure prefill and decode tokens/s as well")] = True
    prompt: Annotated[int, Field(ge=1, le=131_072, description="prompt length of the speed measure, in tokens")] = 512
    new_tokens: Annotated[int, Field(ge=1, le=4096, description="tokens decoded in the speed measure")] = 64
    repeats: Annotated[int, Field(ge=1, le=100, description="timed runs after one warm-up; the median counts")] = 5

    def fingerprint(self, inputs: dict[str, str], machine: dict[str, Any]) -> str:
        """Name of the evaluation of these inputs (role → fingerprint) on such a machine."""
        return hash_json(
            {
                "suite": self.model_dump(mode="json"),
                "version": self.version,
                "inputs": inputs,
                "machine": machine,
                "versions": environment_versions(),
            }
        )
