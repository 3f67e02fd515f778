"""Who may speak to the embedded Prefect server: programs and its own pages, by the names of this machine."""

import os
import socket
from collections.abc import Iterator
from http.client import HTTPConnection

import pytest

from pipelines import prefect_server
from pipelines.embedded import SILENT

PATH = "/api/flow_runs/filter"


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A Prefect server as a run starts it, which goes by one more name."""
    folder = tmp_path_factory.mktemp("prefect")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        found: int = listener.getsockname()[1]
        own = {"PREFECT_HOME": str(folder), "PREFECT_UI_ENABLED": "0", "ATTAR_ALLOWED_HOSTS": "attar.example, other"}
        environment = {**os.environ, **SILENT, **prefect_server.own_pages(found), **own}
        process = prefect_server.launch(listener, "embedded", environment, folder / "log.txt")
    try:
        assert prefect_server.wait(process, found, "/api/health"), (folder / "log.txt").read_text()
        yield found
    finally:
        process.kill()
        process.wait()


def ask(port: int, headers: dict[str, str], method: str = "POST") -> tuple[int, str | None]:
    """Status of a request that would list flow runs, and whom the answer is shown to."""
    connection = HTTPConnection("127.0.0.1", port)
    body = "{}" if method == "POST" else None
    connection.request(method, PATH, body, {"Content-Type": "application/json"} | headers)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status, answer.getheader("Access-Control-Allow-Origin")


def test_pages_may_speak_to_this_server_only(port: int) -> None:
    connection = HTTPConnection("127.0.0.1", port)
    connection.request("GET", "/api/health")
    (policy,) = connection.getresponse().headers.get_all("Content-Security-Policy") or []
    connection.close()
    kind, *hosts = policy.split()
    assert kind == "connect-src" and "http://attar.example:*" in hosts
    names = {host.split("/")[-1].removesuffix(":*") for host in hosts}
    assert names == {"'self'", "127.0.0.1", "localhost", "attar.example", "other"}


def test_programs_and_its_own_pages_are_answered(port: int) -> None:
    assert ask(port, {})[0] == 200
    for name in ("127.0.0.1", "localhost", "[::1]"):
        assert ask(port, {"Host": f"{name}:{port}", "Origin": f"http://{name}:{port}"})[0] == 200
    assert ask(port, {"Origin": f"http://localhost:{port}"})[0] == 200  # the same server by its other name
    assert ask(port, {"Host": "attar.example", "Origin": "https://attar.example"})[0] == 200


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "https://127.0.0.1.evil.example", "null", "file://", "http://127.0.0.1:1", "nonsense"],
)
def test_a_page_of_another_site_is_refused(port: int, origin: str) -> None:
    assert ask(port, {"Origin": origin}) == (403, None)
    preflight = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    assert ask(port, preflight, "OPTIONS") == (403, None)


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1.evil.example", "", "127.0.0.1:nonsense"]
)
def test_a_strange_name_is_refused_even_where_no_page_asks(port: int, host: str) -> None:
    assert ask(port, {"Host": host.format(port=port)})[0] == 403


def test_the_pages_of_one_name_may_not_use_another(port: int) -> None:
    assert ask(port, {"Host": "attar.example", "Origin": "http://other"})[0] == 403
    assert ask(port, {"Host": "attar.example", "Origin": f"http://127.0.0.1:{port}"})[0] == 403


@pytest.mark.parametrize("origin", ["", "Origin: http://evil.example\r\n"])
def test_a_page_of_another_site_gets_no_events_either(port: int, origin: str) -> None:
    head = (
        f"GET /api/events/out HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        f"Sec-WebSocket-Protocol: prefect\r\n{origin}\r\n"
    )
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(head.encode())
        status = int(connection.recv(4096).split()[1])
    assert status == (403 if origin else 101)
