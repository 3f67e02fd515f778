"""Takes users, passwords and keys out of addresses before anybody reads, tracks or stores them."""

import re

_USER = re.compile(r"(?<=://)[^/\s?#'\"]*@")
_QUERY = re.compile(r"(?i)([?&;](?:password|passwd|pwd|token|api_?key|secret|sig|signature)=)[^&;\s'\")]*")


def without_credentials(text: str) -> str:
    """An address, or a sentence that holds some, as everybody may see it."""
    return _QUERY.sub(r"\1…", _USER.sub("", text))
