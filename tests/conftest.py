"""One thread for every test process: tiny models only lose time to more, and bits do not depend on the machine.

And a teacher behind HTTP: a real server on loopback that speaks chat completions and can misbehave.
"""

import hashlib
import json
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from pipelines import child

for _number in (
    signal.SIGINT,
    signal.SIGHUP,
):  # a shell's background jobs ignore them, and so would all that tests start
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, signal.default_int_handler if _number == signal.SIGINT else signal.SIG_DFL)
os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported, and for the processes that tests start
os.environ["MKL_NUM_THREADS"] = "1"
os.environ["PREFECT_LOGGING_LEVEL"] = "ERROR"
os.environ.update(child.QUIET)  # jobs that a test starts itself find loaded what those of the pipeline do


@pytest.fixture(scope="session", autouse=True)
def loaded() -> None:
    """Load the libraries once for all jobs that the tests of this process start."""
    child.prepare(1)


@pytest.fixture(scope="session", autouse=True)
def slots(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Slots of their own for every test process, which else would wait for each other and for runs of the user's."""
    os.environ["ATTAR_SLOTS"] = str(tmp_path_factory.mktemp("slots"))


@pytest.fixture(autouse=True)
def environment_of_its_own() -> Iterator[None]:
    """What a test, or a command that it calls, sets in the environment does not reach the tests after it."""
    before = dict(os.environ)
    yield
    if dict(os.environ) != before:
        os.environ.clear()
        os.environ.update(before)


class Teacher(ThreadingHTTPServer):
    """Answers every prompt with some words of its own; first, one request each, with what ``moods`` holds.

    A mood is a status, a (status, headers) pair, "hang-up", "drip" (an answer without end, piece by piece), or a body
    (text) sent with status 200.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.moods: deque[Any] = deque()
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.together = 0  # requests at the same time
        self.most_together = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        question = body["messages"][-1]["content"]
        digest = hashlib.sha256(question.encode()).hexdigest()
        words = [digest[i : i + 5] for i in range(0, 60, 5)]
        message = {"role": "assistant", "content": " ".join(words)}
        usage = {"prompt_tokens": 10, "completion_tokens": 12}
        return {"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage}

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Quiet: a client may be killed in the middle."""


class _Handler(BaseHTTPRequestHandler):
    server: Teacher

    def do_GET(self) -> None:
        self._send(404, b"", {})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            mood = self.server.moods.popleft() if self.server.moods else None
            self.server.bodies.append(body)
            self.server.keys.append(self.headers.get("Authorization"))
            self.server.together += 1
            self.server.most_together = max(self.server.most_together, self.server.together)
        try:
            self._answer(mood, body)
        finally:
            with self.server.lock:
                self.server.together -= 1

    def _answer(self, mood: Any, body: dict[str, Any]) -> None:
        if mood == "hang-up":
            self.connection.close()
        elif mood == "drip":
            self._drip()
        elif isinstance(mood, str):
            self._send(200, mood.encode(), {})
        elif mood is not None:
            status, headers = mood if isinstance(mood, tuple) else (mood, {})
            key = self.headers.get("Authorization") or ""
            self._send(status, f'{{"error": "no, {key}"}}'.encode(), headers)
        else:
            self._send(200, json.dumps(self.server.answer(body)).encode(), {})

    def _drip(self) -> None:
        self.send_response(200)
        self.end_headers()
        with suppress(OSError):  # until the client goes
            while True:
                self.wfile.write(b" ")
                time.sleep(0.02)

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


def _serving() -> Iterator[Teacher]:
    with Teacher() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


teacher_server = pytest.fixture(_serving, name="teacher_server")
lasting_teacher_server = pytest.fixture(_serving, scope="session", name="lasting_teacher_server")
