"""Material for the tests of the pipelines: a tiny model, a text of one's own, a recipe over both."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from attar.tiny import tiny_model
from pipelines import journal


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of four layers, with a real tokenizer."""
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half a megabyte of text: modules of Python's own library."""
    library = Path(os.__file__).parent
    names = ("argparse.py", "ast.py", "datetime.py", "inspect.py", "tarfile.py", "typing.py", "turtle.py")
    found = [path.read_text(encoding="utf-8") for name in names if (path := library / name).is_file()]
    target = tmp_path_factory.mktemp("text") / "library.txt"
    target.write_text("\n\n".join(found), encoding="utf-8")
    return target


@pytest.fixture
def document(model: Path, text: Path) -> dict[str, Any]:
    """A small valid recipe as plain values, to be changed at will."""
    return {
        "name": "small",
        "model": str(model),
        "data": {"source": str(text)},
        "stages": [
            {"stage": "prune.width", "ffn": 0.25, "multiple_of": 16, "windows": 4, "length": 64},
            {"stage": "quantize.rtn", "group_size": 16},
        ],
        "measure": {"windows": 4, "length": 64, "speed": False},
    }


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def write(tmp_path: Path) -> Callable[[Any], Path]:
    """Saves a recipe as YAML."""

    def save(document: Any) -> Path:
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(document, sort_keys=False))
        return path

    return save


class Attar:
    """The command line on the smoke recipe, as a user runs it."""

    OVERRIDES = ("stages.0.train_tokens=16384", "stages.3.train_tokens=16384", "measure.speed=false")

    def __init__(self, home: Path, text: Path) -> None:
        self.home = home
        recipe = Path(__file__).parents[2] / "conf" / "smoke.yaml"
        self.arguments = [str(recipe), f"data.source={text}", *self.OVERRIDES, "--home", str(home)]

    def command(self, verb: str, *more: str) -> list[str]:
        return [sys.executable, "-m", "pipelines.cli", verb, *self.arguments, *more]

    def __call__(self, verb: str, *more: str) -> dict[str, Any]:
        """Run to the end; the JSON it prints."""
        done = subprocess.run(self.command(verb, "--json", *more), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        result: dict[str, Any] = json.loads(done.stdout)
        return result

    def records(self, run: str, kind: str) -> list[dict[str, Any]]:
        """Records of one kind in a run's journal."""
        return [record for record in journal.read(self.home / "runs" / run) if record["kind"] == kind]


@pytest.fixture(scope="session")
def attar(tmp_path_factory: pytest.TempPathFactory, text: Path) -> Attar:
    return Attar(tmp_path_factory.mktemp("home") / "home", text)


@pytest.fixture(scope="session")
def finished(attar: Attar) -> dict[str, Any]:
    """The report of an undisturbed run of the smoke recipe, tracked in MLflow."""
    return attar("run")
