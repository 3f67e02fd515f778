"""What MLflow takes and what it refuses: names of params and metrics, and which of its errors are final."""

import posixpath
import re
from typing import Any

RUNS = "mlflow.json"  # in the folder of a run that was tracked: the ids that MLflow gave it
VIEWED = "viewed"  # in that file: its experiment has the view that addresses name, which older versions did not write
PLACE = "place"  # in that file, too: the MLflow that gave the ids, without credentials
HOME = "home"  # as a place: the database in the home, wherever that lies and however it is reached
MAX_KEY = 250
FINAL = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS")
FINAL_STATUS = (400, 409, 413, 415, 422)  # of an artifact store, which has no codes; 404 is a proxy's in an outage


def key_of(name: str) -> str:
    """A param's or metric's name in letters that MLflow takes: ``layers.*.down_proj`` → ``layers.all.down_proj``."""
    key = re.sub(r"[^/\w.\- :]", "_", name.replace("*", "all"))[:MAX_KEY] or "_"
    if posixpath.normpath(key) != key or key.startswith((".", "/")):  # names are files to some stores
        key = key.replace("/", ":").lstrip(".") or "_"
    return key


def name_of(name: str) -> str:
    """A model's or dataset's name in letters that MLflow takes: ``1 prune.width`` → ``1 prune-width``."""
    return re.sub(r"""[/:.%"']""", "-", name)[:MAX_KEY] or "-"


def flatten(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted params."""
    flat: dict[str, Any] = {}
    for key, entry in value.items():
        flat |= flatten(entry, f"{prefix}{key}.") if isinstance(entry, dict) else {f"{prefix}{key}": entry}
    return flat


def refuses(error: Exception) -> bool:
    """Whether sending the same again is of no use: it was answered, or it cannot be read here.

    A server that is away, too busy, or does not know this user may take the same record later.
    """
    code = getattr(error, "error_code", None)
    if code is not None:
        return code in FINAL
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return status in FINAL_STATUS
    if isinstance(error, OSError):  # requests' errors are such, too
        return isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError)
    return isinstance(error, KeyError | TypeError | ValueError | AttributeError | StopIteration)
