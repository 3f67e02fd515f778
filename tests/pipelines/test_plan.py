"""Plans: fingerprints chain, and what experience warns of is said."""

import copy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from attar.errors import BadInput
from attar.tiny import tiny_model
from pipelines.home import Home
from pipelines.plan import Plan, make_plan
from pipelines.recipe import load, validate

TRAIN = {"train_tokens": 512, "batch": 2, "length": 64}
FOUR: list[dict[str, Any]] = [
    {"stage": "distill.logit", "keep": 3, **TRAIN},
    {"stage": "prune.width", "ffn": 0.25, "multiple_of": 16, "windows": 4, "length": 64},
    {"stage": "quantize.rtn", "group_size": 16},
    {"stage": "finetune.scales", **TRAIN},
]
MIDDLE = {"stage": "distill.logit", "student": "fresh", "shape": {"layers": 2, "hidden": 32}, **TRAIN}
SMALL = MIDDLE | {"shape": {"layers": 1, "hidden": 16, "ffn": 32}}


def plan_of(document: dict[str, Any], home: Path, **changes: Any) -> Plan:
    return make_plan(validate({**document, **changes}), Home(home), complete=True)


def fingerprints(plan: Plan) -> list[str]:
    return [step.model.fingerprint for step in plan.steps]


def test_a_setting_changes_its_stage_and_those_after_it_alone(document: dict[str, Any], home: Path) -> None:
    before = fingerprints(plan_of(document, home, stages=FOUR))
    changed = copy.deepcopy(FOUR)
    changed[2]["mse"] = False
    after = fingerprints(plan_of(document, home, stages=changed))
    assert before[:3] == after[:3]
    assert before[3] != after[3] and before[4] != after[4]


def test_a_default_spelled_out_changes_nothing(document: dict[str, Any], home: Path) -> None:
    spelled = copy.deepcopy(FOUR)
    spelled[0]["temperature"] = 1.0
    spelled[0]["save_every"] = 3  # how often training is saved never changes the numbers
    assert fingerprints(plan_of(document, home, stages=FOUR)) == fingerprints(plan_of(document, home, stages=spelled))


@pytest.mark.parametrize("changes", [{"seed": 1}, {"dtype": "float32"}], ids=str)
def test_seed_and_dtype_change_every_stage(document: dict[str, Any], home: Path, changes: dict[str, Any]) -> None:
    before = fingerprints(plan_of(document, home, stages=FOUR, dtype="bfloat16"))
    after = fingerprints(plan_of(document, home, stages=FOUR, **({"dtype": "bfloat16"} | changes)))
    assert before[0] == after[0]
    assert all(a != b for a, b in zip(before[1:], after[1:], strict=True))


def test_patience_changes_nothing(document: dict[str, Any], home: Path) -> None:
    patient = fingerprints(plan_of(document, home, stages=FOUR, progress_timeout=0))
    assert patient == fingerprints(plan_of(document, home, stages=FOUR))


def test_text_changes_the_stages_that_read_it(document: dict[str, Any], home: Path, text: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text(text.read_text()[: len(text.read_text()) // 2])
    chain = [FOUR[2], FOUR[3]]  # rounding reads no text, training does
    before = fingerprints(plan_of(document, home, stages=chain))
    after = fingerprints(plan_of(document, home, stages=chain, data={"source": str(other)}))
    assert before[:2] == after[:2] and before[2] != after[2]


def test_teachers(document: dict[str, Any], home: Path, tmp_path: Path, model: Path) -> None:
    teacher = tiny_model(tmp_path / "teacher", seed=1, num_hidden_layers=2)
    chain = [
        FOUR[1],
        {"stage": "finetune.full", **TRAIN},
        {"stage": "finetune.full", "teacher": "previous", "alpha": 0.5, **TRAIN},
        {"stage": "finetune.full", "teacher": str(teacher), **TRAIN},
        {"stage": "finetune.full", "alpha": 0.0, **TRAIN},
    ]
    plan = plan_of(document, home, stages=chain)
    origin, *steps = plan.steps
    assert steps[0].teacher is None
    assert steps[1].teacher == origin.model and steps[1].inputs["teacher"] == origin.model.fingerprint
    assert steps[2].teacher == steps[1].model
    assert steps[3].teacher is not None and Path(steps[3].teacher.folder) == teacher
    assert steps[4].teacher is None and "teacher" not in steps[4].inputs


def test_students(document: dict[str, Any], home: Path, tmp_path: Path) -> None:
    """Another checkpoint takes the place of the previous model, and counts by what it is."""
    small = tiny_model(tmp_path / "small", seed=1, num_hidden_layers=2, hidden_size=32)
    chain = [FOUR[1], {"stage": "distill.logit", "student": str(small), **TRAIN}]
    step = plan_of(document, home, stages=chain).steps[2]
    assert step.source is not None and Path(step.source.folder) == small
    assert step.inputs["student"] == step.source.fingerprint and "source" not in step.inputs
    assert (step.facts.layers, step.facts.hidden) == (2, 32)
    moved = small.rename(tmp_path / "moved")
    again = plan_of(document, home, stages=[chain[1] | {"student": str(moved)}]).steps[1]
    assert again.model == step.model  # neither its path nor the stages before it are part of what comes out
    shape = {"layers": 2, "hidden": 32}
    fresh = plan_of(document, home, stages=[{"stage": "distill.logit", "student": "fresh", "shape": shape, **TRAIN}])
    assert (fresh.steps[1].facts.layers, fresh.steps[1].facts.hidden) == (2, 32)
    assert fresh.steps[1].facts.parameters == step.facts.parameters


def test_a_student_with_other_tokens_is_told_of_responses(document: dict[str, Any], home: Path, tmp_path: Path) -> None:
    other = tiny_model(tmp_path / "other", vocab_size=640)
    chain = [{"stage": "distill.logit", "student": str(other), **TRAIN}]
    with pytest.raises(BadInput, match=r"stages\.0.*tokenizer.*generate\.responses.*distill\.response"):
        plan_of(document, home, stages=chain)


@pytest.mark.parametrize(("cut", "gate"), [("alike", "kl"), ("otherwise", "headline")])
def test_a_student_that_cannot_be_held_against_the_origin_is_told_of_before(
    document: dict[str, Any], home: Path, tmp_path: Path, model: Path, cut: str, gate: str
) -> None:
    """By padded heads of other sizes, or another tokenizer; a gate that nobody could judge is refused."""
    student = tiny_model(tmp_path / "student", vocab_size=640)
    if cut == "alike":
        shutil.copy(model / "tokenizer.json", student)
    answers = {"stage": "generate.responses", "count": 20}
    chain = [answers, {"stage": "distill.response", "student": str(student), **TRAIN, "length": 512}]
    warned = [text for text in plan_of(document, home, stages=chain).warnings if "are not measured" in text]
    assert len(warned) == 1 and warned[0].startswith("2 distill.response")
    assert ("by bits per byte" in warned[0]) == (cut == "otherwise")
    limit = {"max": 0.5} if gate == "kl" else {"min": 0.5}
    with pytest.raises(BadInput, match=f"gates.0: {gate} after 2 distill.response cannot be judged"):
        plan_of(document, home, stages=chain, gates=[{"measure": gate, **limit}])
    kept = [{"measure": "bits_per_byte", "max": 9.0}]
    assert plan_of(document, home, stages=chain, gates=kept).recipe.gates


def test_a_progressive_chain(model: Path, text: Path, home: Path) -> None:
    recipe = Path(__file__).parents[2] / "conf" / "progressive.yaml"
    overrides = [f"model={model}", f"data.source={text}", "measure.windows=4", "measure.length=64"]
    plan = make_plan(load(recipe, overrides), Home(home), complete=True)
    origin, middle, small, healed = plan.steps
    assert origin.facts.layers > middle.facts.layers > small.facts.layers == healed.facts.layers
    assert small.teacher == middle.model and middle.teacher == healed.teacher == origin.model
    assert plan.disk > sum(step.work.cache for step in plan.steps) > 0


@pytest.mark.parametrize(
    ("chain", "words"),
    [
        ([FOUR[1], FOUR[2]], "untrained"),
        ([FOUR[1]], "followed by no training"),
        ([FOUR[1] | {"ffn": 0.9}, {"stage": "finetune.full", **TRAIN}], "at once"),
        ([FOUR[0] | {"keep": 1}, {"stage": "distill.logit", "student": "previous", **TRAIN}], None),
        ([FOUR[1], {"stage": "finetune.full", **TRAIN}, FOUR[2]], None),
        ([MIDDLE, SMALL], "a student of 6% of its teacher"),
        ([MIDDLE, SMALL | {"teacher": "previous"}], None),
        ([{"stage": "generate.responses"}], "no stage after it learns from"),
        ([{"stage": "generate.responses"}, {"stage": "distill.response", "keep": 3, **TRAIN}], None),
    ],
)
def test_warnings(document: dict[str, Any], home: Path, chain: list[dict[str, Any]], words: str | None) -> None:
    found = plan_of(document, home, stages=chain).warnings
    assert found == () if words is None else any(words in text for text in found)


@pytest.mark.parametrize(
    ("stage", "measure", "sentence"),
    [
        ({"length": 1024}, {}, "stages.0: finetune.full: length=1024 is longer than the 512 positions"),
        ({}, {"length": 1024}, "measure: length=1024 is longer than the 512 positions"),
        ({}, {"speed": True}, "measure: prompt=512 with new_tokens=64 is longer than the 512 positions"),
    ],
)
def test_no_window_is_longer_than_learned_positions(
    document: dict[str, Any], home: Path, tmp_path: Path, stage: dict[str, Any], measure: dict[str, Any], sentence: str
) -> None:
    """Tables of positions end; rotary positions do not."""
    gpt2 = tiny_model(tmp_path / "gpt2", "gpt2", num_hidden_layers=1)
    chain = [{"stage": "finetune.full", **TRAIN, **stage}]
    with pytest.raises(BadInput, match=sentence):
        plan_of(document | {"model": str(gpt2)}, home, stages=chain, measure=document["measure"] | measure)


def test_planned_sizes_follow_from_the_facts(document: dict[str, Any], home: Path) -> None:
    plan = plan_of(document, home, stages=FOUR)
    sizes = [step.facts.bytes for step in plan.steps]
    assert sizes[0] > sizes[1] > sizes[2] > sizes[3] == sizes[4]
    assert plan.ratio(plan.origin) == pytest.approx(1, rel=0.02)
    training_state = 12 * plan.steps[1].facts.parameters
    assert plan.disk > sum(sizes[1:]) + training_state


def test_planning_loads_no_torch(tmp_path: Path) -> None:
    """Forms, plans and ``--help`` stay quick: importing the rooms above the material never imports torch."""
    modules = "pipelines.cli, pipelines.plan, pipelines.report, pipelines.tables, pipelines.doctor, stages, stages.spec"
    heavy = "[m for m in ('torch', 'transformers', 'prefect', 'mlflow') if m in sys.modules]"
    code = f"import sys, {modules}; stages.parse({{'stage': 'quantize.gptq'}}); print({heavy})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_rooms_are_ours() -> None:
    """Top-level names as common as these must come from our own distribution."""
    from importlib.metadata import packages_distributions

    owners = packages_distributions()
    assert {name: set(owners[name]) for name in ("attar", "stages", "pipelines")} == {
        name: {"attar"} for name in ("attar", "stages", "pipelines")
    }
