"""Which of some runs' models to ship and why, in sentences; the choice itself is that of ``attar best``."""

from collections.abc import Callable, Mapping, Sequence

from pipelines.asked_runs import Shown
from pipelines.best import Choice
from pipelines.candidates import Candidate
from pipelines.report import Row, interval, told

Name = Callable[[Candidate], str]
MOST = 14  # names in a sentence
SHIP = "Ship"


def headline(choice: Choice, name: Name, unjudged: str | None) -> str:
    """``Ship 07 (temperature 4): 2.46× smaller than the origin in bf16 (…), keeps 66.1 % (63.0–68.4) of its quality``.

    What is ``unjudged`` is no more than the best of these, and what nobody can tell apart no more than that by value.
    """
    title = advice(choice, unjudged)
    title += "" if title == SHIP else ":"
    return f"{title} {name(choice.smallest)}: {came_to(choice.smallest.row)}"


def advice(choice: Choice, unjudged: str | None) -> str:
    """How much may be said of the choice."""
    if choice.few:
        return "Best by its value alone"
    if choice.others:
        return f"Best of the {len(choice.ranked)} measured alike"
    return "Best of these" if unjudged else SHIP


def reasons(choice: Choice, name: Name, unjudged: str | None, verdicts: Mapping[str, str]) -> list[str]:
    """Why that one, what is as good, what is worse beyond doubt, and what else there is to choose.

    ``verdicts`` are those of the models, by fingerprint, beside the winner: of the paired tests that ``choice`` asked.
    """
    ship, winner = choice.smallest, choice.winner
    count = len(choice.ranked) - len(choice.breaches)
    found = [f"Nothing here is beyond doubt: {choice.few}."] if choice.few else []
    found += [unjudged] if unjudged else []
    if ship is winner:
        most = f"It keeps the most of {count} models, the last of each run."
        found.append(most if count > 1 else "It is the only one to choose from.")
    else:
        found.append(
            f"{_capital(name(winner))} keeps more, {interval(winner.row)}, at {_mb(winner.row)}; this one is the "
            f"smallest that loses less than {100 * choice.margin:g} {'point' if choice.margin == 0.01 else 'points'} "
            "against it beyond doubt (paired over documents)."
        )
    if choice.equals > 1:
        end = " (retained quality ends at 100 %)" if winner.retained == 1 else ""
        order = "the smallest of them comes first, of equal sizes that of the lowest perplexity"
        found.append(f"{choice.equals} keep as much as the best{end}: {order}.")
    if choice.blind:
        found.append(f"{_capital(choice.blind)}.")
    alike = [one for one in choice.alike if one is not ship]
    if alike:
        found.append(
            f"Not distinguishable from {'it' if ship is winner else 'the best'}, {_sizes(alike, ship)}: "
            f"{_names(alike, name)}."
        )
    for verdict, text in (("worse", "Worse beyond doubt"), ("better", "Better beyond doubt, but larger")):
        ones = [one for one in choice.ranked if verdicts.get(one.row.fingerprint) == verdict]
        if ones:
            span = _span([one.retained for one in ones])
            found.append(f"{text}: {_names(ones, name)} ({span} of the quality).")
    smaller = [one for one in choice.front if one.bytes < ship.bytes and one.row.fingerprint not in choice.breaches]
    if smaller:
        texts = [f"{name(one)}, {_mb(one.row)} at {interval(one.row)}" for one in reversed(smaller)]
        found.append(f"If it must be smaller: {'; '.join(texts[:MOST])}.")
    return found


def of_one(one: Shown) -> tuple[str, list[str]]:
    """The headline of a single run, and what is to be said of it: how it ended, its gates, whether it pays to go on."""
    report, row, why = one.report, one.report.final, f": {one.text}" if one.text else ""
    found = [f"The run {one.ended}{why}; this is what it had measured by then."] if one.ended else []
    broken = [decision for decision in report.gates if not decision.kept and decision.action == "stop"]
    kept = sum(decision.kept for decision in report.gates)
    if broken:
        found += [f"Do not ship it: {told(decision)}" for decision in broken]
    else:
        found.append(unjudged(one) or f"It passed its gates ({kept} {'decision' if kept == 1 else 'decisions'}).")
    models = [step for step in report.rows if step.pairs is None and step.step and step is not row]
    better = [step for step in models if step.bytes <= row.bytes and step.retained > row.retained]
    if better:
        found.append(f"{better[0].label} is no larger and kept more: {interval(better[0])} at {_mb(better[0])}.")
    if not row.step:
        return f"{report.recipe}: only the origin was measured so far", found
    if row.verdict == "worse" and row.documents:
        found.append(f"That it is worse than the origin is beyond doubt (paired over {row.documents} documents).")
    elif row.verdict == "not distinguishable" and not row.note:
        found.append(f"It cannot be told from the origin (paired over {row.documents} documents).")
    if row.note:
        found.append(f"{_capital(row.note)}.")
    return f"{report.recipe}: {came_to(row)}", found


def unjudged(one: Shown) -> str | None:
    """Why nobody can say that a run's model is good enough; None where its gates were asked, to the end."""
    if one.report.gates and one.ended:
        last = {decision.gate: decision.kept for decision in one.report.gates}  # one may be asked after every step
        kept = sum(last.values())
        return f"Not all of its gates were judged: {kept} {'was' if kept == 1 else 'were'} kept until then."
    if one.report.gates:
        return None
    if one.document.get("gates"):
        return "Its gates were not judged yet."
    return "The recipe has no gates, so nobody has said what is good enough."


def came_to(row: Row) -> str:
    """``2.46× smaller than the origin in bf16 (111.0 of 273.1 MB), keeps 66.1 % (63.0–68.4) of its quality``."""
    smaller = f"{row.compression_ratio:.2f}× smaller than" if row.compression_ratio >= 1.005 else "no smaller than"
    sizes = f"{row.bytes / 1e6:.1f} of {row.compression_ratio * row.bytes / 1e6:.1f} MB"
    return f"{smaller} the origin in bf16 ({sizes}), keeps {interval(row)} of its quality"


def _names(ones: Sequence[Candidate], name: Name) -> str:
    more = f" and {len(ones) - MOST} more" if len(ones) > MOST else ""
    return ", ".join(map(name, ones[:MOST])) + more


def _sizes(ones: Sequence[Candidate], ship: Candidate) -> str:
    sizes = [one.bytes for one in ones]
    if all(abs(size - ship.bytes) < 0.001 * ship.bytes for size in sizes):
        return "at the same size"
    low, high = min(sizes) / 1e6, max(sizes) / 1e6
    return f"at {low:.1f} MB" if high - low < 0.1 else f"at {low:.1f} to {high:.1f} MB"


def _span(shares: Sequence[float]) -> str:
    low, high = 100 * min(shares), 100 * max(shares)
    return f"{low:.1f} %" if high - low < 0.05 else f"{low:.1f} to {high:.1f} %"


def _mb(row: Row) -> str:
    return f"{row.bytes / 1e6:.1f} MB"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
