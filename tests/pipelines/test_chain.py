"""Repetition: ``{repeat: N, stages: […]}`` is its stages written out N times, and stays readable."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from attar.errors import BadInput
from pipelines import recipe, tables
from pipelines.chain import spelled
from pipelines.home import Home
from pipelines.plan import Plan, make_plan
from stages.base import stage_seed

PRUNE = {"stage": "prune.width", "ffn": 0.25, "multiple_of": 16, "windows": 4, "length": 64}
TRAIN = {"stage": "finetune.full", "train_tokens": 256, "batch": 2, "length": 64}
ROUNDS: list[dict[str, Any]] = [{"repeat": 3, "stages": [PRUNE, TRAIN]}, {"stage": "quantize.rtn", "group_size": 16}]


def plan_of(document: dict[str, Any], home: Path, chain: list[dict[str, Any]]) -> Plan:
    return make_plan(recipe.validate({**document, "stages": chain}), Home(home), complete=True)


def test_rounds_are_the_stages_written_out(document: dict[str, Any], home: Path) -> None:
    rounds = plan_of(document, home, ROUNDS)
    written = plan_of(document, home, [PRUNE, TRAIN, PRUNE, TRAIN, PRUNE, TRAIN, ROUNDS[1]])
    assert [step.model for step in rounds.steps] == [step.model for step in written.steps]
    assert [step.evaluation for step in rounds.steps] == [step.evaluation for step in written.steps]
    nested = [{"repeat": 1, "stages": [{"repeat": 3, "stages": [PRUNE, TRAIN]}, ROUNDS[1]]}]
    assert plan_of(document, home, nested).steps == rounds.steps


def test_every_round_reads_other_text_and_the_first_reads_what_it_would_alone(
    document: dict[str, Any], home: Path
) -> None:
    rounds, alone = plan_of(document, home, ROUNDS), plan_of(document, home, [PRUNE, TRAIN])
    assert rounds.steps[1].model == alone.steps[1].model and rounds.steps[2].model == alone.steps[2].model
    assert [step.seed for step in alone.steps] == [0, 0, 0] and rounds.steps[7].seed == 0
    for name in (PRUNE["stage"], TRAIN["stage"]):
        seeds = [step.seed for step in rounds.steps if step.name == name]
        assert len(set(seeds)) == 3
        assert len({stage_seed(seed, name) for seed in seeds}) == 3


def test_every_round_takes_a_share_of_what_is_left(document: dict[str, Any], home: Path) -> None:
    plan = plan_of(document, home, ROUNDS)
    assert [step.facts.ffn for step in plan.steps] == [192, 144, 144, 112, 112, 80, 80, 80]
    assert plan.as_json()["steps"][3]["shape"]["ffn"] == 112
    console = Console(width=200)
    with console.capture() as captured:
        console.print(tables.plan_table(plan))
    header, *rows = [line.split() for line in captured.get().splitlines() if line.strip()]
    assert "ffn" in header and "layers" not in header  # what changes is shown, what does not is not
    assert any("112" in row for row in rows)


def test_a_recipe_with_rounds_stays_readable(
    document: dict[str, Any], home: Path, write: Callable[[Any], Path]
) -> None:
    plan = plan_of(document, home, ROUNDS)
    shown = json.loads(json.dumps(plan.as_json()))["recipe"]
    assert shown["stages"] == ROUNDS
    assert recipe.load(write(shown)) == plan.recipe
    assert yaml.safe_dump(shown).count("prune.width") == 1
    assert spelled(ROUNDS) == "3 × (prune.width → finetune.full) → quantize.rtn"


def test_overrides_reach_into_rounds(document: dict[str, Any], write: Callable[[Any], Path]) -> None:
    path = write({**document, "stages": copy.deepcopy(ROUNDS)})
    chain = recipe.load(path, ["stages.0.repeat=2", "stages.0.stages.0.ffn=0.5"]).chain()
    assert [link.stage.stage for link in chain] == ["prune.width", "finetune.full"] * 2 + ["quantize.rtn"]
    assert {link.stage.settings()["ffn"] for link in chain[:4:2]} == {0.5}
    with pytest.raises(BadInput, match=r"stages\.0\.stages has 2 entries, counted from 0"):
        recipe.load(path, ["stages.0.stages.2.ffn=0.5"])


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"repeat": 0, "stages": [PRUNE]}, r"stages\.0: repeat=0: .*greater than or equal to 1"),
        ({"repeat": "often", "stages": [PRUNE]}, r"stages\.0: repeat='often'"),
        ({"repeat": 2, "stages": []}, r"stages\.0: stages=\[\]"),
        ({"repeat": 2}, r"stages\.0: the setting 'stages' is missing"),
        ({"repeat": 2, "stage": "prune.width"}, r"stages\.0: repeat stands beside stage 'prune\.width'"),
        ({"repeat": 2, "stages": [PRUNE], "stagse": 1}, r"unknown setting 'stagse'; did you mean 'stages'"),
        ({"repeat": 2, "stages": [PRUNE | {"fnn": 1}]}, r"stages\.0\.stages\.0: prune\.width: unknown setting 'fnn'"),
        ({"repeat": 60, "stages": [PRUNE, TRAIN]}, "more than 100 stages"),
    ],
    ids=str,
)
def test_bad_rounds_are_told_where_they_stand(document: dict[str, Any], entry: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        recipe.validate({**document, "stages": [entry]})


def test_a_round_that_cannot_work_is_named(document: dict[str, Any], home: Path) -> None:
    deep = [{"repeat": 3, "stages": [PRUNE | {"attention": 0.5, "ffn": 0.0}, TRAIN]}]
    with pytest.raises(BadInput, match=r"stages\.0\.stages\.0 \(round 2 of 3\): prune\.width: attention=0\.5"):
        plan_of(document, home, deep)


def test_the_iterative_recipe_plans(tmp_path: Path, home: Path, text: Path) -> None:
    config = {
        "model_type": "llama",
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "vocab_size": 49152,
        "tie_word_embeddings": True,
    }
    folder = tmp_path / "smollm2"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    path = Path(__file__).parents[2] / "conf" / "iterative.yaml"
    plan = make_plan(recipe.load(path, [f"model={folder}", f"data.source={text}"]), Home(home), complete=False)
    assert [step.facts.ffn for step in plan.steps] == [1536, 1408, 1408, 1280, 1280, 1152, 1152, 1152, 1152]
    assert not any("prune.width" in warning for warning in plan.warnings)
