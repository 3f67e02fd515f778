"""Says where the home's MLflow is served right now, told by the process that serves it.

That process holds a lock for as long as it lives, beside the address: what a killed one has left behind names nobody.
"""

from pathlib import Path

from attar.errors import BadInput
from pipelines import process
from pipelines.home import Home

ADDRESS = "mlflow.txt"


def begin(home: Home) -> None:
    """Be the one process that serves a home, until it ends: two would share its databases.

    Raises:
        BadInput: another process is, or the home cannot be written.
    """
    folder = _folder(home)
    taken = f"the home {home.root} is being served already; end that, or give another --home"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        process.hold(folder, taken)
        (folder / ADDRESS).unlink(missing_ok=True)
    except OSError as error:
        raise BadInput(f"the home {home.root} cannot be written ({error.strerror}); give another --home") from None


def tell(home: Home, mlflow: str) -> None:
    """Write down where MLflow answers."""
    (_folder(home) / ADDRESS).write_text(mlflow)


def mlflow(home: Home) -> str | None:
    """The address of the MLflow server over the database in the home; None if nobody serves it."""
    folder = _folder(home)
    try:
        return (folder / ADDRESS).read_text() if process.alive(folder) else None
    except OSError:  # it is being started, or is somebody else's
        return None


def _folder(home: Home) -> Path:
    return home.root / "served"
