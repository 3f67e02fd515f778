"""Values of a sweep: what a setting can never be is told before the first variant, and what is drawn is short."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from attar.errors import BadInput
from pipelines.home import Home
from pipelines.searching import searcher
from pipelines.sweep import Sweep
from pipelines.sweep_space import Range, Space, read
from pipelines.sweep_words import Values

TRAINED = {"stage": "finetune.full", "train_tokens": 64, "length": 8}
LAYERED = {"repeat": 2, "stages": [{"stage": "prune.width", "ffn": 0.1}]}


@pytest.mark.parametrize(
    ("stage", "sentence"),
    [
        (
            TRAINED | {"learning_rate": {"sweep": {"low": 1e-5, "high": 1e9, "log": True}}},
            r"^stages\.0\.learning_rate: the sweep leaves what this setting can be: learning_rate=1000000000\.0: Input "
            r"should be less than or equal to 1; no variant was tried$",
        ),
        (TRAINED | {"learning_rate": {"sweep": {"low": 0, "high": 1e-3}}}, "learning_rate=0.*greater than 0"),
        (TRAINED | {"learning_rate": {"sweep": [1e-3, 1e-4, 2.0]}}, "learning_rate=2.0"),
        (TRAINED | {"schedule": {"sweep": ["linear", "round"]}}, "schedule='round'"),
        (TRAINED | {"train_tokens": {"sweep": {"low": 64, "high": 128.5}}}, "train_tokens=128.5"),
        ({"stage": {"sweep": ["quantize.rtn", "quantise.rtn"]}}, r"stages\.0\.stage: .*did you mean 'quantize.rtn'"),
        (LAYERED | {"repeat": {"sweep": [1, 0]}}, r"stages\.0\.repeat: .*repeat=0"),
        (
            LAYERED | {"stages": [{"stage": "prune.width", "ffn": {"sweep": [0.1, 1.5]}}]},
            r"stages\.0\.stages\.0\.ffn: .*ffn=1\.5",
        ),
        ({"sweep": [{"stage": "quantize.rtn"}, {"stage": "quantize.rtn", "bits": "all"}]}, r"stages\.0: .*bits='all'"),
    ],
)
def test_a_value_that_a_setting_cannot_have_is_told_at_once(
    document: dict[str, Any], tmp_path: Path, stage: dict[str, Any], sentence: str
) -> None:
    document["stages"] = [stage]
    with pytest.raises(BadInput, match=sentence):
        Sweep(document | {"sweep": {"search": "random", "runs": 4}}, Home(tmp_path))


def test_a_seed_of_the_recipe_has_bounds_too(document: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="seed: the sweep leaves what this setting can be: seed=-1"):
        Sweep(document | {"seed": {"sweep": [0, -1]}}, Home(tmp_path))


def test_a_range_is_what_its_steps_come_to(document: dict[str, Any], tmp_path: Path) -> None:
    """All channels may not go, but 0.9 is the last value."""
    for block in ({}, {"search": "random", "runs": 3}, {"search": "tpe", "runs": 3}):
        document["stages"][0]["ffn"] = {"sweep": {"low": 0.1, "high": 1.0, "step": 0.4}}
        choose = searcher(Sweep(document | {"sweep": block}, Home(tmp_path)).space)
        found = set[float]()
        while len(found) < 3 and (values := choose.next()) is not None:
            choose.told(values, 0.5)
            found.add(values["stages.0.ffn"])
        assert found == {0.1, 0.5, 0.9}
        document["stages"][0]["ffn"] = {"sweep": {"low": 0.1, "high": 1.0, "step": 0.3}}
        with pytest.raises(BadInput, match=r"stages\.0\.ffn: the sweep leaves .* ffn=1\.0"):
            Sweep(document | {"sweep": block}, Home(tmp_path))


def test_what_is_wrong_beside_others_alone_is_left_to_its_variant(document: dict[str, Any], tmp_path: Path) -> None:
    """A fresh student needs no keep, one that is cut out does; and a setting need not be one of all swept stages."""
    document["stages"] = [{"stage": "distill.logit", "student": {"sweep": ["previous", "fresh"]}, "keep": 2}]
    document["stages"][0].pop("keep")
    Sweep(document, Home(tmp_path))
    document["stages"] = [{"stage": {"sweep": ["prune.width", "prune.depth"]}, "ffn": {"sweep": [0.1, 0.2]}}]
    Sweep(document, Home(tmp_path))


def ranged(document: dict[str, Any], search: str, **ends: Any) -> Space:
    document["stages"][0]["ffn"] = {"sweep": ends}
    return read(document | {"sweep": {"search": search, "runs": 12, "seed": 3}})


def drawn(space: Space, *told: Values) -> Iterator[float]:
    """Twelve values, after some were told of an earlier start."""
    choose = searcher(space)
    for values in told:
        choose.told(values, 0.5)
    for _ in range(12):
        values = choose.next()
        assert values is not None
        choose.told(values, 1 - values["stages.0.ffn"])
        yield values["stages.0.ffn"]


@pytest.mark.parametrize("search", ["random", "tpe"])
@pytest.mark.parametrize("ends", [{"low": 1e-5, "high": 0.4, "log": True}, {"low": 0.011234, "high": 0.412345}])
def test_values_are_drawn_to_three_digits(document: dict[str, Any], search: str, ends: dict[str, Any]) -> None:
    space = ranged(document, search, **ends)
    found = list(drawn(space))
    digits = [len(f"{value:e}".split("e")[0].rstrip("0").replace(".", "")) for value in found]
    assert max(digits) <= 3 and all(ends["low"] <= value <= ends["high"] for value in found)
    assert found == list(drawn(space)) and len(set(found)) == 12


@pytest.mark.parametrize("search", ["random", "tpe"])
def test_a_narrow_range_keeps_the_digits_that_it_needs(document: dict[str, Any], search: str) -> None:
    found = list(drawn(ranged(document, search, low=0.25, high=0.251)))
    assert len(set(found)) == 12 and all(len(repr(value)) <= len("0.250123") for value in found)


def test_a_value_is_no_longer_than_its_range_needs_and_stays_inside() -> None:
    assert Range(low=1e-5, high=0.1).brief(0.03516271782664421) == 0.0352
    assert Range(low=0.1, high=0.4, step=0.1).brief(0.1 + 2 * 0.1) == 0.3
    assert Range(low=100.0, high=101.0).brief(100.37214) == 100.37
    assert Range(low=0.12345, high=0.9).brief(0.123451) == 0.12345
    assert Range(low=1, high=9).brief(4) == 4


def test_a_random_search_does_not_draw_again_what_it_drew_with_more_digits(document: dict[str, Any]) -> None:
    """A sweep that was begun when four digits were drawn goes on after them, not once more beside them."""
    space = ranged(document, "random", low=0.01, high=0.4)
    chance = random.Random(3)
    longer = [{"stages.0.ffn": float(f"{chance.uniform(0.01, 0.4):.4g}")} for _ in range(5)]
    assert next(drawn(space, *longer)) == list(drawn(space))[5]


def test_a_tpe_search_takes_what_it_drew_with_all_digits(document: dict[str, Any]) -> None:
    space = ranged(document, "tpe", low=0.01, high=0.4)
    told = [{"stages.0.ffn": 0.2 + i / 7000} for i in range(8)]
    assert len(list(drawn(space, *told))) == 12
