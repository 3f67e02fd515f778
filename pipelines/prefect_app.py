"""Prefect's server on a socket that is open already, closed to the pages of other sites.

    python -m pipelines.prefect_app HANDLE PARENT embedded|served

Prefect asks nobody on loopback for a password and takes requests of every page: any web page that is open on this
machine could start a flow run. A browser says whose page is asking (``Origin``) and by which name it found the
server (``Host``): both have to be this machine's, or of ``ATTAR_ALLOWED_HOSTS``. Programs send no ``Origin``. And
Prefect's pages would report to an analytics firm that they were opened, whatever the settings say: browsers are told
to let them speak to this server only.
"""

import os
import socket
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from attar.machine import die_with_parent

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
ALLOWED = "ATTAR_ALLOWED_HOSTS"  # more names by which browsers may find the server, separated by commas
REFUSAL = b"403: this server answers programs and its own pages only, by the names of this machine\n"


class OwnPagesOnly:
    """Answers 403 to every request by a strange name, and to every request of a page of another origin."""

    def __init__(self, app: App, names: frozenset[str]) -> None:
        self.app = app
        self.names = names
        hosts = [f"{scheme}://{name}:*" for name in sorted(names | LOOPBACK) for scheme in ("http", "ws")]
        policy = " ".join(["connect-src 'self'", *(host for host in hosts if "::" not in host)])
        self.policy = (b"content-security-policy", policy.encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def confined(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), self.policy]
            await send(message)

        if scope["type"] not in ("http", "websocket") or self._welcome(scope):
            await self.app(scope, receive, confined)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})  # before it was accepted: the answer is 403
        else:
            headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(REFUSAL)).encode())]
            await send({"type": "http.response.start", "status": 403, "headers": headers})
            await send({"type": "http.response.body", "body": REFUSAL})

    def _welcome(self, scope: Scope) -> bool:
        hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        origins = [value.decode("latin-1") for name, value in scope["headers"] if name == b"origin"]
        if len(hosts) != 1 or len(origins) > 1:
            return False
        host = self._address(f"http://{hosts[0]}")
        # localhost and 127.0.0.1 are one server; another port of this machine is another one
        return host is not None and all(self._address(origin) == host for origin in origins)

    def _address(self, url: str) -> str | None:
        """The port, and the name unless it is loopback's; None for strangers and for what is no address."""
        try:
            parts = urlsplit(url)
            name, port = (parts.hostname or ""), parts.port or {"http": 80, "https": 443}[parts.scheme]
        except (ValueError, KeyError):
            return None
        if name in LOOPBACK:
            return f":{port}"
        return name if name in self.names else None  # in front of it may be a proxy with a port of its own


def main(handle: int, parent: int, kind: str) -> None:
    """Serve until killed, or until the process that started this one ends."""
    die_with_parent(parent)
    import uvicorn
    from prefect.server.api.server import create_app

    app = create_app(ephemeral=kind == "embedded", final=True)
    names = frozenset(name.strip().lower() for name in os.environ.get(ALLOWED, "").split(",") if name.strip())
    level = "error" if kind == "embedded" else "warning"
    config = uvicorn.Config(OwnPagesOnly(app, names), log_level=level, lifespan="on")
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=handle)])


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
