"""Planted faults: each is one sentence, and nothing of it gets into the store."""

from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import torch
from safetensors.torch import load_file, save_file

from attar.errors import ProofFailed
from attar.facts import ModelFacts
from attar.model import Model
from attar.testing import run_on
from attar.tiny import tiny_model
from attar.writer import Writer
from stages.base import Context, Cost, Stage

FAULTS = {
    "nothing": "neither parameters nor bytes",
    "still": "training moved no tensor",
    "dropped": "never wrote model.layers.0.mlp.up_proj.weight, which its plan promised",
    "nan": "mlp.up_proj.weight of the saved model holds NaN",
    "other": "reopens as another function",
    "stranger": "its plan promised nothing of that name",
    "silent": "handed over no logits",
    "short": "not a complete safetensors file",
    "wide": "was promised as",
}


class Faulty(Stage):
    """Copies its source but for one fault."""

    stage: Literal["test.faulty"] = "test.faulty"
    fault: str
    trains: ClassVar[bool] = False

    def plan(self, facts: ModelFacts) -> ModelFacts:
        return facts

    def cost(self, facts: ModelFacts, teacher: ModelFacts) -> Cost:
        return Cost(0, 1)

    def apply(self, source: Model, out: Writer, context: Context) -> None:
        from attar import probe

        for name in source.names:
            tensor = source.tensor(name)
            if name == "model.norm.weight" and self.fault != "still":
                tensor = tensor * 2
            if name.endswith("0.mlp.up_proj.weight"):
                if self.fault == "dropped":
                    continue
                if self.fault == "nan":
                    tensor = tensor * float("nan")
            out.tensor(name, tensor)
        if self.fault == "stranger":
            out.tensor("model.extra.weight", torch.ones(2))
        if self.fault not in ("silent",):
            out.probe(probe.logits(source.materialize(torch.float32), source.facts.vocabulary))
        if self.fault == "wide":
            close_narrow = out.close

            def widen() -> None:
                close_narrow()
                file = out.folder / "model.safetensors"
                tensors = load_file(file)
                name = "model.layers.1.mlp.up_proj.weight"
                save_file({**tensors, name: tensors[name].float()}, file)

            out.close = widen  # type: ignore[method-assign]
        if self.fault == "short":
            close = out.close

            def cut() -> None:
                close()
                file = out.folder / "model.safetensors"
                file.write_bytes(file.read_bytes()[:-100])

            out.close = cut  # type: ignore[method-assign]


@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_a_planted_fault_is_a_sentence_and_no_artifact(tmp_path: Path, fault: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(Faulty, "trains", fault != "nothing")
    with pytest.raises(ProofFailed, match=FAULTS[fault]):
        run_on(Faulty(stage="test.faulty", fault=fault), tiny_model(tmp_path / "model"), tmp_path / "home")
    store = tmp_path / "home" / "store"
    assert not list(store.glob("model/*")) and not list(store.glob("tmp/*"))
