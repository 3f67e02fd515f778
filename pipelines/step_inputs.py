"""What went into each step of a run: its source, its teacher and its data by fingerprint, from the journal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipelines.journal import Record
from pipelines.report import Report

SHORT = 8  # digits of a fingerprint that people compare by eye


@dataclass(frozen=True)
class Node:
    """A step and what went into it."""

    step: int
    name: str
    fingerprint: str
    source: int | None  # the step whose model it changed or read; None of the origin, or of a model from elsewhere
    teacher: int | str | None  # the step that taught it, or the fingerprint of a model from elsewhere
    inputs: Mapping[str, str]  # every fingerprint, by what it is

    @property
    def label(self) -> str:
        return f"{self.step} {self.name}"

    @property
    def short(self) -> str:
        return self.fingerprint[:SHORT]

    @property
    def from_elsewhere(self) -> bool:
        """Whether it began with a model that no step of this run made."""
        return bool(self.step) and self.source is None

    @property
    def sentence(self) -> str:
        """``1 distill.logit (03e27e12) from step 0, taught by step 0``."""
        told = [f"from step {self.source}"] if self.source is not None else []
        told += ["from a model from elsewhere"] if self.from_elsewhere else []
        if self.teacher is not None:
            told.append(f"taught by {_place(self.teacher)}")
        return f"{self.label} ({self.short})" + (f" {', '.join(told)}" if told else "")


def read(report: Report, records: Sequence[Record]) -> tuple[Node, ...]:
    """The steps of a report, in order; what the journal does not tell of a step is left empty."""
    opened = {record["step"]: record for record in records if record["kind"] == "step"}  # the last word of each
    places: dict[str, int] = {}
    last = 0  # the step that made the newest model; one that makes a dataset leaves it as it is
    found = []
    for row in report.rows:
        told = opened.get(row.step, {})
        inputs = {str(name): str(value) for name, value in (told.get("inputs") or {}).items()}
        source, teacher = inputs.get("student") or inputs.get("source"), inputs.get("teacher")
        found.append(
            Node(
                step=row.step,
                name=row.name,
                fingerprint=row.fingerprint,
                source=places.get(source or "", last if row.step and not source else None),
                teacher=None if teacher is None else places.get(teacher, teacher),
                inputs=inputs,
            )
        )
        places.setdefault(row.fingerprint, row.step)
        last = row.step if row.pairs is None else last
    return tuple(found)


def _place(where: int | str) -> str:
    return f"step {where}" if isinstance(where, int) else f"the model {where[:SHORT]}"
