"""The home folder: where the store, the runs and the embedded databases lie.

<home>/store/            artifacts, by fingerprint
<home>/served/           where, for as long as somebody serves it
<home>/logs/             of the servers and the worker that ``attar serve`` runs
<home>/runs/<run id>/    recipe, specs, events, logs, journal, report, plot, links into the store
<home>/imports/          logs of model conversions, a folder each
<home>/mlflow.db, mlartifacts/, prefect/, hashes.json
"""

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from attar.errors import BadInput
from attar.store import Store

RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
RECIPE = "recipe.yaml"  # of a run, as it was asked for
AS_RUN = "as-run.yaml"  # and with what gates changed in it


@dataclass(frozen=True)
class Home:
    """One home folder, as an absolute path."""

    root: Path

    @classmethod
    def open(cls, given: Path | None) -> "Home":
        """``--home``, else the environment's ``ATTAR_HOME``, else ``.attar`` in the current folder."""
        return cls(Path(given or os.environ.get("ATTAR_HOME") or ".attar").expanduser().absolute())

    @property
    def store(self) -> Store:
        return Store(self.root / "store")

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def corpus(self) -> Path:
        return self.root / "store" / "dataset"

    @property
    def imports(self) -> Path:
        return self.root / "imports"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def mlflow_uri(self) -> str:
        """The tracking server of the environment, or the database in this home."""
        return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self.root / 'mlflow.db'}"

    @property
    def mlflow_artifacts(self) -> Path:
        return self.root / "mlartifacts"

    @property
    def prefect(self) -> Path:
        return self.root / "prefect"

    def new_run(self, name: str) -> str:
        """Create the folder of a new run and return its id, which sorts by time."""
        stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
        for suffix in ("", *(f"-{n}" for n in range(2, 1000))):
            run = f"{stamp}-{name}{suffix}"
            try:
                (self.runs / run).mkdir(parents=True)
            except FileExistsError:
                continue
            except OSError as error:
                raise BadInput(
                    f"the home {self.root} cannot be written ({error.strerror}); choose another folder with --home"
                ) from None
            return run
        raise BadInput(f"{self.runs} already holds 999 runs of this second")

    def run_folder(self, run: str | None) -> Path:
        """Folder of a run; the newest when none is named."""
        known = sorted(path.name for path in self.runs.glob("*") if path.is_dir())
        if not known:
            raise BadInput(f"there is no run in {self.root}; start one with: attar run RECIPE")
        if run is None:
            return self.runs / known[-1]
        if run not in known:
            raise BadInput(f"there is no run {run!r} in {self.root}; the newest are: {', '.join(known[-5:])}")
        return self.runs / run
