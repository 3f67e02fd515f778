"""Answers of an OpenAI-compatible endpoint: requests in parallel, patient with a server that is busy or breaks.

A request that failed in a way that may pass (no connection, a hang-up, a time-out, 408, 429, 5xx, an answer that is no
chat completion) is sent again, each time after about twice the pause; a Retry-After is kept. What cannot pass is an
error at once. The key goes into the header of a request and nowhere else.
"""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from attar.errors import StageFailed
from attar.responses.answers import Answer
from attar.responses.decoding import Decoding
from attar.responses.prompts import Prompt
from attar.responses.settings import Endpoint

LONGEST_PAUSE = 60.0  # seconds, unless the server asks for more
MOST_PATIENCE = 600.0  # seconds: a server that asks for more is not waited for
PASSING = frozenset({408, 409, 425, 429})
KEY_WANTED = frozenset({401, 403})


class _Failed(Exception):
    """A request failed and may be sent again."""

    def __init__(self, text: str, after: float = 0.0) -> None:
        super().__init__(text)
        self.after = after  # seconds that the server asked for


def ask_all(
    endpoint: Endpoint, prompts: Sequence[Prompt], decoding: Decoding, got: Callable[[list[Answer]], None]
) -> None:
    """Send every prompt; ``got`` hears of each answer as it comes.

    Raises:
        BadInput: the key is not in the environment.
        StageFailed: a request was refused, or failed more often than ``endpoint.retries``.
    """
    asyncio.run(_Asking(endpoint, decoding, got).all(prompts))


class _Asking:
    def __init__(self, endpoint: Endpoint, decoding: Decoding, got: Callable[[list[Answer]], None]) -> None:
        self.endpoint = endpoint
        self.decoding = decoding
        self.got = got
        self.key = endpoint.key()
        self.address = f"{endpoint.url.rstrip('/')}/chat/completions"

    async def all(self, prompts: Sequence[Prompt]) -> None:
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        limits = httpx.Limits(max_connections=self.endpoint.parallel)
        waiting = iter(prompts)
        async with httpx.AsyncClient(headers=headers, timeout=self.endpoint.timeout, limits=limits) as client:

            async def work() -> None:
                for prompt in waiting:  # shared by all workers
                    self.got([await self._patiently(client, prompt)])

            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(self.endpoint.parallel):
                        group.create_task(work())
            except ExceptionGroup as failed:  # the first that failed has stopped the others
                raise failed.exceptions[0] from None

    async def _patiently(self, client: httpx.AsyncClient, prompt: Prompt) -> Answer:
        for attempt in range(self.endpoint.retries + 1):
            try:
                return await self._once(client, prompt)
            except _Failed as error:
                failed = error
            if failed.after > MOST_PATIENCE:
                break
            if attempt < self.endpoint.retries:
                pause = min(LONGEST_PAUSE, self.endpoint.pause * 2**attempt)
                await asyncio.sleep(max(failed.after, pause * random.uniform(0.5, 1.5)))
        wanted = f"; it asks to come back in {failed.after:.0f} s" if failed.after > MOST_PATIENCE else ""
        raise StageFailed(
            f"the endpoint {self.endpoint.url} did not answer after {attempt + 1} tries: {failed}{wanted}; the answers "
            "so far are kept, run the same command again to go on"
        )

    async def _once(self, client: httpx.AsyncClient, prompt: Prompt) -> Answer:
        body: dict[str, Any] = {
            "model": self.endpoint.model,
            "messages": list(prompt.messages),
            "max_tokens": self.decoding.max_new_tokens,
            "temperature": self.decoding.temperature,
            "top_p": self.decoding.top_p,
        }
        if self.decoding.temperature > 0:
            body["seed"] = self.decoding.seed_of(prompt.key)
        try:
            async with asyncio.timeout(self.endpoint.timeout):  # httpx's own counts from one piece to the next
                response = await client.post(self.address, json=body)
        except (httpx.HTTPError, TimeoutError) as error:
            raise _Failed(str(error) or type(error).__name__) from None
        status = response.status_code
        if status in PASSING or status >= 500:
            raise _Failed(f"status {status}", _retry_after(response.headers.get("Retry-After", "")))
        if status != 200:
            told = f"{self._words(response)}{self._about_key() if status in KEY_WANTED else ''}"
            raise StageFailed(f"the endpoint {self.endpoint.url} refuses with status {status}: {told}")
        try:
            return _answer(prompt, response.json())
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            raise _Failed("an answer that is no chat completion") from None

    def _about_key(self) -> str:
        """What to look at when the server wants another key."""
        name = self.endpoint.key_variable
        return f"; look at the key in {name}" if name else "; name the variable that holds the key in key_variable"

    def _words(self, response: httpx.Response) -> str:
        """What the server says, short, on one line, and without the key that it may repeat."""
        text = " ".join(response.text.split()) or "it says nothing"
        return (text.replace(self.key, "***") if self.key else text)[:300]  # in this order: no half of a key is left


def _answer(prompt: Prompt, completion: Any) -> Answer:
    choice = completion["choices"][0]
    text = choice["message"]["content"]
    if not isinstance(text, str | None):
        raise TypeError("content is no text")
    usage = completion.get("usage") or {}
    return Answer(
        key=prompt.key,
        text=(text or "").strip().encode("utf-8", "replace").decode(),
        finish=str(choice.get("finish_reason") or "unknown"),
        prompt_tokens=int(usage.get("prompt_tokens") or 0),
        answer_tokens=int(usage.get("completion_tokens") or 0),
    )


def _retry_after(value: str) -> float:
    """Seconds of a Retry-After header, which holds a number or a date; 0 for anything else."""
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        return 0.0
