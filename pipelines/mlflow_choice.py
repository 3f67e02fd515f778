"""Which variant of a sweep to ship, as MLflow's lists and charts can show it: a sign, words, and a place in the order.

It is the choice of the sweep's page, made again from the same figures: MLflow only shows it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from attar.errors import AttarError
from pipelines import asked_runs, html_variants, shipping
from pipelines.asked_runs import Shown
from pipelines.best import UNKNOWN as ALIKE
from pipelines.front import rank
from pipelines.home import Home
from pipelines.html_variants import Comparison
from pipelines.signs import SIGNS

REFUSED = "refused by a gate"
UNKNOWN = "not distinguishable from the best"


@dataclass(frozen=True)
class Mark:
    """What a list says of one variant."""

    sign: str
    words: str  # ``ship``, ``worse``
    place: str  # 01 is the choice; texts of one length, so that they sort


@dataclass(frozen=True)
class Chosen:
    """What a sweep came to."""

    marks: Mapping[str, Mark] = field(default_factory=dict)  # by run
    text: str = ""  # the choice and its reasons, in Markdown


def of_sweep(home: Home, folder: Path) -> Chosen:
    """The marks of the variants that have figures; none where nothing can be read that could be compared."""
    try:
        found = html_variants.compare(asked_runs.of_sweep(home, folder), home.store)
    except AttarError:
        return Chosen()
    ranked = sorted(found.asked.runs, key=lambda one: _order(found, one))
    digits = max(2, len(str(len(ranked))))
    marks = {
        one.report.run: Mark(SIGNS[found.kind(one)], _words(found, one), f"{place:0{digits}}")
        for place, one in enumerate(ranked, start=1)
    }
    title, reasons = html_variants.headline(found)
    return Chosen(marks, "\n".join([f"**{title}**", "", *(f"- {reason}" for reason in reasons)]))


def _order(found: Comparison, one: Shown) -> tuple[bool, bool, tuple[float, int, float]]:
    """The choice, then the others by quality and size, then what is not ranked with them."""
    kind = found.kind(one)
    return kind != "chosen", kind in ("apart", "refused"), rank(one.report.final)


def _words(found: Comparison, one: Shown) -> str:
    if one is found.chosen and found.choice is not None:
        return shipping.advice(found.choice, found.unjudged).lower()
    told = found.beside(one)
    return REFUSED if not one.kept_gates else UNKNOWN if told == ALIKE else told
