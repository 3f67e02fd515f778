"""What of EleutherAI's lm-eval can be told without importing it: is it there, is a folder of tasks fit to be run."""

import os
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from attar.errors import BadInput
from attar.fingerprint import sha256_file


def require(names: Sequence[str], folder: str) -> Path | None:
    """The folder of the user's tasks, or None.

    Raises:
        BadInput: lm-eval is not installed, or the folder is missing, without tasks, or would run code.
    """
    if folder and not names:
        raise BadInput("measure.lm_eval_folder is given and no task named; name its tasks in measure.lm_eval")
    if not names:
        return None
    try:
        version("lm_eval")
    except PackageNotFoundError:
        raise BadInput("measure.lm_eval needs EleutherAI's lm-eval; install it: pip install 'attar[lm-eval]'") from None
    if len(set(names)) < len(names):
        raise BadInput("measure.lm_eval names a task twice")
    if not folder:
        return None
    path = Path(os.path.expanduser(folder)).absolute()
    if not path.is_dir():
        raise BadInput(f"measure.lm_eval_folder: {path} is no folder")
    described = [file for file in _files(path) if file.suffix in (".yaml", ".yml")]
    if not described:
        raise BadInput(f"measure.lm_eval_folder: {path} holds no task; lm-eval describes one in a .yaml file")
    for file in described:
        if b"!function" in file.read_bytes():
            raise BadInput(
                f"measure.lm_eval_folder: {file} calls Python code (!function), which is not run from a folder of "
                "tasks; say it in lm-eval's templates"
            )
    return path


def content(folder: Path | None) -> dict[str, Any]:
    """Which lm-eval, and every file of the folder by its hash."""
    files = _files(folder) if folder else []
    return {
        "lm_eval": version("lm_eval"),
        "files": {str(file.relative_to(folder)): sha256_file(file) for file in files if folder},
    }


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
