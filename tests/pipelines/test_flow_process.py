"""The process of a deployed flow run: what its server forgets does not end it."""

import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from uuid import UUID

import pytest

from pipelines import flow_process

LEASE = UUID(int=7)


class Restarted(BaseHTTPRequestHandler):
    """A Prefect server that was started again: it knows of no lease."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self._refuse(HTTPStatus.NOT_FOUND)  # a token that is not wanted

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.asked.append(self.path)
        self._refuse(HTTPStatus.GONE)

    def _refuse(self, code: int) -> None:
        self.send_response(code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_a_lease_that_the_server_forgot_ends_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect import flow_engine
    from prefect.concurrency import _leases
    from prefect.settings import PREFECT_API_URL, PREFECT_SERVER_ALLOW_EPHEMERAL_MODE, temporary_settings

    monkeypatch.setattr(_leases, "_RENEWAL_RETRY_MAX_DELAY", 0.01)
    monkeypatch.setattr(flow_engine, "maintain_concurrency_lease", flow_engine.maintain_concurrency_lease)
    flow_process.outlast_leases()
    with ThreadingHTTPServer(("127.0.0.1", 0), Restarted) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        api = f"http://127.0.0.1:{server.server_port}/api"
        with temporary_settings({PREFECT_API_URL: api, PREFECT_SERVER_ALLOW_EPHEMERAL_MODE: False}):
            # as Prefect's engine does around a flow
            with flow_engine.maintain_concurrency_lease(LEASE, 300, raise_on_lease_renewal_failure=True):
                (renewal,) = [one for one in threading.enumerate() if one.name.endswith(str(LEASE))]
                renewal.join()  # it has given up
        server.shutdown()
    assert Restarted.asked == [f"/api/v2/concurrency_limits/leases/{LEASE}/renew"] * _leases._RENEWAL_MAX_ATTEMPTS
