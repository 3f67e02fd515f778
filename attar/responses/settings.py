"""Settings of an endpoint that answers prompts in the place of a model on disk. Torch-free."""

import os
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from attar.errors import BadInput
from attar.fingerprint import hash_json


class Price(BaseModel):
    """What the endpoint's owner asks for, in any one currency."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    prompt: Annotated[float, Field(ge=0, description="price of a million tokens of prompts")]
    answer: Annotated[float, Field(ge=0, description="price of a million tokens of answers")]

    def of(self, prompt_tokens: int, answer_tokens: int) -> float:
        """Price of so many tokens."""
        return (self.prompt * prompt_tokens + self.answer * answer_tokens) / 1e6


class Endpoint(BaseModel):
    """A server that speaks OpenAI's chat completions. Its key is only ever named, never written down."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    url: Annotated[
        str,
        Field(pattern=r"^https?://[^@?#\s]+$", description="base address, such as https://host/v1, without a password"),
    ]
    model: Annotated[str, Field(min_length=1, description="name of the model as the server knows it")]
    terms_accepted: Annotated[
        bool,
        Field(description="you have read the terms of the server's owner, and they allow to train a model on answers"),
    ] = False
    key_variable: Annotated[
        str | None,
        Field(
            pattern=r"^[A-Z][A-Z0-9_]*$",
            description="name, in capitals, of the environment variable that holds the key; none: no key",
        ),
    ] = None
    parallel: Annotated[int, Field(ge=1, le=256, description="requests at the same time, at most")] = 8
    timeout: Annotated[float, Field(gt=0, le=3600, description="seconds that one request may take")] = 120.0
    retries: Annotated[int, Field(ge=0, le=100, description="times that a failed request is sent again")] = 6
    pause: Annotated[
        float, Field(gt=0, le=60, description="seconds before the first retry, about; doubles with every further one")
    ] = 1.0
    price_per_million_tokens: Annotated[Price | None, Field(description="to count what the answers cost")] = None

    @property
    def identity(self) -> str:
        """Who answers: the server's address and its model."""
        return hash_json(["endpoint", self.url.rstrip("/"), self.model])

    def key(self) -> str | None:
        """The key from the environment, or a sentence that it is not there."""
        if self.key_variable is None:
            return None
        key = os.environ.get(self.key_variable, "").strip()
        if not key:
            raise BadInput(f"the environment variable {self.key_variable}, which should hold the key, is not set")
        if not key.isascii() or not key.isprintable() or " " in key:  # its own error would show it
            raise BadInput(
                f"the key in the environment variable {self.key_variable} holds white space or a character beyond "
                "ASCII, which no header of a request can carry; copy the key again"
            )
        return key

    def require_reachable(self) -> None:
        """Raise :class:`BadInput` if nobody answers at the address; what is answered does not matter here."""
        import httpx

        try:
            httpx.get(f"{self.url.rstrip('/')}/models", timeout=min(self.timeout, 10.0))
        except httpx.TimeoutException:
            raise BadInput(f"the endpoint {self.url} does not answer within 10 s; is the server running?") from None
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, OverflowError) as error:  # the last: such a port
            raise BadInput(f"the endpoint {self.url} cannot be reached ({error}); is the server running?") from None
