"""Which variant of a sweep comes next: all of them, some at random, or those that look best so far (TPE, by Optuna)."""

import json
import random
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from pipelines.sweep_space import Range, Space
from pipelines.sweep_words import Values

TRIES = 200  # at random, for a combination that has not been there


class Searcher(Protocol):
    """Proposes values for the next variant, knowing what came of those before it."""

    def next(self) -> Values | None:
        """Values that were not proposed before; None when there are no more."""
        ...

    def told(self, values: Values, score: float | None) -> None:
        """A variant ended: its score, higher is better, or None where it failed."""
        ...


def searcher(space: Space) -> Searcher:
    """The one that the sweep block asks for."""
    match space.search.search:
        case "grid":
            return _Grid(space)
        case "random":
            return _Random(space)
        case "tpe":
            return _Tpe(space)


class _Grid:
    """Every combination, in order."""

    def __init__(self, space: Space) -> None:
        self._all: Iterator[Values] = space.grid()
        self._known: set[str] = set()

    def next(self) -> Values | None:
        return next((values for values in self._all if key(values) not in self._known), None)

    def told(self, values: Values, score: float | None) -> None:
        self._known.add(key(values))


class _Random:
    """Independent draws; what was drawn before a sweep was stopped is drawn again, and costs no tries."""

    def __init__(self, space: Space) -> None:
        self._space = space
        self._chance = random.Random(space.search.seed)
        self._known: set[str] = set()
        self._drawn: set[str] = set()

    def next(self) -> Values | None:
        repeats = 0  # since something was drawn for the first time
        while repeats < TRIES:
            values = {name: self._draw(found) for name, found in self._space.dimensions.items()}
            drawn = key(values)
            repeats = repeats + 1 if drawn in self._drawn else 0
            self._drawn.add(drawn)
            if drawn not in self._known:
                return values
        return None

    def told(self, values: Values, score: float | None) -> None:
        self._known.add(key(brief(values, self._space)))

    def _draw(self, found: Sequence[Any] | Range) -> Any:
        if not isinstance(found, Range):
            return self._chance.choice(list(found))
        if found.step is not None:
            return self._chance.choice(found.values(""))
        if found.log:
            value = found.low * (found.high / found.low) ** self._chance.random()
        elif found.whole:
            return self._chance.randint(int(found.low), int(found.high))
        else:
            value = self._chance.uniform(found.low, found.high)
        if found.whole:
            return round(value)
        # By way of four digits, which were drawn once: what such a sweep has drawn is then the same to three.
        return found.brief(float(f"{value:.4g}") if found.high - found.low > value / 10 else value)


class _Tpe:
    """Tree-structured Parzen estimators (Bergstra et al., NeurIPS 2011), as Optuna has them; nothing of it is stored.

    What ended before is told again at every start, so a sweep that goes on knows what it knew.
    """

    def __init__(self, space: Space) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._optuna = optuna
        self._space = space
        self._study = optuna.create_study(
            direction="maximize", sampler=optuna.samplers.TPESampler(seed=space.search.seed, n_startup_trials=5)
        )
        self._distributions = {name: self._distribution(found) for name, found in space.dimensions.items()}
        self._known: set[str] = set()

    def next(self) -> Values | None:
        for _ in range(TRIES):
            trial = self._study.ask(self._distributions)
            drawn = {name: self._value(name, trial.params[name]) for name in self._space.dimensions}
            values = brief(drawn, self._space)
            if key(values) not in self._known:
                return values
            self._study.tell(trial, state=self._optuna.trial.TrialState.FAIL)
        return None

    def told(self, values: Values, score: float | None) -> None:
        self._known.add(key(brief(values, self._space)))
        if score is not None:
            params = {name: self._param(name, value) for name, value in values.items()}
            made = self._optuna.trial.create_trial(params=params, distributions=self._distributions, value=score)
            self._study.add_trial(made)

    def _distribution(self, found: Sequence[Any] | Range) -> Any:
        kinds = self._optuna.distributions
        if not isinstance(found, Range):
            return kinds.CategoricalDistribution([json.dumps(value) for value in found])
        low, high = found.ends  # Optuna warns of a step that does not come to the end
        if found.whole:
            return kinds.IntDistribution(int(low), int(high), found.log, int(found.step or 1))
        return kinds.FloatDistribution(float(low), float(high), found.log, found.step)

    def _value(self, name: str, param: Any) -> Any:
        return param if isinstance(self._space.dimensions[name], Range) else json.loads(param)

    def _param(self, name: str, value: Any) -> Any:
        return value if isinstance(self._space.dimensions[name], Range) else json.dumps(value)


def key(values: Values) -> str:
    """One text for equal values."""
    return json.dumps(values, sort_keys=True)


def brief(values: Values, space: Space) -> Values:
    """The same with numbers of ranges as short as they are drawn."""
    found = space.dimensions
    return {
        name: kind.brief(value) if isinstance(kind := found[name], Range) else value for name, value in values.items()
    }
