"""Takes users, passwords, keys and signatures out of texts before anybody reads, tracks or stores them."""

import os
import re
from urllib.parse import quote

_USER = re.compile(r"(?<=://)[^/\s?#'\"]*@")
# Keys of addresses by their last word: signed addresses of hubs and buckets name them X-Amz-Signature, access_token, …
_SECRET = r"(?:token|signature|credential|secret|password|passwd|pwd|api[_-]?key|access[_-]?key(?:[_-]?id)?|policy)"
_QUERY = re.compile(rf"(?i)([?&;](?:[\w.-]*{_SECRET}|sig|key|auth|key-pair-id)=)[^&;\s'\")]*")
_HEADER = re.compile(r"(?i)(authorization['\"]?\s*[:=]\s*['\"]?)(?:(?:bearer|basic|token)\s+)?[^\s'\",]+")
_BEARER = re.compile(r"(?i)(\bbearer\s+)[\w.~+/=-]{8,}")
_HUB = re.compile(r"\bhf_[A-Za-z0-9]{16,}")
_NAMED = re.compile(r"(?i)(token|secret|password|passwd|credential|api_?key|access_?key|auth_string)")
SHORTEST = 8  # characters of a value in the environment that is looked for: shorter ones are words of other texts


def without_credentials(text: str) -> str:
    """A text as everybody may see it: no user or key in its addresses, no value that the environment calls a secret."""
    for name, value in os.environ.items():
        if len(value) >= SHORTEST and _NAMED.search(name) and not os.path.isabs(value):
            text = text.replace(value, "…").replace(quote(value, safe=""), "…")
    text = _QUERY.sub(r"\1…", _USER.sub("", text))
    return _HUB.sub("…", _BEARER.sub(r"\1…", _HEADER.sub(r"\1…", text)))
