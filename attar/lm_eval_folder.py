"""What of EleutherAI's lm-eval can be told without importing it: is it there, is a folder of tasks fit to be run."""

import os
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from attar.errors import BadInput
from attar.fingerprint import sha256_file
from attar.lm_eval_references import require_inside

PICKED, EXACT = ("acc", "acc_norm"), "exact_match"  # metrics of which it can be known what guessing gives


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
    check(path)
    return path


def check(folder: Path) -> None:
    """Raise :class:`BadInput` where there is no task, or one that leads to what :func:`content` does not hash."""
    if not folder.is_dir():
        raise BadInput(f"measure.lm_eval_folder: {folder} is no folder")
    files = _files(folder)
    described = [file for file in files if file.suffix in (".yaml", ".yml")]
    if not described:
        raise BadInput(f"measure.lm_eval_folder: {folder} holds no task; lm-eval describes one in a .yaml file")
    require_inside(described, files)


def content(folder: Path | None) -> dict[str, Any]:
    """Which lm-eval, and every file of the folder by its hash."""
    files = _files(folder) if folder else []
    return {
        "lm_eval": version("lm_eval"),
        "files": {str(file.relative_to(folder)): sha256_file(file) for file in files if folder},
    }


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
