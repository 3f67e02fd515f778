"""Plans of the recipes that recover INT4 by an adapter or on the grid: sizes, the warning, who may teach."""

import json
from pathlib import Path
from typing import Any

import pytest

from attar.errors import BadInput
from pipelines import recipe
from pipelines.home import Home
from pipelines.plan import Plan, make_plan
from stages import parse

CONF = Path(__file__).parents[2] / "conf"
SMOLLM2 = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
    "dtype": "bfloat16",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The config of SmolLM2-135M without weights."""
    made = tmp_path / "smollm2"
    made.mkdir()
    (made / "config.json").write_text(json.dumps(SMOLLM2))
    return made


def plan_of(name: str, folder: Path, home: Path, text: Path, *changes: str) -> Plan:
    loaded = recipe.load(CONF / f"{name}.yaml", [f"model={folder}", f"data.source={text}", *changes])
    return make_plan(loaded, Home(home), complete=False)


def test_an_adapter_is_counted_and_warned_of(folder: Path, home: Path, text: Path) -> None:
    plan = plan_of("lora", folder, home, text)
    _, quantized, recovered = plan.steps
    learning = 30 * 8 * (2 * (576 + 576) + 2 * (576 + 192) + 3 * (576 + 1536))
    assert recovered.facts.bytes - quantized.facts.bytes == 2 * learning
    assert recovered.work.state == 12 * learning
    warned = [text for text in plan.warnings if "keeps an adapter" in text]
    assert len(warned) == 1 and "finetune.scales needs none" in warned[0]


def test_training_on_the_grid_costs_the_bytes_of_rounding(folder: Path, home: Path, text: Path) -> None:
    plan = plan_of("qad", folder, home, text)
    recovered = plan.steps[-1]
    assert recovered.facts.tensors() == parse({"stage": "quantize.rtn"}).plan(plan.origin.facts).tensors()
    assert not [text for text in plan.warnings if "keeps an adapter" in text]
    assert plan.ratio(recovered) > 2.3


@pytest.mark.parametrize(
    ("name", "change", "refused"),
    [
        ("lora", "stages.1.teacher=previous", True),
        ("qad", "stages=[{stage: quantize.rtn}, {stage: distill.qad, teacher: previous}]", True),
        ("qad", "stages=[{stage: quantize.rtn}, {stage: distill.qad}]", False),
        ("qad", "stages=[{stage: distill.qad, train_tokens: 2048}]", False),  # on the grid, the origin can teach itself
        ("qad", "stages=[{stage: distill.qad, train_tokens: 2048, output: dense}]", False),
        ("lora", "stages=[{stage: finetune.lora}]", True),
        ("lora", "stages=[{stage: finetune.lora, alpha: 0.5}]", False),
    ],
)
def test_who_starts_as_its_teacher_is_refused(
    folder: Path, home: Path, text: Path, name: str, change: str, refused: bool
) -> None:
    def made() -> Any:
        return plan_of(name, folder, home, text, change)

    if refused:
        with pytest.raises(BadInput, match="the very model that would learn"):
            made()
    else:
        assert made().steps[-1].facts.stored is False
