"""What a child process is told: one JSON file, one job. Plain data, no torch."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from attar.data import DataSettings
from attar.suite import Suite


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelRef(_Frozen):
    """A model on disk and the fingerprint it goes by."""

    folder: str
    fingerprint: str


class DatasetRef(_Frozen):
    """A dataset in the store and the fingerprint it goes by."""

    folder: str
    fingerprint: str


class Machine(_Frozen):
    """Where a child computes."""

    device: str = "cpu"
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    threads: Annotated[int, Field(ge=1)] = 1


class _Job(_Frozen):
    home: str  # folder that holds the store
    events: str  # file the child appends its events to
    machine: Machine
    fingerprint: str  # of the artifact this job makes
    who: str = ""  # how others that wait for this job call it: the run and the step
    disk: int = 0  # bytes that it writes into the store at most

    @property
    def sizes(self) -> dict[str, Any]:
        """What its need of memory may depend on, by the names of the settings."""
        return {}


class StageSpec(_Job):
    """Run one stage."""

    do: Literal["stage"] = "stage"
    seed: int
    settings: dict[str, Any]
    source: ModelRef
    origin: ModelRef
    teacher: ModelRef | None
    data: DataSettings
    inputs: dict[str, str]
    responses: DatasetRef | None = None

    @property
    def sizes(self) -> dict[str, Any]:
        return self.settings


class MeasureSpec(_Job):
    """Measure one model against the origin."""

    do: Literal["measure"] = "measure"
    model: ModelRef
    origin: ModelRef
    suite: Suite
    data: DataSettings
    inputs: dict[str, str]
    origin_evaluation: str | None  # fingerprint of the origin's own evaluation; None when that is what is measured

    @property
    def sizes(self) -> dict[str, Any]:
        largest = {"batch_sizes": max(self.suite.batches)} if self.suite.batches else {}
        return {"length": self.suite.length, "windows": self.suite.windows, **largest}


class ImportSpec(_Job):
    """Turn a model that is no safetensors folder (GGUF, package, random) into a model artifact."""

    do: Literal["import"] = "import"
    spec: str


Spec = StageSpec | MeasureSpec | ImportSpec
_ADAPTER: TypeAdapter[Spec] = TypeAdapter(Annotated[Spec, Field(discriminator="do")])


def read_spec(path: Path) -> Spec:
    """The job in a file."""
    return _ADAPTER.validate_json(path.read_bytes())
