"""One run with a secret in every place where secrets live: none of them is written, and neither is a pickle."""

import ast
import base64
import io
import json
import os
import pickle
import pickletools
import re
import shutil
import sqlite3
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from pipelines import prefect_server
from tests.spellings import spellings

if TYPE_CHECKING:
    from tests.conftest import Teacher

SECRETS = {
    "MLFLOW_TRACKING_PASSWORD": "marked-secret-mlflow",
    "MLFLOW_TRACKING_TOKEN": "marked-secret-token",
    "MLFLOW_FLASK_SERVER_SECRET_KEY": "marked-secret-flask",
    "PREFECT_API_KEY": "marked-secret-prefect",
    "PREFECT_API_AUTH_STRING": "admin:marked-secret-auth",
    "HF_TOKEN": "marked-secret-hub",
    "AWS_SECRET_ACCESS_KEY": "marked-secret-bucket",
    "TEACHER_KEY": "marked-secret-teacher",
}
MARK = b"marked-secret"
TRAINED = {"train_tokens": 1024, "batch": 1, "length": 512, "save_every": 1}
PICKLED_NAMES = (".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt", ".joblib", ".npy", ".npz")


@dataclass(frozen=True)
class Written:
    """All that one run wrote: a folder with home, temporary files and what the terminal showed."""

    folder: Path
    result: dict[str, Any]

    def files(self) -> Iterator[tuple[str, bytes]]:
        """Name and content of every file; of databases and archives also every value and member."""
        for path in self.folder.rglob("*"):
            if path.is_symlink() or not path.is_file():
                continue
            content = path.read_bytes()
            yield str(path), content
            if content.startswith(b"SQLite format 3"):
                yield from values(path)
            elif zipfile.is_zipfile(path):
                yield from members(path)


def values(database: Path) -> Iterator[tuple[str, bytes]]:
    """Every value of every table: a long one does not lie in one piece in the file."""
    with closing(sqlite3.connect(database)) as connection:
        connection.text_factory = bytes
        tables = [row[0].decode() for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            for number, row in enumerate(connection.execute(f'SELECT * FROM "{table}"')):
                for column, value in enumerate(row):
                    if isinstance(value, bytes):
                        yield f"{database}:{table}:{number}:{column}", value


def members(archive: Path) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(archive) as opened:
        for name in opened.namelist():
            yield f"{archive}:{name}", opened.read(name)


def pickled(content: bytes) -> bool:
    """Whether bytes are a pickle, of any protocol, from the first to the last, or text that carries one."""
    try:
        position = [at for _, _, at in pickletools.genops(content)][-1]
        if len(content) > 4 and position == len(content) - 1:
            return True
    except Exception:  # almost anything: what is no pickle is read as if it were one
        pass
    try:
        content.decode()  # in other bytes the letters below stand by chance
    except UnicodeDecodeError:
        return False
    for match in re.finditer(rb"(?<![A-Za-z0-9+/])gA[I-X][A-Za-z0-9+/]{2}[A-Za-z0-9+/=]*", content):
        text = match[0].rstrip(b"=")
        decoded = base64.b64decode(text[: len(text) // 4 * 4])
        # The protocol, then a frame of a length that somebody could have written (4, 5), or a first operation (2, 3).
        if decoded[1:2] in b"\4\5" and decoded[2:3] == b"\x95" and decoded[7:11] == b"\0\0\0\0":
            return True
        if decoded[1:2] in b"\2\3" and decoded[2:3] in (b"}", b"]", b"(", b"c", b"X", b"K"):
            return True
    return False


def with_code(model: Path, folder: Path) -> Path:
    """A copy of a model with code of its own, which its config and its tokenizer ask to be run."""
    copy, trace = folder / "model", folder / "code-ran"
    shutil.copytree(model, copy)
    (copy / "evil.py").write_text(f"open({str(trace)!r}, 'w')\nclass Evil: pass\n")
    asked = {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil", "AutoTokenizer": ["evil.Evil"] * 2}
    for name in ("config.json", "tokenizer_config.json"):
        settings = json.loads((copy / name).read_text())
        (copy / name).write_text(json.dumps(settings | {"auto_map": asked}))
    return copy


@pytest.fixture(scope="session")
def written(
    tmp_path_factory: pytest.TempPathFactory, lasting_teacher_server: "Teacher", model: Path, text: Path
) -> Written:
    """A run of all kinds of stages, of a model with code, then what other commands say of it; all logs talkative."""
    folder = tmp_path_factory.mktemp("security")
    recipe, home = folder / "recipe.yaml", folder / "home"
    endpoint = {"url": lasting_teacher_server.url, "model": "m", "terms_accepted": True, "key_variable": "TEACHER_KEY"}
    stages = [
        {"stage": "generate.responses", "endpoint": endpoint | {"pause": 0.01, "retries": 2}, "count": 20},
        {"stage": "distill.response", "keep": 3, **TRAINED},
        {"stage": "prune.width", "ffn": 0.25, "multiple_of": 16, "windows": 4, "length": 64},
        {"stage": "quantize.rtn", "group_size": 16},
        {"stage": "finetune.scales", **TRAINED},
    ]
    measure = {"windows": 4, "length": 64, "speed": False}
    document = {
        "name": "small",
        "model": str(with_code(model, folder)),
        "data": {"source": str(text)},
        "stages": stages,
    }
    recipe.write_text(yaml.safe_dump(document | {"measure": measure}))
    (folder / "tmp").mkdir()
    talkative = {"PREFECT_LOGGING_LEVEL": "DEBUG", "MLFLOW_LOGGING_LEVEL": "DEBUG", "TMPDIR": str(folder / "tmp")}
    environment = os.environ | SECRETS | talkative | {"MLFLOW_TRACKING_USERNAME": "user"}

    def attar(*arguments: str, code: int = 0) -> str:
        command = [sys.executable, "-m", "pipelines.cli", *arguments, "--home", str(home)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == code, done.stderr
        for stream in ("stdout", "stderr"):
            (folder / f"{arguments[0]}.{code}.{stream}").write_text(getattr(done, stream))
        return done.stdout

    lasting_teacher_server.moods.extend([429, 500])  # such answers repeat the key
    result = json.loads(attar("run", str(recipe), "--json"))
    lasting_teacher_server.moods.extend([401] * 20)
    attar("run", str(recipe), "seed=1", code=4)  # a run that fails tells more
    for command in ("show", "doctor", "gc", "sync"):
        attar(command)
    return Written(folder, result)


def test_no_secret_is_written(written: Written, lasting_teacher_server: "Teacher") -> None:
    assert set(lasting_teacher_server.keys) == {f"Bearer {SECRETS['TEACHER_KEY']}"}  # it was there, and it was of use
    searched = 0
    for name, content in written.files():
        for spelling in {MARK, *spellings(SECRETS.values())}:
            assert spelling not in content, f"{name} holds {spelling!r}"
        searched += 1
    assert searched > 1000 and [row["name"] for row in written.result["rows"]][1] == "generate.responses"


def test_no_pickle_is_written(written: Written) -> None:
    databases = set()
    for name, content in written.files():
        assert not name.endswith(PICKLED_NAMES), name
        assert not pickled(content), name
        if content.startswith(b"SQLite format 3"):
            databases.add(Path(name).name)
    assert databases >= {"mlflow.db", "prefect.db"}


def test_every_flow_and_task_keeps_its_results_as_json() -> None:
    """Prefect's default is pickle, which it uses for the exception of a task even where no result is kept."""
    calls = [
        (path.name, decorator)
        for path in (Path(__file__).parents[2] / "pipelines").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for decorator in getattr(node, "decorator_list", [])
        if ast.unparse(decorator).split("(")[0].split(".")[-1] in ("flow", "task")
    ]
    assert len(calls) >= 3
    for name, decorator in calls:
        assert "result_serializer='json'" in ast.unparse(decorator), f"{name}: {ast.unparse(decorator)}"


def test_code_in_a_model_folder_is_not_run(written: Written) -> None:
    assert (written.folder / "model" / "evil.py").is_file() and not (written.folder / "code-ran").exists()


def test_the_embedded_server_is_on_loopback(home: Path) -> None:
    code = (
        "import sys, psutil; from pathlib import Path; from pipelines import embedded, prefect_server as server\n"
        "from pipelines.home import Home; place = Home(Path(sys.argv[1])); embedded.configure(place)\n"
        "server.start(place)\n"
        "print([list(c.laddr) for p in psutil.Process().children(True) for c in p.net_connections() "
        "if c.status == 'LISTEN'])"
    )
    environment = {key: value for key, value in os.environ.items() if key != prefect_server.URL}
    said = subprocess.run(
        [sys.executable, "-c", code, str(home)], capture_output=True, text=True, check=True, env=environment
    ).stdout
    listening = json.loads(said.replace("'", '"'))
    assert listening and {host for host, _ in listening} == {"127.0.0.1"}


def test_the_search_finds_what_is_there(tmp_path: Path) -> None:
    """All that the two laws above look for, written as a careless program would."""
    thing = {"weights": [1.0, 2.0], "name": "x" * 10}
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        dumped = pickle.dumps(thing, protocol)
        assert pickled(dumped), protocol
        assert protocol < 2 or pickled(json.dumps({"data": base64.b64encode(dumped).decode()}).encode()), protocol
    assert not any(pickled(text) for text in (b"", b".", b"{}", b'{"a": "gAAAAA"}', b"I am a sentence.\n", b"N."))

    with closing(sqlite3.connect(tmp_path / "a.db")) as database:
        database.execute("CREATE TABLE t (a TEXT, b BLOB)")
        long = "x" * 10_000 + MARK.decode() + "x" * 10_000
        database.execute("INSERT INTO t VALUES (?, ?)", (long, pickle.dumps(thing)))
        database.commit()
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("model/data.pkl", pickle.dumps(thing))
    (tmp_path / "model.zip").write_bytes(archive.getvalue())
    found = dict(Written(tmp_path, {}).files())
    assert sum(MARK in content for name, content in found.items() if ":t:" in name) == 1
    assert sum(pickled(content) for content in found.values()) == 2
    assert any(name.endswith("data.pkl") and name.endswith(PICKLED_NAMES) for name in found)
    assert base64.b64encode(b"user:" + SECRETS["MLFLOW_TRACKING_PASSWORD"].encode()).rstrip(b"=") in spellings(
        SECRETS.values()
    )
