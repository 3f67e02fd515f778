"""What each swept setting did: its values compared in pairs over documents, all other settings being equal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp

from attar.scores import Scores


@dataclass(frozen=True)
class Level:
    """One value of a setting: the mean of all variants that have it."""

    value: str
    variants: int
    retained: float  # headline of the mean of their losses: the geometric mean of what they retained, 1 at most
    low: float | None  # 95 % interval over documents; None of few
    high: float | None
    verdict: str  # "best", or what a paired test says of it beside the best: worse, not distinguishable; or "all"
    behind: float = 0.0  # of headline, lost against the best, with its paired interval; 0.01 is a point
    behind_low: float = 0.0
    behind_high: float = 0.0


@dataclass(frozen=True)
class Finding:
    """A setting and all its values, in order."""

    setting: str
    levels: tuple[Level, ...]
    documents: int

    @property
    def best(self) -> Level:
        return next(level for level in self.levels if level.verdict == "best")

    @property
    def sentence(self) -> str:
        """``temperature: 4 keeps most (66.1 %); not distinguishable: 2; worse: 8 (1.2 points less, 0.9 to 1.6)``."""
        alike = [level.value for level in self.levels if level.verdict == "not distinguishable"]
        worse = [f"{one.value} ({_lost(one)})" for one in self.levels if one.verdict == "worse"]
        told = [
            f"{self.setting}: {self.best.value} keeps most ({100 * self.best.retained:.1f} %{_of(self.best.variants)})"
        ]
        told += [f"not distinguishable: {_and(alike)}"] if alike else []
        every = [level.value for level in self.levels if level.verdict == "all"]
        told += [f"{'keeps' if len(every) == 1 else 'keep'} all of it, too: {_and(every)}"] if every else []
        told += [f"worse: {_and(worse)}"] if worse else []
        return "; ".join(told)


@dataclass(frozen=True)
class Scored:
    """A variant's values and its losses per document."""

    values: Mapping[str, str]
    losses: Scores


def find(variants: Sequence[Scored], origin: Scores) -> tuple[Finding, ...]:
    """A finding for each setting that moves while the others stay; none where the variants do not allow that.

    Of a setting those combinations of the others count that every one of its values was tried with. All pairs of its
    values are tested together, since which one is the best is seen in the same scores; see
    :func:`attar.statistics.apart`.
    """
    settings = list(dict.fromkeys(name for one in variants for name in one.values))
    found = (_find(name, settings, variants, origin) for name in settings)
    return tuple(one for one in found if one is not None)


def in_order(values: Sequence[str]) -> list[str]:
    """Each value once: numbers by size, words as they come."""
    once = list(dict.fromkeys(values))
    try:
        return sorted(once, key=float)
    except ValueError:
        return once


def _find(name: str, settings: Sequence[str], variants: Sequence[Scored], origin: Scores) -> Finding | None:
    from attar import statistics  # numpy, which the command line does without until there is something to compare

    by_value: dict[str, dict[tuple[str, ...], Scores]] = {}
    for one in variants:
        rest = tuple(one.values.get(other, "") for other in settings if other != name)
        by_value.setdefault(one.values.get(name, ""), {})[rest] = one.losses
    shared = set.intersection(*(set(found) for found in by_value.values()))
    if len(by_value) < 2 or not shared:
        return None
    means = {value: _mean([by_value[value][rest] for rest in sorted(shared)]) for value in in_order(list(by_value))}
    best = min(means, key=lambda value: means[value].mean)
    most = exp(origin.mean - means[best].mean)  # its own uncertainty is no part of what another loses against it
    beside = {value: statistics.difference(mean, means[best]) for value, mean in means.items() if value != best}
    together = dict(zip(means, statistics.apart(list(means.values()))[list(means).index(best)], strict=True))
    levels = []
    for value, mean in means.items():
        kept = statistics.perplexity_retained(mean, origin)
        told = kept.items >= statistics.FEWEST
        low, high = (min(1.0, kept.low), min(1.0, kept.high)) if told else (None, None)
        if value == best:
            levels.append(Level(value, len(shared), min(1.0, kept.value), low, high, "best"))
            continue
        verdict: str = beside[value].verdict if together[value] < statistics.LEVEL else "not distinguishable"
        if verdict == "worse" and kept.value >= 1:  # of what ends at 100 % it has lost nothing
            verdict = "all"
        lost = statistics.perplexity_retained(mean, means[best])
        behind = [min(1.0, most) - min(1.0, most * share) for share in (lost.value, lost.high, lost.low)]
        levels.append(Level(value, len(shared), min(1.0, kept.value), low, high, verdict, *behind))
    return Finding(name, tuple(levels), len(origin.ids))


def _mean(scored: Sequence[Scores]) -> Scores:
    """One model's worth of losses: the mean of several models' on the same documents."""
    sums = [dict(zip(one.ids, one.sums, strict=True)) for one in scored]
    ids = scored[0].ids
    return Scores(ids, tuple(sum(one[name] for one in sums) / len(sums) for name in ids), scored[0].counts)


def _of(variants: int) -> str:
    return f", mean of {variants}" if variants > 1 else ""


def _lost(level: Level) -> str:
    return "{:.1f} points less, {:.1f} to {:.1f}".format(
        *(100 * lost for lost in (level.behind, level.behind_low, level.behind_high))
    )


def _and(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
