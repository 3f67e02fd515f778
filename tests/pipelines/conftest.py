"""Material for the tests of the pipelines: a tiny model, a text of one's own, a recipe over both."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from math import exp
from pathlib import Path
from typing import Any

import pytest
import yaml

from attar import scores
from attar.fingerprint import hash_json
from attar.scores import Scores, of_answers
from attar.stamp import stamp
from attar.tiny import tiny_model
from pipelines import journal, report
from pipelines.home import Home
from pipelines.report import Reference, Report, Row


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


class Shelf:
    """A home with an origin, and models of which only the measurements are real: losses a document, as scores."""

    BASE = tuple(2.0 + 0.1 * i for i in range(12))  # nats on the origin's documents, of ten tokens each

    def __init__(self, home: Home, model: Path) -> None:
        self.home = home
        self.model = model
        self.origin = hash_json("origin")
        self.answers: dict[str, dict[str, list[float]]] = {}  # model → what was right of a task; tasks are stamped, too
        self.chance: dict[
            str, float | None
        ] = {}  # model → what guessing gives, as its results tell; of others a quarter

    def losses(self, more: float, noise: float = 0.01) -> tuple[float, ...]:
        """The origin's losses and so much more, unevenly."""
        return tuple(loss + more + noise * (i % 3 - 1) for i, loss in enumerate(self.BASE))

    def run(self, run: str, recipe: str, *models: tuple[str, int, float], **stamped: Any) -> list[Row]:
        """A finished run with models of these names, bytes and further losses; the rows of its report."""
        rows = [self._row(0, "origin", self.model, self.origin, self.BASE, stamped)]
        for step, (name, size, more) in enumerate(models, start=1):
            folder = self.store(name)
            losses = self.losses(more) if name != "noisy" else self.losses(more, 0.3)
            rows.append(replace(self._row(step, name, folder, hash_json(name), losses, stamped), bytes=size))
        folder = self.home.runs / run
        folder.mkdir(parents=True)
        report.save(Report(run, recipe, tuple(rows)), folder)
        (folder / "recipe.yaml").write_text(f"name: {recipe}\nmodel: some/origin\n")
        (folder / "journal.jsonl").write_text('{"kind": "end-run", "status": "finished", "text": ""}\n')
        at = int("".join(filter(str.isdigit, run)))
        os.utime(folder / "journal.jsonl", (at, at))
        return rows

    def store(self, name: str) -> Path:
        """The folder of a model in the store."""
        store, fingerprint = self.home.store, hash_json(name)
        if store.find("model", fingerprint) is None:
            shutil.copytree(self.model, store.draft("model", fingerprint), dirs_exist_ok=True)
            draft = store.root / "tmp" / f"model-{fingerprint}"
            store.commit("model", fingerprint, draft, {"inputs": {}, "settings": {"stage": name}})
        return store.folder("model", fingerprint)

    def measure(self, model: str, losses: tuple[float, ...], **stamped: Any) -> str:
        """An evaluation in the store; its fingerprint."""
        evaluation = hash_json(["evaluation", model, stamped])
        parts = {"suite": 2, "origin": self.origin, "windows": 4, "length": 64, "dtype": "float32", "tokenizer": "t"}
        perplexity = exp(sum(losses) / len(losses))
        both = {"perplexity": perplexity, "kl": 0.1, "agreement": 0.5, "calibration_error": 0.1}
        result = {
            **{name: {"held-out": value, "other": value} for name, value in both.items()},
            "prefill_tokens_per_second": None,
            "decode_tokens_per_second": None,
            "tasks": {
                name: self._picked(right, self.chance.get(model, 0.25))
                for name, right in self.answers.get(model, {}).items()
            },
            "stamp": stamp(**parts | stamped),
        }
        draft = self.home.store.draft("evaluation", evaluation)
        (draft / "result.json").write_text(json.dumps(result))
        ids = tuple(f"d{i}" for i in range(len(losses)))
        scored = {"loss/other": Scores(ids, tuple(10 * loss for loss in losses), (10,) * len(ids))}
        for name, right in self.answers.get(model, {}).items():
            scored[name] = of_answers([str(i) for i in range(len(right))], right, [0.95] * len(right))
        scores.save(scored, draft)
        manifest = {"inputs": {"model": model, "origin": self.origin}}
        self.home.store.commit("evaluation", evaluation, draft, manifest)
        return evaluation

    def _picked(self, right: list[float], chance: float | None) -> dict[str, Any]:
        share = sum(right) / len(right)
        told = {"value": share, "low": share, "high": share, "items": len(right), "lower_is_better": False}
        told |= {} if chance is None else {"chance": chance}
        return {**told, "confidently_wrong": 1 - share, "calibration_error": 0.1}

    def _row(
        self, step: int, name: str, folder: Path, model: str, losses: tuple[float, ...], stamped: dict[str, Any]
    ) -> Row:
        evaluation = self.measure(model, losses, **stamped)
        reference = hash_json(["evaluation", self.origin, stamped])
        origin = Reference.read(self.model, reference, self.home.store)
        return report.make_row(step, name, False, folder, model, evaluation, self.home.store, origin)


@pytest.fixture
def shelf(home: Path, model: Path) -> Shelf:
    return Shelf(Home(home), model)
