"""Which model to ship: the best within limits, what cannot be told apart from it, and what no other beats."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from attar import scores
from attar.errors import BadInput
from attar.stamp import comparable
from attar.store import Store
from pipelines import as_good, asked_runs, candidates, gates, gating, task_evidence, task_measures
from pipelines.as_good import MARGIN, SCORED
from pipelines.candidates import Candidate, Group
from pipelines.front import front, rank
from pipelines.gates import MEASURES, Figure, Gate
from pipelines.home import Home

NO_SCORES = "the best has no scores per document; measure it again"
UNKNOWN = "not distinguishable"
MORE = "measure more windows (measure.windows)"
FEWER = f"{MORE}, or compare fewer models"


Figures = Mapping[str, Mapping[str, Figure]]  # measure → fingerprint → what was measured


@dataclass(frozen=True)
class Choice:
    """What may be said of the candidates of one group."""

    group: Group
    ranked: tuple[Candidate, ...]  # all of them, the best first
    breaches: dict[str, str]  # fingerprint → which limits, or gates of its recipe, it does not keep
    winner: Candidate
    alike: tuple[Candidate, ...]  # within the limits, no larger than the winner and not distinguishable from it
    smallest: Candidate  # of the winner and those as good
    front: tuple[Candidate, ...]  # of all that no gate refused
    others: tuple[Group, ...] = ()  # which are not comparable with these
    as_good: tuple[Candidate, ...] = ()  # smaller than the winner, and within the margin of its headline beyond doubt
    margin: float = MARGIN
    few: str | None = None  # why nobody can tell the models apart
    blind: str | None = None  # why of no smaller one it can be shown that it is as good
    unscored: tuple[Candidate, ...] = ()  # within the limits, without scores that could be compared with the winner's
    larger: tuple[Candidate, ...] = ()  # than the winner, within the limits and not distinguishable from it
    asked: tuple[Gate, ...] = ()  # the limits
    unasked: tuple[tuple[str, int], ...] = ()  # tasks that limits are on, and of how many there is no figure
    limited: Figures = field(default_factory=dict)  # what was held against the limits
    variants: Mapping[str, str] = field(default_factory=dict)  # run of a sweep → what is varied in it, in words

    @property
    def fitting(self) -> list[Candidate]:
        return [one for one in self.ranked if one.row.fingerprint not in self.breaches]

    @property
    def outside(self) -> list[Candidate]:
        """Those that do not keep the limits, whatever gates say of them."""
        return [one for one in self.ranked if self.breaches.get(one.row.fingerprint, one.refused) != one.refused]

    @property
    def listed(self) -> list[Candidate]:
        """Those within the limits that may be chosen, then those that gates refuse."""
        outside = {one.row.fingerprint for one in self.outside}
        within = [one for one in self.ranked if one.row.fingerprint not in outside]
        return sorted(within, key=lambda one: bool(one.refused))

    @property
    def last(self) -> list[Candidate]:
        """Of those within the limits the last of their runs that are here."""
        steps: dict[str, int] = {}
        for one in self.ranked:
            steps[one.run] = max(one.row.step, steps.get(one.run, 0))
        return [one for one in self.fitting if one.run and one.row.step == steps[one.run]]

    @property
    def equals(self) -> int:
        """How many within the limits retain what the winner does, itself among them."""
        return sum(one.retained == self.winner.retained for one in self.fitting)

    def label(self, one: Candidate) -> str:
        """``quantize.gptq of run 20260101-120000-mine-07 (temp 4, width→rtn)``."""
        told = self.variants.get(one.run)
        return f"{one.label} ({told})" if told else one.label

    def as_json(self) -> dict[str, Any]:
        on_front = {one.row.fingerprint for one in self.front}
        entries = [
            {
                "recipe": one.recipe,
                "run": one.run,
                "variant": self.variants.get(one.run),
                "fits": one.row.fingerprint not in self.breaches,
                "why_not": self.breaches.get(one.row.fingerprint),
                "front": one.row.fingerprint in on_front,
                **asdict(one.row),
            }
            for one in self.ranked
        ]
        return {
            "group": self.group.label,
            "winner": self.winner.row.fingerprint,
            "not_distinguishable": [one.row.fingerprint for one in (*self.alike, *self.larger)],
            "not_compared": [one.row.fingerprint for one in self.unscored],
            "as_good": [one.row.fingerprint for one in self.as_good],
            "margin": self.margin,
            "smallest": self.smallest.row.fingerprint,
            "note": self.few or self.blind,
            "front": [one.row.fingerprint for one in self.front],
            "candidates": entries,
            "not_comparable": [
                {"group": other.label, "models": len(other.candidates), "recipes": sorted(other.recipes)}
                for other in self.others
            ],
        }


def limits(max_bytes: str | None, least: Sequence[str] = (), most: Sequence[str] = ()) -> tuple[Gate, ...]:
    """Limits as the command line writes them: ``60MB``, ``headline=0.9``, ``decode=1.5×``, ``kl=0.3``."""
    given = [("--max-bytes", "max", "bytes", "=", max_bytes)] if max_bytes is not None else []
    given += [("--min", "min", *text.partition("=")) for text in least]
    given += [("--max", "max", *text.partition("=")) for text in most]
    found: list[Gate] = []
    for option, side, name, equals, value in given:
        text = value if option == "--max-bytes" else f"{name}{equals}{value}"
        if not value.strip():
            example = "headline=0.9" if side == "min" else "kl=0.3"
            form = (
                "a size, such as 60MB" if option == "--max-bytes" else f"of the form MEASURE=LIMIT, such as {example}"
            )
            raise BadInput(f"{option} {text!r} is not {form}")
        try:
            found += gates.parse([{"measure": name.strip(), side: value.strip()}])
        except BadInput as error:
            told = str(error).removeprefix("gates.0: ")
            short = told.removeprefix(f"{side}={value.strip()!r} ")  # what was written is said already
            raise BadInput(f"{option} {text}{': ' if short == told else ' '}{short}") from None
    return tuple(found)


def choose(home: Home, asked: Sequence[Gate] = (), recipe: str | None = None, margin: float = MARGIN) -> Choice:
    """The best of what was ever measured in a home.

    The winner keeps every limit, is refused by no gate, see :mod:`pipelines.candidates`, and has the highest retained
    quality; of equals, such as all that keep everything, it is the smallest, and of equal sizes the one of the lowest
    perplexity. It is compared with all others within the limits in pairs over documents; all pairs are tested together,
    so that of equal models one is called worse in 5 of 100 homes at most, see :func:`attar.statistics.apart`. A smaller
    one is offered in its place only if it is as good beyond doubt, see :mod:`pipelines.as_good`.

    Raises:
        BadInput: nothing was measured, or no model keeps the limits and its gates.
    """
    groups, sweeps = candidates.read(home), asked_runs.sweeps(home)
    tasks = _tasks(asked)  # of all groups, the newest that was asked them is meant
    able = [one for one in groups if all(any(gating.has(task, c.row) for c in one.candidates) for task in tasks)]
    group = candidates.of_recipe(groups if recipe else able or groups, recipe, sweeps)
    found = among(group, tuple(other for other in groups if other is not group), home.store, asked, margin)
    return replace(found, variants={run: told for runs in sweeps.values() for run, told in runs.items()})


def among(
    group: Group, others: tuple[Group, ...], store: Store, asked: Sequence[Gate] = (), margin: float = MARGIN
) -> Choice:
    """The same of one group, beside others that are not ranked with it."""
    ranked = sorted(group.candidates, key=lambda one: rank(one.row))
    unasked = _unasked(ranked, asked)
    limited = {
        name: {one.row.fingerprint: gating.figure(name, one.row, one.origin, store) for one in ranked}
        for name in dict.fromkeys(gate.measure for gate in asked)
    }
    judged = {
        one.row.fingerprint: [*_breached(one, group, asked, limited), *filter(None, [one.refused])] for one in ranked
    }
    breaches = {name: "; ".join(texts) for name, texts in judged.items() if texts}
    fitting = [one for one in ranked if one.row.fingerprint not in breaches]
    if not fitting:
        nearest = min(ranked, key=lambda one: (_distance(one, asked, limited), bool(one.refused)))
        rules = ", ".join(gate.rule for gate in asked)
        gated = "the gates of its recipe" if any(one.refused for one in ranked) else ""
        wanted = " and ".join(filter(None, [rules, gated]))
        raise BadInput(
            f"none of the {len(ranked)} models made of {group.label} keeps {wanted}; the nearest is {nearest.label}: "
            f"{breaches[nearest.row.fingerprint]}; its folder is {nearest.row.folder}"
        )
    winner, *rest = fitting
    best = _scored(winner, store)
    found = [(one, _scored(one, store)) for one in rest]
    # One that was scored on other items is left out by itself: it must not take the choice among the others away.
    pairs = [(one, other) for one, other in found if best and other and other.pairs_with(best)]
    paired = {one.row.fingerprint for one, _ in pairs}
    unscored = tuple(one for one in rest if one.row.fingerprint not in paired)
    alike, few = ((), NO_SCORES) if best is None else _alike(best, pairs)
    equals, blind = ((), None) if few or best is None else _as_good(winner, best, pairs, margin)
    smallest = min((winner, *equals), key=lambda one: one.bytes)
    unbeaten = tuple(front([one for one in ranked if not one.refused]))
    larger = tuple(one for one in alike if one.bytes > winner.bytes)
    alike = tuple(one for one in alike if one.bytes <= winner.bytes)
    return Choice(
        group, tuple(ranked), breaches, winner, alike, smallest, unbeaten, others, equals, margin, few, blind, unscored,
        larger, tuple(asked), unasked, limited,
    )  # fmt: skip


def _tasks(asked: Sequence[Gate]) -> list[str]:
    """The measures of tasks among limits."""
    return list(dict.fromkeys(gate.measure for gate in asked if gate.measure.startswith(task_measures.PREFIX)))


def _unasked(ranked: Sequence[Candidate], asked: Sequence[Gate]) -> tuple[tuple[str, int], ...]:
    """Measures of tasks, and how many models were not asked them; one that no model was asked is refused."""
    found = []
    for name in _tasks(asked):
        absent = [one.row for one in ranked if not gating.has(name, one.row)]
        if len(absent) == len(ranked):
            known = sorted({task for row in absent for task in task_evidence.tasks_of(row)})
            raise BadInput(task_measures.unknown(name, known, task_evidence.absent(name, absent[0])))
        found += [(name, len(absent))] if absent else []
    return tuple(found)


def _breached(one: Candidate, group: Group, asked: Sequence[Gate], limited: Figures) -> list[str]:
    """Sentences about the limits that a candidate does not keep."""
    told = []
    for gate in asked:
        # What the newest was held to decides: not the speed of another machine, nor other questions of the same name.
        task = gate.measure.removeprefix(task_measures.PREFIX)
        if (MEASURES[gate.measure].timed or task != gate.measure) and gating.has(gate.measure, one.row):
            newest = next((c.result for c in group.candidates if gating.has(gate.measure, c.row)), one.result)
            if why := comparable(newest, one.result, task):
                told.append(why)
                continue
        judged = gates.judge(gate, limited[gate.measure][one.row.fingerprint])
        if not judged.kept:
            told.append(judged.text)
    return told


def _distance(one: Candidate, asked: Sequence[Gate], limited: Figures) -> float:
    """How far a candidate is from keeping the limits: the shares of them that it lacks, summed."""
    total = 0.0
    for gate in asked:
        held = gates.held(gate, limited[gate.measure][one.row.fingerprint])
        if held is None:
            return float("inf")
        total += max(0.0, held.lacking) / (abs(held.bar) or 1.0)
    return total


Pairs = Sequence[tuple[Candidate, scores.Scores]]


def _alike(best: scores.Scores, rest: Pairs) -> tuple[tuple[Candidate, ...], str | None]:
    """Those that a paired comparison does not tell apart from the winner, whose scores are ``best``.

    None, and why, where documents are too few to tell any two models apart. Which one is the winner was seen in the
    same scores, so every pair is tested, and those with the winner are looked at.
    """
    from attar import statistics  # numpy, which the command line does without until there is something to compare

    if (documents := len(best.ids)) < statistics.FEWEST:
        told = "1 document was" if documents == 1 else f"{documents} documents were"
        return (), f"{told} measured, and at least {statistics.FEWEST} are needed; {MORE}"
    together = statistics.apart([best, *(other for _, other in rest)])[0, 1:]
    return tuple(
        one
        for (one, other), p in zip(rest, together, strict=True)
        if p >= statistics.LEVEL or statistics.difference(other, best).verdict == UNKNOWN
    ), None


def _as_good(
    winner: Candidate, best: scores.Scores, rest: Pairs, margin: float
) -> tuple[tuple[Candidate, ...], str | None]:
    """The smaller ones that lose less than the margin against the winner, all judged together.

    None, and why, where of so many at once that could be shown of none.
    """
    from attar import statistics

    smaller = [(one, found) for one, found in rest if one.bytes < winner.bytes]
    count, documents = len(smaller), len(best.ids)
    needed = statistics.fewest_bounded(count) if smaller else 0
    if needed is None or documents < needed:
        enough = "" if needed is None else f", for which {needed} are needed"
        told = f"{documents} documents cannot show of any of {count} smaller models, judged at once{enough}, that it"
        return (), f"{told} is as good; {FEWER}"
    found = (one for one, scored in smaller if as_good.judge(scored, best, winner.retained, margin, count).kept)
    return tuple(found), None


def _scored(one: Candidate, store: Store) -> scores.Scores | None:
    return scores.load(store.folder("evaluation", one.row.evaluation)).get(SCORED)
