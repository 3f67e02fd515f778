"""What a sweep will cost before it runs: its variants, each with what it adds to what those before it leave behind."""

from collections.abc import Iterator
from dataclasses import dataclass

from attar.errors import BadInput
from pipelines.recipe import validate
from pipelines.searching import key, searcher
from pipelines.sweep import MOST_REFUSALS, Foresee, Sweep, Trial


@dataclass(frozen=True)
class Expected:
    """A variant as it is expected: what has a row is there already, ``failed`` has not been tried or must be again."""

    trial: Trial
    seconds: float = 0.0


def expected(sweep: Sweep, foresee: Foresee) -> Iterator[Expected]:
    """The variants that the sweep would run, until its budget is spent.

    A search that learns from results is shown as it would begin, knowing none of those to come. The estimates are those
    of the plan: the order of magnitude, with a teacher's pass over the data in every stage that learns from it.
    """
    search, choose = sweep.space.search, searcher(sweep.space)
    done = {key(trial.values): trial for trial in sweep.trials()}
    paid: set[str] = set()
    number, count, refusals, total = max((trial.number for trial in done.values()), default=0), 0, 0, sweep.spent
    while (search.runs is None or count < search.runs) and (values := choose.next()) is not None:
        choose.told(values, None)
        known = done.get(key(values))
        number += known is None
        trial = Trial(known.number if known else number, values, "failed", label=sweep.space.label(values))
        try:
            planned = foresee(validate(sweep.space.assign(values, trial.number)))
        except BadInput as error:
            yield Expected(Trial(trial.number, values, "refused", text=str(error), label=trial.label))
            refusals += 1
            if search.search != "grid" and refusals >= MOST_REFUSALS:
                return
            continue
        count, refusals = count + 1, 0
        if known is not None and known.row is not None and sweep.changed(known, planned) is None:
            yield Expected(known)
            continue
        new = {name: seconds for name, seconds in planned.costs.items() if name not in paid}
        paid |= new.keys()
        total += sum(new.values())
        if search.minutes is not None and total > 60 * search.minutes:
            return
        yield Expected(trial, sum(new.values()))
