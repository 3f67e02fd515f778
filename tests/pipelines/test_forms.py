"""The forms: every stage and every setting is in them, and what they send is the recipe that a file would hold."""

import json
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
from prefect.utilities.schema_tools.validation import build_error_obj, is_valid_schema, validate

import stages
from attar.errors import BadInput
from attar.fingerprint import hash_json
from pipelines import deployments_yaml, form_values, forms
from pipelines.chain import spelled
from pipelines.home import Home
from pipelines.plan import make_plan
from pipelines.recipe import Recipe, load
from pipelines.recipe import validate as valid_recipe

CONF = Path(__file__).parents[2] / "conf"
RECIPES = sorted(deployments_yaml.recipe_files(CONF))
FORM = forms.stages_form()


def filled(name: str) -> dict[str, Any]:
    """The form as it opens on a recipe, through JSON as the browser sends it."""
    values = load(CONF / f"{name}.yaml").model_dump(mode="json")
    values["stages"] = form_values.shown(values["stages"])
    return dict(json.loads(json.dumps(values)))


def opened(value: dict[str, Any], options: list[dict[str, Any]]) -> int:
    """The tab that Prefect's UI opens: most keys in common, of several the first."""
    properties = [
        FORM["definitions"][option["$ref"].removeprefix("#/definitions/")]["properties"] for option in options
    ]
    common = [len(set(value) & set(known)) for known in properties]
    return common.index(max(common))


def errors(values: dict[str, Any]) -> Any:
    return build_error_obj(validate(values, FORM))["errors"]


def test_both_forms_are_schemas_for_prefect() -> None:
    is_valid_schema(FORM)
    is_valid_schema(forms.recipe_form(["a", "b"], "a"))
    assert list(FORM["properties"]) == list(Recipe.model_fields)
    assert "additionalProperties" not in json.dumps(FORM)


def test_the_flow_has_a_parameter_for_every_field_of_a_recipe() -> None:
    from pipelines.deployed import compress_stages

    assert list(signature(compress_stages.fn).parameters) == list(Recipe.model_fields)


@pytest.mark.parametrize("name", stages.names())
def test_every_setting_is_there_with_default_and_help(name: str) -> None:
    kind = stages.stage_class(name)
    shown, checked = FORM["definitions"][name]["properties"], FORM["definitions"][f"{name} in bounds"]["properties"]
    assert set(shown) == set(checked) == set(kind.model_fields)
    for key, field in kind.model_fields.items():
        assert shown[key]["title"] == key and "default" in shown[key] and shown[key]["description"]
        assert key == "stage" or shown[key]["description"].startswith(field.description or "?")
    settings = form_values.shown([{"stage": name}])[0]
    assert {key: found["default"] for key, found in shown.items()} == settings


def test_bounds_are_told_at_the_very_field() -> None:
    values = filled("quickstart")
    values["stages"][1]["ffn"] = 1.5
    stage = {
        "index": 1,
        "errors": [{"property": "ffn", "errors": ["1.5 is greater than or equal to the maximum of 1"]}],
    }
    assert errors(values) == [{"property": "stages", "errors": [stage]}]
    assert FORM["definitions"]["prune.width"]["properties"]["ffn"]["description"].endswith("(≥ 0, < 1)")


@pytest.mark.parametrize("name", [*stages.names(), forms.REPEAT])
def test_a_stage_opens_on_its_own_tab(name: str) -> None:
    entry = {"stage": name} if name != forms.REPEAT else {"repeat": 2, "stages": [{"stage": "quantize.rtn"}]}
    options = FORM["properties"]["stages"]["items"]["anyOf"]
    assert options[opened(form_values.shown([entry])[0], options)] == {"$ref": f"#/definitions/{name}"}


@pytest.mark.parametrize("name", RECIPES)
def test_a_form_sent_as_it_opened_is_the_recipe(name: str) -> None:
    values, recipe = filled(name), load(CONF / f"{name}.yaml")
    assert errors(values) == []
    sent = form_values.recipe(values)
    assert sent.chain() == recipe.chain() and spelled(sent.stages) == spelled(recipe.stages)
    assert sent.model_copy(update={"stages": []}) == recipe.model_copy(update={"stages": []})


def test_a_form_and_a_file_have_the_same_fingerprints(document: dict[str, Any], home: Path) -> None:
    recipe = valid_recipe(document)
    values = recipe.model_dump(mode="json") | {"stages": form_values.shown(document["stages"])}
    plans = [make_plan(one, Home.open(home), complete=False) for one in (recipe, form_values.recipe(values))]
    names = [[(step.made.fingerprint, step.evaluation) for step in plan.steps] for plan in plans]
    assert names[0] == names[1] and hash_json(names)


def test_what_another_kind_of_stage_left_behind_is_dropped() -> None:
    values = filled("quickstart")
    depth = form_values.shown([{"stage": "prune.depth"}])[0]
    values["stages"][1] = {**values["stages"][1], **depth, "repeat": 3}
    assert form_values.recipe(values).chain()[1].stage == stages.parse({"stage": "prune.depth"})


def test_a_typo_is_still_told_with_the_nearest_name() -> None:
    values = filled("quickstart")
    values["stages"][1]["fnn"] = 0.5
    with pytest.raises(BadInput, match=r"stages\.1: prune\.width: unknown setting 'fnn'; did you mean 'ffn'\?"):
        form_values.recipe(values)


@pytest.mark.parametrize(
    ("key", "sent", "meant"),
    [
        ("learning_rate", "1e-4", 1e-4),
        ("learning_rate", 1, 1.0),
        ("train_tokens", 2048.0, 2048),
        ("train_tokens", "2_048", 2048),
        ("keep", 28.0, 28),
        ("keep", "0.5", 0.5),
        ("keep", [0.0, "1"], [0, 1]),
        ("schedule", "", "cosine"),
        ("batch", None, None),
        ("shape", None, None),
    ],
)
def test_texts_and_numbers_are_read_by_the_setting_s_type(key: str, sent: Any, meant: Any) -> None:
    values = filled("quickstart")
    default = stages.stage_class("distill.logit").model_fields[key].default
    if key == "schedule":
        values["stages"][0][key] = sent
        with pytest.raises(BadInput, match="schedule=''"):
            form_values.recipe(values)
        return
    values["stages"][0][key] = sent
    found = getattr(form_values.recipe(values).chain()[0].stage, key)
    meant = default if meant is None else meant
    assert (list(found) if isinstance(found, tuple) else found) == meant and type(found) is not str


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"stages": []}, "stages"),
        ({"stages": None}, "stages"),
        ({"stages": [None]}, "stages"),
        ({"stages": [{"stage": "prune.widht"}]}, "did you mean 'prune.width'"),
        ({"stages": [{"stage": "repeat", "repeat": 2, "stages": None}]}, "stages"),
        ({"name": "../../etc"}, "name='../../etc' is not possible"),
        ({"name": None}, "name"),
        ({"seed": "x"}, "seed='x'"),
        ({"measure": {"windows": "many"}}, "measure.windows"),
        ({"data": 3}, "data"),
    ],
)
def test_nonsense_is_a_sentence(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        form_values.recipe(filled("smoke") | change)
