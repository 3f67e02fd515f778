"""Several runs in the HTML report: the Pareto plot, the table of variants, and what each swept setting did."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from attar import scores, stamp
from attar.scores import Scores
from attar.store import Store
from pipelines import best, candidates, findings, shipping
from pipelines.as_good import SCORED
from pipelines.asked_runs import Asked, Shown
from pipelines.best import Choice
from pipelines.candidates import Candidate, Group
from pipelines.findings import Finding
from pipelines.front import rank
from pipelines.html_page import Child, element, note
from pipelines.html_plots import Point, pareto
from pipelines.html_strips import Dot, scatter, strip
from pipelines.report import COLUMNS, interval
from pipelines.signs import SIGNS, Kind, legend

if TYPE_CHECKING:
    from attar.statistics import Comparison as Pair

FIGURES = ("size", "ratio", "retained\nquality", "KL\nnats", "agree-\nment", "decode\ntok/s")
COLUMNS_MOST = 12  # values of a setting that stand in columns


@dataclass(frozen=True)
class Comparison:
    """Some runs beside each other, and the choice among those that may be chosen."""

    asked: Asked
    choice: Choice | None
    findings: tuple[Finding, ...] = ()
    pairs: "Mapping[str, Pair]" = field(default_factory=dict)  # fingerprint → what it keeps of the best's quality
    unequal: int = 0  # variants that findings leave out: gates changed more in them than the sweep did

    groups: tuple[Group, ...] = ()  # of which none is the largest, where there is no choice for that

    @property
    def apart(self) -> list[str]:
        """Sentences about runs that were measured otherwise than the first."""
        groups = (self.choice.group, *self.choice.others) if self.choice else self.groups
        found = []
        for other in groups[1:]:
            ones = (groups[0].candidates, other.candidates)
            these, those = (", ".join(map(self.tag, some)) for some in ones)
            differ = stamp.differences(ones[0][0].result, ones[1][0].result, "headline")
            found.append(f"{these} and {those} were measured differently: {', '.join(differ)}.")
        return found

    @property
    def chosen(self) -> Shown | None:
        """The run to ship."""
        if self.choice is None:
            return None
        return next(one for one in self.asked.runs if one.report.run == self.choice.smallest.run)

    @property
    def unjudged(self) -> str | None:
        """Why nobody can say that the one to ship is good enough."""
        return shipping.unjudged(self.chosen) if self.chosen else None

    @property
    def verdicts(self) -> dict[str, str]:
        """What the paired tests say of each model beside the best, by fingerprint; of some there are none."""
        if self.choice is None or self.choice.few:
            return {}
        alike = {found.row.fingerprint for found in (*self.choice.alike, *self.choice.larger)}
        return {name: best.UNKNOWN if name in alike else pair.verdict for name, pair in self.pairs.items()}

    def name(self, one: Candidate) -> str:
        return next(run.name for run in self.asked.runs if run.report.run == one.run)

    def tag(self, one: Candidate) -> str:
        return next(run.tag for run in self.asked.runs if run.report.run == one.run)

    def kind(self, one: Shown) -> Kind:
        if not one.kept_gates:
            return "refused"
        if one is self.chosen:
            return "chosen"
        if not self.is_ranked(one):
            return "apart"
        front = {found.row.fingerprint for found in self.choice.front} if self.choice else set()
        if one.report.final.fingerprint in front:
            return "on-front"
        return "alike" if self.beside(one) == best.UNKNOWN else "behind"

    def beside(self, one: Shown) -> str:
        """What may be said of a run beside the one that keeps most."""
        name = one.report.final.fingerprint
        if not one.kept_gates:
            return "a gate was not kept"
        if one.ended:
            return one.ended
        if self.choice is None or not self.is_ranked(one):
            return "not comparable"
        if name == self.choice.winner.row.fingerprint:
            return "keeps most"
        if self.choice.few:
            return "nobody can tell"
        verdict = self.verdicts.get(name, "not compared")
        return "better, but larger" if verdict == "better" else verdict

    def is_ranked(self, one: Shown) -> bool:
        """Whether it could have been chosen."""
        if self.choice is None or not may_be_chosen(one):
            return False
        return one.report.final.fingerprint in {found.row.fingerprint for found in self.choice.ranked}


def compare(asked: Asked, store: Store) -> Comparison:
    """Choose among the runs that finished and kept their gates; there is no choice where nothing may be ranked."""
    groups = candidates.of_runs([one.report for one in asked.runs if may_be_chosen(one)], store)
    if not groups:
        return Comparison(asked, None)
    if len(groups) > 1 and len(groups[0].candidates) == len(groups[1].candidates):
        return Comparison(asked, None, groups=tuple(groups))
    choice = best.among(groups[0], tuple(groups[1:]), store)
    unequal = sum(bool(one.changed) for one in asked.runs) if asked.is_sweep else 0
    return Comparison(asked, choice, _findings(asked, choice, store), _pairs(choice, store), unequal)


def may_be_chosen(one: Shown) -> bool:
    """Whether a run came to its end, and no gate has stopped it."""
    return one.kept_gates and not one.ended


def headline(found: Comparison) -> tuple[str, list[str]]:
    """The recommendation and its reasons."""
    if found.groups:
        why = "What was measured differently cannot be ranked; measure all with the same settings under measure."
        return f"{found.asked.name}: measured differently, so none is the best of them", [*found.apart, why]
    if found.choice is None or found.chosen is None:
        return f"{found.asked.name}: no model here may be chosen", [
            "Gates were not kept, the runs have not finished, or the measurements are gone or were taken before "
            "results could be compared."
        ]
    reasons = found.apart + shipping.reasons(found.choice, found.tag, found.unjudged, found.verdicts)
    reasons += [f"{one.sentence}." for one in found.findings]
    reasons += [_left_out(found.unequal)] if found.unequal else []
    if found.choice.others:
        count = sum(len(other.candidates) for other in found.choice.others)
        reasons.append(f"{count} measured otherwise are not ranked with these.")
    return shipping.headline(found.choice, found.name, found.unjudged), reasons


def plot(found: Comparison) -> list[Child]:
    """All variants and the origin, and how to read that."""
    runs = found.asked.runs
    origin = found.choice.winner.origin if found.choice else runs[0].report.rows[0]
    points = [
        Point(
            "origin",
            origin.bytes,
            origin.compression_ratio,
            origin.retained,
            None,
            None,
            "origin",
            f"origin, {origin.bytes / 1e6:.1f} MB",
        )
    ]
    for one in runs:
        row = one.report.final
        bounds = (row.retained_low, row.retained_high)
        points.append(
            Point(one.tag, row.bytes, row.compression_ratio, row.retained, *bounds, found.kind(one), _hint(one))
        )
    return [
        pareto(points),
        note(
            "Bars are 95 % intervals against the origin, over documents; models of one size stand side by side, the "
            "best at the left. Variants are compared with each other in pairs over the same documents, which tells "
            "more apart than bars that overlap suggest. One training each; intervals are over documents, so another "
            "seed may order close values otherwise."
        ),
    ]


def variants(found: Comparison) -> list[Child]:
    """A row a variant: the front first, the best of it on top; then the others. What all share is said once, below."""
    others: tuple[Kind, ...] = ("alike", "behind", "apart", "refused")
    ranked = sorted(
        found.asked.runs,
        key=lambda one: (
            found.kind(one) in others,
            found.kind(one) in ("apart", "refused"),
            rank(one.report.final),
        ),
    )
    rows, texts = [one.report.final for one in ranked], dict(COLUMNS)
    columns: list[tuple[str, list[str]]] = [("", [SIGNS[found.kind(one)] for one in ranked])]
    columns.append(("variant", [one.tag for one in ranked]))
    for setting in dict.fromkeys(name for one in ranked for name in one.values):
        columns.append((setting, [one.values.get(setting, "–") for one in ranked]))
    columns += [(name, [texts[name](row) for row in rows]) for name in FIGURES]
    columns.append(("against\nthe origin", [row.verdict or row.note or "–" for row in rows]))
    columns.append(("against\nthe best", [found.beside(one) for one in ranked]))
    columns.append(("difference to it\nin points, paired", [_difference(found, one) for one in ranked]))
    shared = [(_flat(name), cells[0]) for name, cells in columns[2:] if len(rows) > 1 and len(set(cells)) == 1]
    kept = [(name, cells) for name, cells in columns if (_flat(name), cells[0]) not in shared]
    lines = []
    for place, one in enumerate(ranked):
        kind = found.kind(one)
        line = [element("td", cells[place], class_="n" if name in FIGURES else None) for name, cells in kept]
        lines.append(element("tr", line, class_=kind if kind in ("chosen", "apart", "refused") else None))
    head = [element("th", _broken(name), class_="n" if name in FIGURES else None) for name, _ in kept]
    drawn = element("table", element("thead", element("tr", head)), element("tbody", lines), class_="figures")
    told = "; ".join(f"{name} {text}" for name, text in shared if text != "–")
    below = [f"{legend(found.kind(one) for one in ranked)}.", *([f"The same for all: {told}."] if told else [])]
    return [element("div", drawn, class_="wide"), *map(note, below)]


def failures(asked: Asked) -> list[Child]:
    """Which variants their gates stopped or changed, which have no figures, and why."""
    told: list[Child] = []
    for heading, texts in (
        ("Stopped by their gates:", [f"{one.name} {one.report.stopped}" for one in asked.runs if not one.kept_gates]),
        (
            "Changed by their gates, beside what the columns say:",
            [f"{one.name} {one.changed}" for one in asked.runs if one.changed and asked.is_sweep],
        ),
        ("Without figures:", asked.failures),
    ):
        if texts:
            told += [element("p", heading), element("ul", (element("li", text) for text in texts))]
    return told


def settings(found: Comparison) -> list[Child]:
    """A strip for each setting that took more than one value, the one that matters most first."""
    runs = [one for one in found.asked.runs if not one.changed]
    names = [name for name in (runs[0].values if runs else ()) if len({one.values.get(name) for one in runs}) > 1]
    by_name = {one.setting: one for one in found.findings}
    names = names if found.asked.is_sweep else []
    names.sort(
        key=lambda name: -max((one.behind for one in by_name[name].levels), default=0.0) if name in by_name else 1.0
    )
    dots = [Dot(one.tag, one.values, one.report.final.retained, found.kind(one), _hint(one)) for one in runs]
    drawn: list[Child] = []
    for name in names:
        values = {one.values.get(name, "") for one in runs}
        if len(values) <= COLUMNS_MOST:
            drawn += [element("h3", name), strip(name, dots, by_name.get(name))]
        elif all(map(_is_number, values)):
            drawn += [element("h3", name), scatter(name, dots)]
        if name in by_name:
            drawn.append(element("p", f"{by_name[name].sentence}."))
    if drawn:
        drawn.append(
            note(
                "Blue: the mean of a value's variants, with its 95 % interval against the origin. Values are compared "
                "in pairs over the same documents, all other settings being equal (sign-flip test, all pairs at once), "
                "which sees smaller differences than the bars; points are of retained quality, lost against the value "
                "that keeps most. One training each; intervals are over documents, so another seed may order close "
                "values otherwise."
            )
        )
        drawn += [note(_left_out(found.unequal))] if found.unequal else []
    return drawn


def _left_out(count: int) -> str:
    which = "One variant is" if count == 1 else f"{count} variants are"
    return f"{which} left out of what the settings did: a gate changed more there than the sweep did."


def _findings(asked: Asked, choice: Choice, store: Store) -> tuple[Finding, ...]:
    ranked = {one.row.fingerprint for one in choice.ranked}
    origin = _losses(choice.winner.origin.evaluation, store)
    variants = [
        findings.Scored(one.values, losses)
        for one in asked.runs
        if may_be_chosen(one)
        and not one.changed
        and one.report.final.fingerprint in ranked
        and (losses := _losses(one.report.final.evaluation, store)) is not None
        and origin is not None
        and losses.pairs_with(origin)
    ]
    if not asked.is_sweep or origin is None or len(variants) < 2:
        return ()
    return findings.find(variants, origin)


def _pairs(choice: Choice, store: Store) -> "dict[str, Pair]":
    """How much of the best's quality each model keeps, by the paired comparison; of those that have losses to pair."""
    from attar import statistics  # numpy, which the command line does without until there is something to compare

    base = _losses(choice.winner.row.evaluation, store)
    scored = {
        one.row.fingerprint: _losses(one.row.evaluation, store) for one in choice.ranked if one is not choice.winner
    }
    return {
        name: statistics.perplexity_retained(losses, base)
        for name, losses in scored.items()
        if base is not None and losses is not None and losses.pairs_with(base)
    }


def _difference(found: Comparison, one: Shown) -> str:
    """Points of the headline between a run and the best, with the interval of the paired comparison, unless of few.

    They are those of the column of retained quality, which ends at 100 %: value and interval do so after the share is
    taken of all that the best keeps, or they would not be of one difference.
    """
    pair = found.pairs.get(one.report.final.fingerprint) if found.is_ranked(one) else None
    if pair is None or found.choice is None:
        return "–"
    best = found.choice.winner
    most = best.retained if best.retained < 1 else max(1.0, best.origin.perplexity_other / best.row.perplexity_other)
    points = [100 * (min(1.0, most * end) - min(1.0, most)) for end in (pair.value, pair.low, pair.high)]
    text = "{:+.1f} ({:+.1f} to {:+.1f})" if pair.note is None else "{:+.1f}"
    return text.format(*points).replace("-", "−")


def _losses(evaluation: str, store: Store) -> Scores | None:
    """Losses per document."""
    return scores.load(store.folder("evaluation", evaluation)).get(SCORED)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _broken(heading: str) -> str:
    return heading.replace("-\n", "")


def _flat(heading: str) -> str:
    return _broken(heading).replace("\n", " ")


def _hint(one: Shown) -> str:
    row = one.report.final
    return f"{one.name}: {row.compression_ratio:.2f}×, {row.bytes / 1e6:.1f} MB, retained {interval(row)}"
