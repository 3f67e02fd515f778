"""``attar recipe`` tells every key there is, in examples that work."""

import json
from typing import Any

import pytest

from attar.errors import BadInput
from pipelines import recipe, recipe_reference, recipe_yaml, sweep_space
from pipelines.cli import main
from pipelines.gates import BATCHED, MEASURES, Gate
from pipelines.recipe import Recipe
from pipelines.task_measures import FORMS

STAGES = [{"stage": "prune.width", "ffn": 0.2}, {"stage": "quantize.rtn"}]


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ending:
        main(list(arguments))
    return int(ending.value.code or 0)


def test_the_top_level_is_all_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("recipe", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == [*Recipe.model_fields, "sweep"]
    assert all(row["description"] for row in rows)
    pointed = {str(row["default"]).rpartition(" ")[2] for row in rows if "see: attar recipe" in str(row["default"])}
    assert pointed == set(recipe_reference.PARTS)


@pytest.mark.parametrize("name", recipe_reference.PARTS)
def test_every_key_of_a_part_is_described(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("recipe", name, "--json") == 0
    described = json.loads(capsys.readouterr().out)
    for row in described["settings"]:
        assert row["description"] and row["type"] != "any", row
    for prefix, model in recipe_reference.PARTS[name].models.items():
        assert {f"{prefix}{key}" for key in model.model_fields} <= {row["name"] for row in described["settings"]}
    assert call("recipe", name) == 0
    assert described["settings"][0]["name"] in capsys.readouterr().out


@pytest.mark.parametrize("name", [name for name in recipe_reference.PARTS if name != "sweep"])
def test_the_example_of_a_part_is_a_recipe_that_works(name: str) -> None:
    example, _, _ = recipe_reference.PARTS[name].example.partition("\n\n")
    document: dict[str, Any] = {"name": "x", "model": "m", "stages": [dict(entry) for entry in STAGES]}
    checked = recipe.validate(document | recipe_yaml.parse(example, "the example"))
    assert getattr(checked, name) != getattr(recipe.validate(document), name)


def test_the_example_of_a_sweep_is_a_sweep_that_works() -> None:
    document = {"name": "x", "model": "m", **recipe_yaml.parse(recipe_reference.PARTS["sweep"].example, "the example")}
    assert len(list(sweep_space.read(document).grid())) == 4 * 3 * 3


def test_every_measure_that_is_listed_can_be_gated() -> None:
    rows = recipe_reference.measures()
    assert len(rows) == len(MEASURES) + len(FORMS)
    for row in rows:
        name, batch, _ = row["measure"].partition("[/BATCH]")
        assert bool(batch) == (name in BATCHED)
        side = "min" if row["better"] == "higher" else "max"
        unit = row["units"].split(", ")[0]
        limit = "1.1×" if unit == "×" else "0.5" if unit == "none" else f"0.5 {unit}"
        gate = Gate(measure=name, **{side: limit})
        document: dict[str, Any] = {"name": "x", "model": "m", "stages": STAGES, "price_per_hour": 1.0}
        document["measure"] = {"batch_sizes": [1]} if "batch_sizes" in row["needs"] else {"speed": bool(row["needs"])}
        document["measure"] |= {"choices": 2, "facts": 5, "generation": 2, "lm_eval": ["TASK"]} if name in FORMS else {}
        document["measure"] |= {"tasks": ["FILE.jsonl", "NAME.jsonl"]} if name in FORMS else {}
        assert recipe.validate(document | {"gates": [gate.model_dump(exclude_none=True)]}).gated()


def test_an_unknown_part_is_a_sentence() -> None:
    with pytest.raises(BadInput, match="did you mean 'measure'"):
        recipe_reference.describe("mesure")
