"""How a secret looks in what programs write: as it is, in URLs, and as headers carry it."""

import base64
from collections.abc import Iterable
from urllib.parse import quote

USERS = ("user", "attar", "admin")


def spellings(secrets: Iterable[str]) -> set[bytes]:
    """Every spelling of every secret."""
    found = set()
    for value in secrets:
        pairs = (value, f"{value}:", *(f"{user}:{value}" for user in USERS))
        found |= {base64.b64encode(text.encode()).rstrip(b"=") for text in pairs}
        found |= {value.encode(), quote(value, safe="").encode(), quote(value).encode()}
    return found
