"""What may be forgotten: the rule alone, on runs and artifacts that are only said to exist."""

import random
from collections.abc import Iterable
from pathlib import Path

import pytest

from attar.errors import BadInput
from pipelines.retention import Item, Pins, Rule, Run, Sort, expired, kept_runs

DAY = 86400.0
NOW = 1000 * DAY
NOTHING = Rule(keep_runs=0, older_than=0)


def run(id: str, age: float, needs: str = "", name: str = "r", **facts: bool) -> Run:
    """A run that began ``age`` days ago; by default it finished and was sent."""
    known = {"live": False, "finished": True, "sent": True} | facts
    return Run(id=id, name=name, begun=NOW - age * DAY, needs=frozenset(needs.split()), **known)


def item(name: str, age: float, inputs: str = "", sort: Sort = "model", measures: str = "") -> Item:
    return Item(sort, name, Path("/nowhere") / name, NOW - age * DAY, 1, frozenset(inputs.split()), measures)


def gone(
    runs: Iterable[Run], items: Iterable[Item], rule: Rule = NOTHING, pins: str = "", pinned_runs: str = ""
) -> set[str]:
    """Names of what goes."""
    found = expired(runs, items, Pins(frozenset(pins.split()), frozenset(pinned_runs.split())), rule, NOW)
    return {entry.name for entry in found}


def test_the_newest_runs_of_every_name_stay_with_what_they_need() -> None:
    runs = [run("a1", 9, "x"), run("a2", 8, "y"), run("a3", 7, "z"), run("b1", 99, "w", name="s")]
    items = [item(name, 50) for name in "xyzwv"] + [item(r.id, 50, sort="run") for r in runs]
    assert gone(runs, items, Rule(2, 0)) == {"a1", "x", "v"}
    assert gone(runs, items, Rule(0, 8.5 * DAY)) == {"a1", "b1", "x", "w", "v"}
    assert gone(runs, items) == {"a1", "a2", "a3", "b1", *"xyzwv"}


def test_a_live_run_keeps_its_plan_and_all_that_was_made_since_it_began() -> None:
    runs = [run("live", 5, "planned", live=True, finished=False)]
    items = [item("planned", 90, "input"), item("input", 95), item("since", 4.9), item("before", 5.1)]
    assert gone(runs, items) == {"before"}


def test_the_lineage_of_what_is_kept_stays() -> None:
    """On random histories: with an artifact everything stays that it was made of, for every reason to stay."""
    for seed in range(50):
        dice = random.Random(seed)
        names = [f"n{i}" for i in range(30)]
        items = [
            item(name, dice.uniform(0, 9), " ".join(dice.sample(names[:i], min(i, dice.randrange(3)))))
            for i, name in enumerate(names)
        ]
        runs = [run(f"r{i}", dice.uniform(0, 9), " ".join(dice.sample(names, 2)), live=i == 0) for i in range(5)]
        rule = Rule(dice.randrange(3), dice.uniform(0, 5) * DAY)
        pinned = dice.choice(names)
        left = {entry.name for entry in items} - gone(runs, items, rule, pins=pinned)
        assert pinned in left
        assert {name for kept in kept_runs(runs, Pins(), rule, NOW) for name in kept.needs} <= left
        assert all(entry.inputs <= left for entry in items if entry.name in left)
        assert {entry.name for entry in items if entry.changed > NOW - 3600} <= left


def test_a_registered_model_stays_with_its_run_its_evaluation_and_its_origin() -> None:
    items = [
        item("model", 90, "origin"),
        item("origin", 99),
        item("score", 90, "model origin", "evaluation", measures="model"),
        item("other-score", 90, "other origin", "evaluation", measures="other"),
        item("other", 90, "origin"),
        item("r1", 90, sort="run"),
        item("r2", 90, sort="run"),
    ]
    runs = [run("r1", 90, "model"), run("r2", 90, "other")]
    assert gone(runs, items, pins="model", pinned_runs="r1") == {"other", "other-score", "r2"}
    assert gone(runs, items, pins="model") == {"other", "other-score", "r1", "r2"}


def test_what_the_tracker_has_not_got_stays() -> None:
    assert gone([run("r", 90, "x", sent=False)], [item("x", 90), item("r", 90, sort="run")]) == set()


def test_a_teacher_cache_serves_the_runs_that_ask_its_teacher() -> None:
    cache = item("cache", 5, "teacher", "teacher-cache")
    one = Rule(1, 0)
    assert gone([run("r", 6, "teacher")], [cache], one) == set()
    assert gone([run("r", 4, "teacher")], [cache], one) == {"cache"}  # all that it needed was there already
    assert gone([run("r", 4, "teacher", live=True, finished=False)], [cache]) == set()
    assert gone([run("r", 6, "another")], [cache], one) == {"cache"}


def test_a_training_state_stays_while_somebody_may_go_on_from_it() -> None:
    state = item("x", 5, sort="state")
    broken = {"live": False, "finished": False}
    one = Rule(1, 0)
    assert gone([run("r", 6, "x", **broken)], [state], one) == set()
    assert gone([run("r", 6, "x", **broken)], [state, item("x", 5)], one) == {"x"}  # the state alone: it is finished
    assert len(expired([run("r", 6, "x", **broken)], [state, item("x", 5)], Pins(), one, NOW)) == 1
    assert gone([run("r", 6, **broken)], [state], one) == set()  # shards of a cache have a name that no plan knows
    assert gone([run("r", 6)], [state], one) == {"x"}
    assert gone([run("r", 6, "x", **broken)], [state]) == {"x"}


def test_drafts_go_when_they_are_old() -> None:
    assert gone([], [item("old", 1, sort="draft"), item("new", 0.01, sort="draft")]) == {"old"}


@pytest.mark.parametrize("text", ["", "30", "d", "-1d", "1.5d", "30 days", "999999d", "٣d"])
def test_an_age_that_is_none_is_a_sentence(text: str) -> None:
    with pytest.raises(BadInput, match="is no age; write a number of hours"):
        Rule.parse(10, text)


def test_ages() -> None:
    assert [Rule.parse(1, text).older_than for text in ("12h", "30d", "2w")] == [DAY / 2, 30 * DAY, 14 * DAY]
