"""Which model to ship: the best within limits, what cannot be told apart from it, and what no other beats."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from attar import scores
from attar.errors import BadInput
from attar.stamp import comparable
from attar.store import Store
from pipelines import as_good, candidates, gates, gating
from pipelines.as_good import MARGIN, SCORED
from pipelines.candidates import Candidate, Group
from pipelines.front import front
from pipelines.gates import MEASURES, Figure, Gate
from pipelines.home import Home
from pipelines.report import COLUMNS

SHOWN = ("size", "retained\nquality", "KL\nnats", "decode\ntok/s")  # of the report's columns


@dataclass(frozen=True)
class Choice:
    """What may be said of the candidates of one group."""

    group: Group
    ranked: tuple[Candidate, ...]  # all of them, the best first
    breaches: dict[str, str]  # fingerprint → which limits it does not keep
    winner: Candidate
    alike: tuple[Candidate, ...]  # within the limits, and not distinguishable from the winner
    smallest: Candidate  # of the winner and those as good
    front: tuple[Candidate, ...]  # of all
    others: tuple[Group, ...] = ()  # which are not comparable with these
    as_good: tuple[Candidate, ...] = ()  # smaller than the winner, and within the margin of its headline beyond doubt
    margin: float = MARGIN
    few: str | None = None  # why nobody can tell the models apart

    def as_json(self) -> dict[str, Any]:
        on_front = {one.row.fingerprint for one in self.front}
        entries = [
            {
                "recipe": one.recipe,
                "run": one.run,
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
            "not_distinguishable": [one.row.fingerprint for one in self.alike],
            "as_good": [one.row.fingerprint for one in self.as_good],
            "margin": self.margin,
            "smallest": self.smallest.row.fingerprint,
            "note": self.few,
            "front": [one.row.fingerprint for one in self.front],
            "candidates": entries,
            "not_comparable": [
                {"group": other.label, "models": len(other.candidates), "recipes": sorted(other.recipes)}
                for other in self.others
            ],
        }


def limits(max_bytes: str | None, least: Sequence[str] = (), most: Sequence[str] = ()) -> tuple[Gate, ...]:
    """Limits as the command line writes them: ``60MB``, ``headline=0.9``, ``decode=1.5×``, ``kl=0.3``."""
    given = [("--max-bytes", "max", f"bytes={max_bytes}")] if max_bytes is not None else []
    given += [("--min", "min", text) for text in least] + [("--max", "max", text) for text in most]
    found: list[Gate] = []
    for option, side, text in given:
        name, equals, value = text.partition("=")
        if not equals or not value.strip():
            raise BadInput(f"{option} {text!r} is not of the form MEASURE=LIMIT, such as {side} headline=0.9 or kl=0.3")
        try:
            found += gates.parse([{"measure": name.strip(), side: value.strip()}])
        except BadInput as error:
            raise BadInput(f"{option} {text}: {str(error).removeprefix('gates.0: ')}") from None
    return tuple(found)


def choose(home: Home, asked: Sequence[Gate] = (), recipe: str | None = None, margin: float = MARGIN) -> Choice:
    """The best of what was ever measured in a home.

    The winner keeps every limit and has the highest retained quality, the smaller one of equals. It is compared with
    all others within the limits in pairs over documents; together they err no more often than one test may (Holm). A
    smaller one is offered in its place only if it is as good beyond doubt, see :mod:`pipelines.as_good`.

    Raises:
        BadInput: nothing was measured, or no model keeps the limits.
    """
    groups = candidates.read(home)
    group = candidates.of_recipe(groups, recipe)
    return among(group, tuple(other for other in groups if other is not group), home.store, asked, margin)


def among(
    group: Group, others: tuple[Group, ...], store: Store, asked: Sequence[Gate] = (), margin: float = MARGIN
) -> Choice:
    """The same of one group, beside others that are not ranked with it."""
    ranked = sorted(group.candidates, key=lambda one: (-one.retained, one.bytes))
    judged = {one.row.fingerprint: _breached(one, group, asked, store) for one in ranked}
    breaches = {name: "; ".join(texts) for name, texts in judged.items() if texts}
    fitting = [one for one in ranked if one.row.fingerprint not in breaches]
    if not fitting:
        nearest = min(ranked, key=lambda one: _distance(one, asked, store))
        rules = ", ".join(gate.rule for gate in asked)
        raise BadInput(
            f"none of the {len(ranked)} models made of {group.label} keeps {rules}; the nearest is {nearest.label}: "
            f"{breaches[nearest.row.fingerprint]}; its folder is {nearest.row.folder}"
        )
    winner, *rest = fitting
    alike, few = _alike(winner, rest, store)
    equals = () if few else _as_good(winner, rest, margin, store)
    smallest = min((winner, *equals), key=lambda one: one.bytes)
    return Choice(
        group, tuple(ranked), breaches, winner, alike, smallest, tuple(front(ranked)), others, equals, margin, few
    )


def show(console: Console, choice: Choice) -> None:
    """All candidates, the best first; then what to take. Where they came from stands beside or, if narrow, below."""
    wide = console if console.is_terminal else Console(file=console.file, width=240)
    table = _table(choice, beside=True)
    needed = wide.measure(table, options=wide.options.update(width=1000)).maximum
    wide.print(table if needed <= wide.width else _table(choice, beside=False))
    for line in _sentences(choice):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _table(choice: Choice, beside: bool) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=choice.group.label, title_justify="left")
    texts = dict(COLUMNS)
    for heading in ("", "model", *SHOWN, *(("recipe", "run", "fingerprint") if beside else ())):
        table.add_column(heading, justify="right" if heading in SHOWN else "left", no_wrap=True)
    on_front = {one.row.fingerprint for one in choice.front}
    alike = {one.row.fingerprint for one in choice.alike}
    for one in choice.ranked:
        name = one.row.fingerprint
        mark = ("★" if name in on_front else "") + ("≈" if name in alike else "")
        style = "bold" if one is choice.winner else "dim" if name in choice.breaches else ""
        source = [one.recipe or "–", one.run or "–", name]
        model = Text(one.row.name if beside else "\n".join([one.row.name, *filter(None, (one.run, name))]))
        table.add_row(mark, model, *(texts[heading](one.row) for heading in SHOWN), *source[: 3 * beside], style=style)
    return table


def _sentences(choice: Choice) -> list[str]:
    winner, smallest = choice.winner, choice.smallest
    within = f", within the limits ({len(choice.breaches)} are not)" if choice.breaches else ""
    told = [f"best{within}: {winner.label}, in {winner.row.folder}"]
    if choice.few:
        told.append(f"{choice.few}; so no smaller one is offered in its place")
    elif choice.alike:
        names = ", ".join(one.label for one in choice.alike)
        told.append(f"≈ not distinguishable from it (paired over documents, Holm's correction): {names}")
    points = f"{100 * choice.margin:g} {'point' if choice.margin == MARGIN else 'points'} of headline"
    if smallest is not winner:
        told.append(
            f"the smallest that loses less than {points} against it beyond doubt: {smallest.label}, "
            f"{smallest.bytes / 1e6:.1f} MB, in {smallest.row.folder}"
        )
    elif not choice.few and any(one.bytes < winner.bytes for one in choice.alike):
        told.append(f"of no smaller one it is beyond doubt that it loses less than {points} against it (--margin)")
    told.append("★ no other is smaller and better; a model's folder is store/model/FINGERPRINT in the home")
    if choice.others:
        other = choice.others[0]
        known = sorted({name for found in choice.others for name in found.recipes})
        count = sum(len(found.candidates) for found in choice.others)
        chosen = f"; --recipe chooses: {', '.join(known[:8])}" if known else ""
        told.append(f"not ranked with these: {count} measured otherwise, such as those of {other.label}{chosen}")
    return told


def _breached(one: Candidate, group: Group, asked: Sequence[Gate], store: Store) -> list[str]:
    """Sentences about the limits that a candidate does not keep."""
    told = []
    for gate in asked:
        newest = next((c.result for c in group.candidates if _figure(c, gate, store).value is not None), one.result)
        if MEASURES[gate.measure].timed and (why := comparable(newest, one.result, gate.measure)):
            told.append(why)
            continue
        judged = gates.judge(gate, _figure(one, gate, store))
        if not judged.kept:
            told.append(judged.text)
    return told


def _distance(one: Candidate, asked: Sequence[Gate], store: Store) -> float:
    """How far a candidate is from keeping the limits: the shares of them that it lacks, summed."""
    total = 0.0
    for gate in asked:
        figure, higher = _figure(one, gate, store), MEASURES[gate.measure].higher
        bar, relative = gates.limit(gate)
        end = figure.low if higher else figure.high
        value = figure.value if end is None or gate.bound == "value" else end
        if value is None or (relative and not figure.origin):
            return float("inf")
        bar *= figure.origin or 1.0 if relative else 1.0
        lacking = bar - value if higher else value - bar
        total += max(0.0, lacking) / (abs(bar) or 1.0)
    return total


def _figure(one: Candidate, gate: Gate, store: Store) -> Figure:
    return gating.figure(gate.measure, one.row, one.origin, store)


Alike = tuple[tuple[Candidate, ...], str | None]


def _alike(winner: Candidate, rest: Sequence[Candidate], store: Store) -> Alike:
    """Those that a paired comparison does not tell apart from the winner, or that have no scores to compare.

    None, and why, where no comparison of so many could tell any two models apart.
    """
    from attar import statistics  # numpy, which the command line does without until there is something to compare

    best, others = _scored(winner, store), [_scored(one, store) for one in rest]
    found = [statistics.difference(other, best) if other and best else None for other in others]
    count = sum(pair is not None for pair in found)
    if best and count:
        documents, needed = len(best.ids), statistics.fewest(count)
        if needed is None:
            return (), f"too many models to tell them apart ({count} comparisons at once); narrow them by limits"
        if documents < needed:
            told = f"too few documents to tell them apart ({documents}; at least {needed} needed"
            return (), f"{told} for {count} {'comparison' if count == 1 else 'comparisons'})"
    held = statistics.holm([1.0 if pair is None else pair.p for pair in found])
    alike = tuple(
        one
        for one, pair, told in zip(rest, found, held, strict=True)
        if pair is None or not told or pair.verdict == "not distinguishable"
    )
    return alike, None


def _as_good(winner: Candidate, rest: Sequence[Candidate], margin: float, store: Store) -> tuple[Candidate, ...]:
    """The smaller ones that lose less than the margin against the winner, all judged together."""
    best = _scored(winner, store)
    pairs = [(one, _scored(one, store)) for one in rest if one.bytes < winner.bytes]
    scored = [(one, found) for one, found in pairs if found is not None]
    if best is None:
        return ()
    headline, tests = winner.retained, len(scored)
    return tuple(one for one, found in scored if as_good.judge(found, best, headline, margin, tests).kept)


def _scored(one: Candidate, store: Store) -> scores.Scores | None:
    return scores.load(store.folder("evaluation", one.row.evaluation)).get(SCORED)
