"""Gates: what a limit means, what is refused before anything is computed, and what a bisection finds."""

from collections.abc import Callable
from math import ceil, log2
from pathlib import Path
from typing import Any

import pytest

from attar.errors import BadInput
from pipelines import bisect, gate_edits, gates
from pipelines.gates import MEASURES, Figure
from pipelines.home import Home
from pipelines.plan import make_plan
from pipelines.recipe import load, validate
from pipelines.report import Row

HEADLINE = {"measure": "headline", "min": 0.95}
BISECT = {"setting": "stages.0.ffn", "within": [0.1, 0.5]}
SCALES = {"stage": "finetune.scales", "train_tokens": 512, "batch": 2, "length": 64}


def gate(**values: Any) -> gates.Gate:
    return gates.parse([values])[0]


def kept(figure: Figure, **values: Any) -> bool:
    return gates.judge(gate(**values), figure).kept


@pytest.mark.parametrize(
    ("values", "on_the_line", "beyond"),
    [
        ({"measure": "headline", "min": 0.95}, 0.95, 0.9499),
        ({"measure": "headline", "min": "95 %"}, 0.95, 0.9499),
        ({"measure": "bytes", "max": "100 MB"}, 100e6, 100e6 + 1),
        ({"measure": "bytes", "max": "1.5 GiB"}, 1.5 * 2**30, 1.5 * 2**30 + 1),
        ({"measure": "bytes", "max": 4096}, 4096, 4097),
        ({"measure": "parameters", "max": "120 M"}, 120e6, 120e6 + 1),
        ({"measure": "ratio", "min": "4×"}, 4.0, 3.99),
        ({"measure": "kl", "max": "0.1 nats"}, 0.1, 0.11),
        ({"measure": "decode", "min": "20 tok/s"}, 20.0, 19.9),
        ({"measure": "decode", "min": "1.5×"}, 15.0, 14.9),
        ({"measure": "perplexity_other", "max": "1.2x"}, 12.0, 12.1),
    ],
    ids=str,
)
def test_a_limit_is_the_last_value_that_passes(values: dict[str, Any], on_the_line: float, beyond: float) -> None:
    """With units, and relative to the origin, whose figure is 10 here."""
    assert kept(Figure(on_the_line, origin=10.0), **values)
    assert not kept(Figure(beyond, origin=10.0), **values)


def test_the_bound_is_judged_and_not_the_value() -> None:
    assert not kept(Figure(0.97, 0.94, 0.99), **HEADLINE)
    assert kept(Figure(0.97, 0.94, 0.99), **HEADLINE, bound="value")
    assert not kept(Figure(0.09, 0.05, 0.12), measure="kl", max=0.1)
    assert kept(Figure(0.09, 0.05, 0.12), measure="kl", max=0.1, bound="value")
    told = gates.judge(gate(**HEADLINE), Figure(0.97, 0.94, 0.99)).text
    assert "97.00 %" in told and "low end 94.00 %" in told and "under 95.00 %" in told


@pytest.mark.parametrize(
    ("limit", "value", "words"),
    [
        ({"measure": "bytes", "max": "1 kB"}, 252_700, ("0.3 MB", "over 1.0 kB")),
        ({"measure": "bytes", "max": 60}, 99_000, ("99.0 kB", "over 60 B")),
        ({"measure": "parameters", "max": 10}, 12_000, ("12.0 k", "over 10")),
        ({"measure": "flops_per_token", "max": "1 MFLOP"}, 2e6, ("2.000 MFLOP", "over 1.000 MFLOP")),
        ({"measure": "p95", "max": "0.02 ms"}, 0.00005, ("50.0 µs", "over 20.0 µs")),
    ],
    ids=str,
)
def test_a_small_figure_is_told_in_a_unit_that_shows_it(
    limit: dict[str, Any], value: float, words: tuple[str, str]
) -> None:
    judged = gates.judge(gate(**limit), Figure(value))
    assert not judged.kept and all(word in judged.text for word in words) and "over 0.0" not in judged.text


def test_what_is_just_beyond_a_limit_is_not_told_as_the_limit() -> None:
    judged = gates.judge(gate(measure="bytes", max="110.9MB"), Figure(110_900_003))
    assert "110.900003 MB" in judged.text and "over 110.9 MB" in judged.text
    judged = gates.judge(gate(measure="headline", min=0.95), Figure(0.97, 0.949999, 0.98))
    assert "97.00 %" in judged.text and "low end 94.9999 %, under 95.00 %" in judged.text


def test_what_has_no_interval_is_judged_by_its_value_and_that_is_told() -> None:
    judged = gates.judge(gate(**HEADLINE), Figure(0.96))
    assert judged.kept and "judged by its value: there are too few documents" in judged.text
    told = gates.judge(gate(measure="bytes", max="100 MB"), Figure(2e8)).text
    assert told == "bytes ≤ 100 MB is not kept: 200.0 MB (judged by its value, over 100.0 MB)"


def test_a_multiple_is_held_against_the_interval_of_the_ratio() -> None:
    wide = {"low": 0.9, "high": 1.2, "origin": 1.0}
    assert kept(Figure(1.02, **wide, times=(1.01, 1.04)), measure="bits_per_byte", max="1.05×")
    assert not kept(Figure(1.02, **wide, times=(1.01, 1.06)), measure="bits_per_byte", max="1.05×")
    assert not kept(Figure(1.02, **wide, times=(1.01, 1.04)), measure="bits_per_byte", max=1.05)
    assert not kept(Figure(1.06, **wide, times=(1.01, 1.04)), measure="bits_per_byte", max="1.05×", bound="value")


@pytest.mark.parametrize("figure", [Figure(None), Figure(None, origin=10.0)])
def test_what_was_not_measured_passes_no_gate(figure: Figure) -> None:
    assert not kept(figure, measure="decode", min=1)
    assert not kept(Figure(20.0), measure="decode", min="1.5×")


def test_every_measure_is_a_column_of_the_report() -> None:
    assert {measure.column for measure in MEASURES.values()} <= set(Row.__dataclass_fields__)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"measure": "haedline", "min": 0.9}, r"gates\.0: there is no measure 'haedline'; did you mean 'headline'"),
        ({"measure": "headline"}, "headline has no limit; give one in min"),
        ({"measure": "headline", "min": 95}, r"headline is a share of 1; write 0\.95 or 95 %"),
        ({"measure": "kl", "min": 0.1}, "kl is the better the lower it is; write max instead of min"),
        ({"measure": "bytes", "max": "100 MByte"}, r"max='100 MByte' is no limit of bytes; possible: .*MB or GB"),
        ({"measure": "bytes", "max": "0.5×"}, "is no limit of bytes"),
        ({"measure": "bytes", "max": True}, "max"),
        ({"measure": "decode", "min": "fast"}, "min='fast' is no limit of decode"),
        ({**HEADLINE, "afetr": "end"}, "unknown setting 'afetr'; did you mean 'after'"),
        ({**HEADLINE, "bound": "lower"}, "bound='lower'"),
        ({**HEADLINE, "after": "2"}, "after='2' is not possible; possible: end, every"),
        (
            {**HEADLINE, "after": "stages.7"},
            r"stages\.7: that is no stage .*; possible: end, every, stages\.0, stages\.1",
        ),
        ({"measure": "decode", "min": "1.5×"}, r"decode is not measured with measure\.speed=false"),
        ({**HEADLINE, "breach": "sotp"}, "breach='sotp' is not possible; possible: stop, {bisect:"),
        ({**HEADLINE, "breach": {"bisect": BISECT, "insert": SCALES}}, "is not possible; possible: stop"),
        ({**HEADLINE, "breach": {"bisect": BISECT | {"within": [0.1]}}}, "within"),
        ({**HEADLINE, "breach": {"bisect": BISECT | {"within": [0.1, 0.1]}}}, "two different numbers"),
        ({**HEADLINE, "breach": {"bisect": BISECT | {"within": [0.1, 1.5]}}}, "less than 1"),
        ({**HEADLINE, "breach": {"bisect": BISECT | {"probs": 3}}}, "unknown setting 'probs'; did you mean 'probes'"),
        (
            {**HEADLINE, "breach": {"bisect": BISECT | {"setting": "stages.0.fnn"}}},
            "no setting 'fnn'; did you mean 'ffn'",
        ),
        ({**HEADLINE, "breach": {"bisect": BISECT | {"setting": "stages.9.ffn"}}}, r"no stage stages\.9"),
        (
            {**HEADLINE, "breach": {"bisect": BISECT | {"setting": "stages.0.importance"}}},
            "only a number can be bisected",
        ),
        ({**HEADLINE, "breach": {"bisect": BISECT | {"within": [0.4, 0.5]}}}, "milder than the mildest"),
        ({**HEADLINE, "breach": {"bisect": BISECT | {"within": [0.001, 0.5]}}}, r"ffn=0\.001: .*removes nothing"),
        (
            {
                **HEADLINE,
                "after": "stages.0",
                "breach": {"bisect": {"setting": "stages.1.group_size", "within": [8, 64]}},
            },
            "is set after step 1",
        ),
        ({**HEADLINE, "breach": {"insert": {"stage": "finetune.scale"}}}, "did you mean 'finetune.scales'"),
        ({**HEADLINE, "breach": {"insert": {"stage": "finetune.full"}}}, r"breach\.insert: .*finetune\.scales"),
        ({**HEADLINE, "after": "every", "breach": {"insert": SCALES}}, "insert puts one stage into one place"),
        ({"measure": "bytes", "max": "1 kB"}, "the plan foresees a breach after 2 quantize.rtn"),
        ({"measure": "ratio", "min": 40}, "the plan foresees a breach"),
    ],
    ids=str,
)
def test_what_cannot_work_is_a_sentence_of_the_plan(
    document: dict[str, Any], home: Path, entry: dict[str, Any], words: str
) -> None:
    with pytest.raises(BadInput, match=words):
        make_plan(validate(document | {"gates": [entry]}), Home(home), complete=True)


def test_places_are_those_of_the_recipe(document: dict[str, Any]) -> None:
    train = {"stage": "finetune.full", "train_tokens": 256, "batch": 2, "length": 64}
    prune, rtn = document["stages"]
    rounds = validate(document | {"stages": [{"repeat": 2, "stages": [prune, train]}, rtn]}).chain()
    expected = {
        "end": (5,),
        "every": (1, 2, 3, 4, 5),
        "stages.1": (5,),
        "stages.0": (4,),
        "stages.0.stages.0": (1, 3),
    }
    for after, places in expected.items():
        assert gate_edits.places(gate(**HEADLINE, after=after), rounds) == places


def test_a_stage_put_in_moves_what_is_named_behind_it(document: dict[str, Any]) -> None:
    stages = [*document["stages"], SCALES]
    insert = HEADLINE | {"after": "stages.1", "breach": {"insert": SCALES}}
    other = HEADLINE | {"after": "stages.2", "breach": {"bisect": {"setting": "stages.2.batch", "within": [1, 2]}}}
    first = HEADLINE | {"after": "stages.0", "breach": {"bisect": BISECT}}
    changed, moved = gate_edits.with_stage(stages, [insert, other, first], gates.parse([insert])[0])
    assert changed == [*document["stages"], SCALES, SCALES]
    assert [entry["after"] for entry in moved] == ["stages.2", "stages.3", "stages.0"]
    assert moved[1]["breach"]["bisect"]["setting"] == "stages.3.batch"
    assert moved[2]["breach"]["bisect"]["setting"] == "stages.0.ffn"
    assert insert["after"] == "stages.1"  # what was given is not changed


def test_gates_change_no_fingerprint_and_the_plan_tells_them(document: dict[str, Any], home: Path) -> None:
    plain = make_plan(validate(document), Home(home), complete=True)
    entries = [HEADLINE | {"breach": {"bisect": BISECT}}, {"measure": "bytes", "max": "10 MB", "after": "every"}]
    gated = make_plan(validate(document | {"gates": entries}), Home(home), complete=True)
    assert gated.steps == plain.steps
    first, second = gated.as_json()["gates"]
    assert "headline ≥ 0.95 after 2 quantize.rtn" in first and "bisects stages.0.ffn within 0.1 and 0.5" in first
    assert "bytes ≤ 10 MB after 1 prune.width, 2 quantize.rtn" in second and "stops" in second


def test_a_recipe_of_a_bisection_is_there() -> None:
    recipe = load(Path(__file__).parents[2] / "conf" / "bisect.yaml")
    assert [stage["stage"] for stage in recipe.stages] == ["prune.width", "quantize.rtn", "finetune.scales"]
    assert isinstance(recipe.gated()[0].breach, gates.Bisect)


@pytest.mark.parametrize("probes", [2, 3, 6])
@pytest.mark.parametrize(
    ("mild", "bold", "whole"), [(0.05, 0.5, False), (0.9, 0.1, False), (8, 2, True), (1, 99, True)]
)
def test_a_grid_goes_from_end_to_end_and_can_be_searched(mild: float, bold: float, whole: bool, probes: int) -> None:
    values = bisect.grid(mild, bold, whole, probes)
    assert (values[0], values[-1]) == (mild, bold) and len(values) <= 2**probes - 1
    assert values == sorted(set(values), reverse=bold < mild)
    assert not whole or all(isinstance(value, int) for value in values)


def counted(limit: float) -> tuple[list[float], Callable[[float], bool]]:
    asked: list[float] = []

    def keeps(value: float) -> bool:
        asked.append(value)
        return value <= limit

    return asked, keeps


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 63])
def test_the_boldest_that_keeps_is_found_in_as_few_probes_as_can_be(count: int) -> None:
    values = list(range(count))
    for limit in range(-1, count):
        asked, keeps = counted(limit)
        found = bisect.boldest(values, keeps, probes=count)
        assert found == (limit if limit >= 0 else None)
        assert len(asked) == len(set(asked)) <= ceil(log2(count + 1))


def test_with_too_few_probes_what_is_found_still_keeps() -> None:
    asked, keeps = counted(41)
    found = bisect.boldest(range(100), keeps, probes=3)
    assert found in asked and found is not None and keeps(found) and len(asked) == 4  # one by this line


def test_what_rounds_to_the_same_is_tried_once() -> None:
    assert bisect.distinct([1, 2, 3, 4, 5, 6], lambda value: value // 3) == [2, 5, 6]
    assert bisect.distinct([1, 2, 3], lambda value: 0) == [1, 2, 3]
