"""The arithmetic of a training, without a tensor."""

import subprocess
import sys

import pytest
from pydantic import ValidationError

from attar.errors import BadInput
from attar.training_settings import TrainingSettings
from stages import parse


def test_the_budget_is_rounded_up_to_whole_batches() -> None:
    settings = TrainingSettings(train_tokens=1025, batch=4, length=256)
    assert (settings.steps, settings.windows) == (2, 8)
    assert settings.tokens() == {"train": (8, 256)}


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
@pytest.mark.parametrize("steps", [1, 2, 7, 100])
def test_the_rate_rises_once_then_never_rises_again_and_is_never_zero(schedule: str, steps: int) -> None:
    settings = TrainingSettings(train_tokens=steps * 8, batch=1, length=8, warmup=0.2, schedule=schedule)  # type: ignore[arg-type]
    factors = [settings.rate_factor(step) for step in range(steps)]
    peak = factors.index(max(factors))
    assert max(factors) == 1 and min(factors) > 0
    assert factors[: peak + 1] == sorted(factors[: peak + 1])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)


def test_no_teacher_is_asked_for_when_only_the_text_counts() -> None:
    assert TrainingSettings(alpha=0.0).teacher_spec() is None
    assert TrainingSettings(alpha=0.1, teacher="previous").teacher_spec() == "previous"


@pytest.mark.parametrize(
    "bad",
    [{"alpha": 1.1}, {"temperature": 0.0}, {"train_tokens": 0}, {"learning_rate": 0.0}, {"epochs": 3}, {"batch": "4"}],
)
def test_impossible_settings_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TrainingSettings(**bad)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"beta": 0.3}, "beta=0.3 belongs to divergence=jsd, and divergence is forward"),
        ({"skew": 0.3, "divergence": "jsd"}, "skew=0.3 belongs to divergence=skew, and divergence is jsd"),
        ({"top_k": 64, "cache": "hidden"}, "top_k=64 belongs to cache=topk, and cache is hidden"),
        ({"cache": "hidden", "alpha": 0.0}, "cache=hidden keeps what a teacher says, and alpha=0 asks none"),
    ],
)
def test_settings_that_do_not_apply_are_refused(bad: dict[str, object], words: str) -> None:
    with pytest.raises(BadInput, match=f"stages.0: finetune.full: {words}"):
        parse({"stage": "finetune.full", **bad}, "stages.0")
    assert TrainingSettings(divergence="jsd", beta=0.3).mix == 0.3
    assert TrainingSettings(divergence="skew", skew=0.0).mix == 0


def test_importing_it_does_not_import_torch() -> None:
    code = "import sys, attar.training_settings; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
