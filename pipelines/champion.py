"""When a model becomes the champion of its line: the policy of a recipe, and the decision. Asks no server.

champion:
  line: assistant          # a registered model in MLflow
  measure: headline
  margin: 0.01             # by a point at least
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from attar import scores
from attar.errors import AttarError
from attar.scores import Scores
from attar.stamp import comparable
from attar.store import Store
from pipelines import as_good
from pipelines.gates import MEASURES

CHAMPION = "champion.txt"  # in a run's folder: what came of its final model, once MLflow has it
LINE = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
SCORED = {"headline": as_good.SCORED, "kl": "kl/other", "agreement": "agreed/other", "bits_per_byte": "bits/other"}


class Champion(BaseModel):
    """Where the final model is registered, and what makes it the champion there."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    line: Annotated[
        Annotated[str, Field(pattern=LINE)] | None,
        Field(description="a registered model in MLflow, new or not; left out: the final model is not registered"),
    ] = None
    measure: Annotated[
        Literal["headline", "kl", "agreement", "bits_per_byte", "bytes"],
        Field(description="what it must be better in, distinguishably; of bytes: and as good in headline"),
    ] = "headline"
    margin: Annotated[
        float, Field(ge=0, description="by how much more, in the measure's own unit: 0.01 is a point of headline")
    ] = 0.0
    quality_margin: Annotated[
        float,
        Field(
            ge=0,
            le=1,
            description="of bytes: how much lower the headline may be, at the worse end of the paired interval; 0.01 "
            "is a point",
        ),
    ] = as_good.MARGIN

    @model_validator(mode="after")
    def _sound(self) -> "Champion":
        if self.measure != "bytes" and self.quality_margin != as_good.MARGIN:
            raise ValueError(
                f"champion.quality_margin goes with measure: bytes, and the measure is {self.measure}, whose own is "
                "champion.margin"
            )
        return self


@dataclass(frozen=True)
class Standing:
    """A model as the decision sees it."""

    name: str  # for sentences
    figures: Mapping[str, float]  # by the names of measures
    result: Mapping[str, Any]
    scores: Mapping[str, Scores]

    @classmethod
    def read(cls, name: str, figures: Mapping[str, float], evaluation: str, store: Store) -> "Standing":
        """From the evaluation in the store; without result and scores where it is there no more."""
        folder: Path = store.folder("evaluation", evaluation)
        if store.find("evaluation", evaluation) is None:
            return cls(name, figures, {}, {})
        return cls(name, figures, json.loads((folder / "result.json").read_text()), scores.load(folder))


@dataclass(frozen=True)
class Decision:
    crowned: bool
    reason: str


def is_line(name: str) -> bool:
    """Whether a line may be called so."""
    return re.fullmatch(LINE, name) is not None


def figures(row: Mapping[str, Any]) -> dict[str, float]:
    """What a report's row says of the measures that a policy may name."""
    found = {name: row.get(MEASURES[name].column) for name in (*SCORED, "bytes")}
    return {name: float(value) for name, value in found.items() if isinstance(value, int | float)}


def decide(policy: Champion, new: Standing, present: Standing | None) -> Decision:
    """Whether ``new`` takes the place of ``present``, and why.

    It must be better by more than the margin, and by a paired comparison that tells the two apart; a smaller model (the
    measure ``bytes``) must be as good in headline, see :mod:`pipelines.as_good`: each champion as its predecessor, so
    that a line may lose the margin many times. What cannot be compared stays challenger.
    """
    if present is None:
        return Decision(True, "the first of its line")
    quality = "headline" if policy.measure == "bytes" else policy.measure
    if not present.result or not new.result:
        gone = new if not new.result else present
        return Decision(False, f"the evaluation of {gone.name} is not in this home, so the two cannot be compared")
    if why := comparable(present.result, new.result, quality):
        return Decision(False, f"not comparable with {present.name}: {why}")
    one, two, name = new.scores.get(SCORED[quality]), present.scores.get(SCORED[quality]), policy.measure
    if one is None or two is None or name not in new.figures or not {name, quality} <= present.figures.keys():
        return Decision(False, f"{quality} was not measured on every document of both, so nobody can tell")
    try:
        return _smaller(policy, new, present, one, two) if name == "bytes" else _better(policy, new, present, one, two)
    except AttarError as error:
        return Decision(False, f"not comparable with {present.name}: {error}")


def _better(policy: Champion, new: Standing, present: Standing, one: Scores, two: Scores) -> Decision:
    from attar import statistics  # numpy, which the command line does without until there is something to compare

    found = statistics.difference(one, two, lower_is_better=policy.measure != "agreement")
    told = _told(policy, new, present)
    if found.verdict != "better":
        note = f"; {found.note}" if found.note else ""
        return Decision(False, f"{found.verdict}: {told} (p = {found.p:.2g}{note})")
    if _gain(policy, new, present) <= policy.margin:
        return Decision(False, f"{told} is not better by more than the margin {policy.margin:g}")
    return Decision(True, f"better: {told} (p = {found.p:.2g})")


def _smaller(policy: Champion, new: Standing, present: Standing, one: Scores, two: Scores) -> Decision:
    told = _told(policy, new, present)
    if _gain(policy, new, present) <= policy.margin:
        return Decision(False, f"{told} is not better by more than the margin {policy.margin:g}")
    judged = as_good.judge(one, two, present.figures["headline"], policy.quality_margin)
    return Decision(judged.kept, f"smaller: {told}, and {judged.text}")


def _gain(policy: Champion, new: Standing, present: Standing) -> float:
    gain = new.figures[policy.measure] - present.figures[policy.measure]
    return gain if MEASURES[policy.measure].higher else -gain


def _told(policy: Champion, new: Standing, present: Standing) -> str:
    name = policy.measure
    return f"{name} {new.figures[name]:,.5g} against {present.figures[name]:,.5g} of {present.name}"
