"""The contract test that any author of a stage runs: ``check_stage(MyStage(...))``."""

import json
import re
import subprocess
import sys
import tempfile
from importlib import import_module
from inspect import getdoc, isclass
from pathlib import Path
from typing import Any

from attar.checkpoint import read_facts
from attar.data import DataSettings
from attar.events import Events
from attar.sources import folder_fingerprint
from attar.store import Artifact, Store
from attar.tiny import tiny_model

MODULES: tuple[str, ...] = (
    "_pydecimal",
    "argparse",
    "ast",
    "difflib",
    "doctest",
    "fractions",
    "heapq",
    "inspect",
    "ipaddress",
)
MODULES += (
    "logging",
    "optparse",
    "pickletools",
    "random",
    "statistics",
    "tarfile",
    "typing",
    "unittest.mock",
    "zipfile",
)


def write_text(file: Path) -> Path:
    """Paragraphs from the docstrings of Python's own library, to train and calibrate tiny models on."""
    texts: dict[str, None] = {}
    for name in MODULES:
        module = import_module(name)
        owners = [module, *(c for _, c in sorted(vars(module).items()) if isclass(c) and c.__module__ == name)]
        members = [m for owner in owners for _, m in sorted(vars(owner).items()) if callable(m)]
        for thing in [*owners, *members]:
            text = re.sub(r"\s+", " ", getdoc(thing) or "")
            if len(text) > 200:
                texts[text] = None
    file.write_text("\n\n".join(texts))
    return file


def job(stage: Any, model: Path, text: Path, home: Path, fingerprint: str, dtype: str) -> dict[str, Any]:
    """The job of running ``stage`` on a model folder, as the child process would be told it."""
    reference = {"folder": str(model), "fingerprint": folder_fingerprint(model, home)}
    return {
        "do": "stage",
        "home": str(home),
        "events": str(home / "events.jsonl"),
        "machine": {"device": "cpu", "dtype": dtype, "threads": 1},
        "fingerprint": fingerprint,
        "seed": 0,
        "settings": stage.settings(),
        "source": reference,
        "origin": reference,
        "teacher": reference if "teacher" in stage.uses else None,
        "data": DataSettings(source=str(text)).model_dump(),
        "inputs": {"source": reference["fingerprint"]} | stage.named_inputs(),
    }


def run_on(stage: Any, model: Path, home: Path, fingerprint: str = "check", dtype: str = "float32") -> Artifact:
    """Run a stage on a model folder, in this process, with its proofs."""
    home.mkdir(parents=True, exist_ok=True)
    text = home / "text.txt"
    if not text.exists():
        write_text(text)
    specification = stage.job(job(stage, model, text, home, fingerprint, dtype))
    artifact: Artifact = stage.run(specification, Events(home / "events.jsonl"))
    return artifact


def check_stage(stage: Any, model: Path | None = None) -> Artifact:
    """Assert that a stage keeps the contract: described settings, honest plan, proofs, determinism, light import.

    Args:
        stage: settings that fit the model; training stages should ask for few tokens.
        model: a folder; a tiny random Llama by default. The artifact returned lies in a folder of its own, which the
            caller may delete.
    """
    kind = type(stage)
    for name, field in kind.model_fields.items():
        assert name == "stage" or field.description, f"the setting {name!r} has no description"
    assert kind(**json.loads(json.dumps(stage.settings()))) == stage, "settings do not survive JSON"
    assert kind.__doc__, "the stage does not say what it does"

    folder = Path(tempfile.mkdtemp(prefix="check-stage-"))
    source = model or tiny_model(folder / "model")
    before = read_facts(source)
    promised = stage.plan(before)
    cost = stage.cost(before, before)
    assert cost.flops >= 0 and cost.memory > 0, "the stage foresees no cost"
    first = run_on(stage, source, folder / "first")
    if stage.makes == "model":
        found = read_facts(first.folder)
        assert found.tensors() == promised.tensors(), "the plan promised other tensors than the stage wrote"
    else:
        assert promised == before, "a stage that makes a dataset leaves the model as it is"
        assert first.manifest["counts"]["pairs"] > 0, "the manifest does not say how much there is"
    assert read_facts(source) == before, "the stage changed its source"
    second = run_on(stage, source, folder / "second")
    assert _hashes(first) == _hashes(second), "two runs gave different bytes"
    store = Store(folder / "first" / "store")
    assert not any((store.root / "tmp").glob("*")), "the stage left temporary files"
    assert not store.state("check").exists(), "the stage left training state"
    _imports_without_torch(kind.__module__)
    return first


def _hashes(artifact: Artifact) -> dict[str, str]:
    return {name: entry["sha256"] for name, entry in artifact.manifest["files"].items()}


def _imports_without_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, f"importing {module} imports torch (or fails): {done.stderr[-500:]}"
