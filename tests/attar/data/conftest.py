"""What the data tests share: a small tokenizer, the embedded corpus (read once), and a dataset hub on loopback."""

import hashlib
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from pydoc_data.topics import topics
from typing import ClassVar
from urllib.parse import unquote, urlsplit

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from attar.data import Corpus, DataSettings, open_corpus

EXTRACT = """
import sys
from pathlib import Path
from attar.data import DataSettings, open_corpus
calls = []
open_corpus(DataSettings(), Path(sys.argv[1]), progress=lambda done, total: calls.append((done, total)))
assert calls and calls == sorted(calls) and calls[-1][0] == calls[-1][1], calls[-3:]
print(*sys.modules)
"""


@pytest.fixture(scope="session")
def extraction(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[str]]:
    """(cache that holds the embedded corpus, names of all modules the process that read it had imported)."""
    cache = tmp_path_factory.mktemp("cache")
    done = subprocess.run([sys.executable, "-c", EXTRACT, str(cache)], check=True, capture_output=True, text=True)
    return cache, set(done.stdout.split())


@pytest.fixture(scope="session")
def embedded(extraction: tuple[Path, set[str]]) -> Corpus:
    return open_corpus(DataSettings(), extraction[0])


@pytest.fixture(scope="session")
def tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level BPE of 512 tokens; <eos> is 0."""
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=["<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(topics.values(), trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<eos>"}')
    return folder / "tokenizer.json"


REVISION = {"main": "a" * 40, "v1": "b" * 40}  # tag → commit


class _Handler(BaseHTTPRequestHandler):
    """A dataset hub, as far as `datasets` and `huggingface_hub` ask one for a small dataset."""

    protocol_version = "HTTP/1.1"
    name: ClassVar[str]
    files: ClassVar[dict[str, dict[str, bytes]]]  # commit → path → bytes

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if match := re.fullmatch(f"/api/datasets/{self.name}(?:/revision/(.+))?", path):
            if (commit := self._commit(match[1] or "main")) in self.files:
                siblings = [{"rfilename": file} for file in self.files[commit]]
                self._json({"id": self.name, "sha": commit, "siblings": siblings, "private": False, "gated": False})
            else:
                self._missing("RevisionNotFound")
        elif match := re.fullmatch(f"/api/datasets/{self.name}/tree/([^/]+)/?(.*)", path):
            self._json([self._entry(f, b) for f, b in self.files[self._commit(match[1])].items()])
        elif match := re.fullmatch(f"/api/datasets/{self.name}/paths-info/(.+)", path):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            files = self.files[self._commit(match[1])]
            self._json([self._entry(file, files[file]) for file in body["paths"] if file in files])
        elif match := re.fullmatch(f"/datasets/{self.name}/resolve/([^/]+)/(.+)", path):
            commit = self._commit(match[1])
            if match[2] in self.files[commit]:
                self._send(200, self.files[commit][match[2]], {"X-Repo-Commit": commit})
            else:
                self._missing("EntryNotFound")
        else:
            self._missing("RepoNotFound")

    do_HEAD = do_POST = do_GET

    def _commit(self, revision: str) -> str:
        return REVISION.get(revision, revision)

    def _entry(self, path: str, body: bytes) -> dict[str, object]:
        return {"type": "file", "path": path, "size": len(body), "oid": hashlib.sha1(body).hexdigest()}

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _missing(self, code: str) -> None:
        self._send(404, b"", {"X-Error-Code": code})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {**headers, "ETag": f'"{hashlib.sha1(body).hexdigest()}"'}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def hub() -> Iterator[str]:
    """URL of a hub that has one dataset, acme/notes: 40 rows, and other 40 at the tag v1."""

    def rows(version: str) -> bytes:
        return "".join(json.dumps({"text": f"note {i} of {version}, " * 20}) + "\n" for i in range(40)).encode()

    files = {commit: {"notes.jsonl": rows(version)} for version, commit in REVISION.items()}
    handler = type("Handler", (_Handler,), {"name": "acme/notes", "files": files})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()
