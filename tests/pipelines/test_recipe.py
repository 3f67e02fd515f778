"""Recipes: what YAML means, what an override does, and that every recipe we ship can be planned."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from attar.errors import BadInput
from pipelines import recipe, recipe_yaml
from pipelines.deployments_yaml import recipe_files
from pipelines.home import Home
from pipelines.plan import make_plan

CONF = Path(__file__).parents[2] / "conf"
LLAMA_8B = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1.5e3", 1500.0),
        ("60_000", 60_000),
        ("010", 10),
        ("no", "no"),
        ("true", True),
        ("~", None),
        ("2026-01-01", "2026-01-01"),
        ("12:30:00", "12:30:00"),
        ("[1, a]", [1, "a"]),
        ("a=b", "a=b"),
    ],
)
def test_scalars_mean_what_yaml_1_2_says(text: str, value: Any) -> None:
    assert recipe_yaml.value_of(text, "here") == value


def test_merge_keys_and_anchors_work() -> None:
    text = "base: &base {batch: 4}\nother:\n  <<: *base\n  length: 8\n"
    assert recipe_yaml.parse(text, "here")["other"] == {"batch": 4, "length": 8}


def test_overrides_replace_settings_and_whole_parts(document: dict[str, Any], write: Callable[[Any], Path]) -> None:
    path = write(document)
    changed = recipe.load(path, ["stages.0.ffn=0.5", "seed=3", "measure.windows=2", "track.experiment=mine"])
    assert changed.stages[0]["ffn"] == 0.5
    assert (changed.seed, changed.measure.windows, changed.track.experiment) == (3, 2, "mine")
    shorter = recipe.load(path, ["stages=[{stage: quantize.rtn, group_size: 16}]"])
    assert [link.stage.stage for link in shorter.chain()] == ["quantize.rtn"]


def test_an_override_may_hold_equals_signs(document: dict[str, Any], write: Callable[[Any], Path]) -> None:
    assert recipe.load(write(document), ["model=a=b"]).model == "a=b"


def test_a_recipe_survives_its_own_yaml(document: dict[str, Any], write: Callable[[Any], Path]) -> None:
    first = recipe.validate(document)
    path = write(first.model_dump(mode="json"))
    assert recipe.load(path) == first


@pytest.mark.parametrize("path", recipe_files(CONF).values(), ids=lambda path: path.stem)
def test_shipped_recipes_are_valid(path: Path) -> None:
    loaded = recipe.load(path)
    assert loaded.name == path.stem
    assert loaded.chain()


@pytest.mark.parametrize("name", ["llama-8b-int4", "llama-8b-distilled"])
def test_gpu_recipes_plan_on_a_config_alone(name: str, tmp_path: Path, home: Path, text: Path) -> None:
    folder = tmp_path / "llama"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA_8B))
    loaded = recipe.load(CONF / f"{name}.yaml", [f"model={folder}", f"data.source={text}"])
    plan = make_plan(loaded, Home(home), complete=False)
    assert plan.origin.facts.parameters == 8_030_261_248
    assert plan.ratio(plan.steps[-1]) > 2.5
    assert any("planned, not run" in warning for warning in plan.warnings)
    with pytest.raises(BadInput, match="no weights"):
        make_plan(loaded, Home(home), complete=True)


def test_the_recipe_in_the_readme_plans(tmp_path: Path, home: Path, text: Path) -> None:
    written = (CONF.parent / "README.md").read_text(encoding="utf-8").split("```yaml\n")[1].split("```")[0]
    path, folder = tmp_path / "mine.yaml", tmp_path / "llama"
    path.write_text(written)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA_8B))
    plan = make_plan(recipe.load(path, [f"model={folder}", f"data.source={text}"]), Home(home), complete=False)
    assert [step.name for step in plan.steps][1:] == [
        "prune.width",
        "distill.logit",
        "quantize.gptq",
        "finetune.scales",
    ]
