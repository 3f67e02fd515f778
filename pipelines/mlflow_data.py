"""The texts of a run as datasets in MLflow: name, digest and what for, from the fingerprints in its journal.

A name is the source and the part of it, a digest the fingerprint of that part's content, by which results on the same
text find each other.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

from attar.credentials import without_credentials
from pipelines.mlflow_words import name_of

PREFIX = "data."  # of a step's inputs that are texts: data.train, data.calibration, data.held-out, data.other
CONTEXT = {"train": "training", "calibration": "calibration"}
EVALUATION = "evaluation"
HELD_OUT, OTHER = "held-out", "other"
# Figures of a report's row → the part of the data that they are measured on.
ON_HELD_OUT = ("perplexity_held_out", "adaptation")
ON_OTHER = (
    *("perplexity_other", "retained", "retained_low", "retained_high", "p_value", "documents"),
    *("kl", "agreement", "bits_per_byte", "calibration_error", "confidently_wrong"),
)
PART = dict.fromkeys(ON_HELD_OUT, HELD_OUT) | dict.fromkeys(ON_OTHER, OTHER)


@dataclass(frozen=True)
class Texts:
    """The texts that a run measures on, by part, as its journal names them."""

    source: Mapping[str, Any]  # the recipe's data
    fingerprints: Mapping[str, str]  # part → fingerprint

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "Texts":
        """From the journal's record of the run."""
        inputs: dict[str, str] = {}
        for step in record.get("plan", []):
            inputs |= step.get("evaluation_inputs", {})
        return cls(record["recipe"].get("data", {}), _parts(inputs))

    def measured(self) -> list[DatasetInput]:
        """What models are measured on."""
        return [self._input(part, digest) for part, digest in self.fingerprints.items()]

    def used(self, inputs: Mapping[str, str]) -> list[DatasetInput]:
        """What a step reads, by its inputs in the journal."""
        return [self._input(part, digest) for part, digest in _parts(inputs).items()]

    def below(self, figure: str) -> dict[str, str]:
        """Name and digest of the text that a figure is measured on, as a metric takes them."""
        part = PART.get(figure, "")
        if part not in self.fingerprints:
            return {}
        return {"dataset_name": self._name(part), "dataset_digest": self.fingerprints[part]}

    def _input(self, part: str, digest: str) -> DatasetInput:
        context = InputTag(MLFLOW_DATASET_CONTEXT, CONTEXT.get(part, EVALUATION))
        source = json.dumps({"source": self._source(part), "part": part, "fingerprint": digest})
        return DatasetInput(Dataset(self._name(part), digest, "attar", source), [context])

    def _source(self, part: str) -> str:
        return without_credentials(str(self.source.get("other" if part == OTHER else "source", "")))

    def _name(self, part: str) -> str:
        return name_of(f"{PurePath(self._source(part)).name} {part}")


def _parts(inputs: Mapping[str, str]) -> dict[str, str]:
    found = {name.removeprefix(PREFIX): digest for name, digest in inputs.items() if name.startswith(PREFIX)}
    return {part: digest for part, digest in found.items() if part in CONTEXT or part in (HELD_OUT, OTHER)}
