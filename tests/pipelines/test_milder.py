"""What a bisection chooses from: other models, as many as its probes can search, and what lies between two."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from pipelines.gates import Bisect
from pipelines.home import Home
from pipelines.milder import Milder
from pipelines.plan import make_plan
from pipelines.recipe import validate


def milder(document: dict[str, Any], home: Path, now: float, within: list[float], probes: int) -> Milder:
    """For a share of the channels of a layer that has 12 groups of 16."""
    bisect = {"setting": "stages.0.ffn", "within": within, "probes": probes}
    document["stages"][0]["ffn"] = now
    document["gates"] = [{"measure": "agreement", "min": 0.9, "after": "stages.0", "breach": {"bisect": bisect}}]
    return Milder.of(make_plan(validate(document), Home(home), complete=True), Bisect(**bisect), 0)


def widths(found: Milder) -> list[int]:
    return [one.sizes[1][4] for one in found.able.values()]  # type: ignore[index]


def test_no_probe_is_left_where_other_values_remain(document: dict[str, Any], home: Path) -> None:
    """A grid of 0.2 has four of the eight milder widths, and three probes can search seven."""
    found = milder(document, home, 0.75, [0.0625, 0.75], probes=3)
    assert 4 < len(found.able) <= 7 and widths(found) == sorted(set(widths(found)), reverse=True)
    assert list(found.able) == sorted(found.able) and max(found.able) < 0.75


def test_with_probes_enough_every_width_is_among_them(document: dict[str, Any], home: Path) -> None:
    found = milder(document, home, 0.75, [0.0625, 0.75], probes=5)
    assert widths(found) == list(range(176, 48, -16))
    values = list(found.able)
    assert not any(found.others_between(value, bolder) for value, bolder in pairwise(values))
    assert not found.others_between(values[-1], found.now)


def test_what_lies_between_two_is_known(document: dict[str, Any], home: Path) -> None:
    found = milder(document, home, 0.75, [0.0625, 0.75], probes=2)
    mildest, *_, boldest = found.able
    assert len(found.able) <= 3 and found.others_between(mildest, boldest)


@pytest.mark.parametrize(("value", "bolder", "others"), [(2, 3, False), (2, 4, True)])
def test_of_whole_numbers_what_is_between_is_counted(
    document: dict[str, Any], home: Path, value: int, bolder: int, others: bool
) -> None:
    """A batch makes no other sizes: every value in between is another model."""
    train = {"stage": "finetune.full", "train_tokens": 512, "batch": 8, "length": 64}
    bisect = {"setting": "stages.1.batch", "within": [1, 8], "probes": 3}
    gate = {"measure": "agreement", "min": 0.9, "breach": {"bisect": bisect}}
    plan = make_plan(
        validate(document | {"stages": [document["stages"][0], train], "gates": [gate]}), Home(home), complete=True
    )
    found = Milder.of(plan, Bisect(**bisect), 0)
    assert list(found.able) == [1, 2, 3, 4, 5, 6, 7]
    assert found.others_between(value, bolder) == others
