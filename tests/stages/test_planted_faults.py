"""Six faults a stage may have: six sentences, no artifact in the store, and the faultless stage passes."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Literal

import pytest
import torch
from safetensors.torch import load_file, save_file

from attar.checkpoint import WEIGHTS
from attar.errors import ProofFailed
from attar.events import Events
from attar.facts import ModelFacts
from attar.model import Model
from attar.sources import folder_fingerprint
from attar.store import Artifact
from attar.testing import job, write_text
from attar.tiny import tiny_model
from attar.writer import Writer
from stages.base import Context, Cost, Stage


class Planted(Stage):
    """A training stage that doubles its source's norms, but for one fault."""

    stage: Literal["test.planted"] = "test.planted"
    trains: ClassVar[bool] = True
    fault: str = ""

    def plan(self, facts: ModelFacts) -> ModelFacts:
        return facts.changed(dtype="bfloat16", torch_dtype=None)

    def cost(self, facts: ModelFacts, teacher: ModelFacts) -> Cost:
        return Cost(0, 1)

    def apply(self, source: Model, out: Writer, context: Context) -> None:
        taken = context.origin if self.fault == "returns the origin" else source
        module = taken.materialize(torch.float32)
        if self.fault not in ("does nothing", "returns the origin"):
            with torch.no_grad():
                module.get_parameter("model.norm.weight").mul_(2)
        if self.fault == "writes NaN":
            with torch.no_grad():
                module.get_parameter("model.layers.1.mlp.up_proj.weight")[3, 5] = float("nan")
        out.module(module)
        if fault := AFTERWARDS.get(self.fault):
            close = out.close

            def close_and_spoil() -> None:
                close()
                fault(out.folder)

            out.close = close_and_spoil  # type: ignore[method-assign]


def drop_key(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    del tensors["model.layers.2.self_attn.v_proj.weight"]
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def shorten(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[:-100])


def shorten_tokenizer(folder: Path) -> None:
    content = (folder / "tokenizer.json").read_bytes()
    (folder / "tokenizer.json").write_bytes(content[:-100])


def leave_pickle(folder: Path) -> None:
    (folder / "optimizer.pt").write_bytes(pickle.dumps({"step": 7}))


def disguise_pickle(folder: Path) -> None:
    (folder / "tokenizer.model").write_bytes(pickle.dumps({"step": 7}))


def leave_stray(folder: Path) -> None:
    (folder / "cache").mkdir()
    (folder / "cache" / "activations.safetensors").write_bytes(bytes(64))


def link_away(folder: Path) -> None:
    (folder / "vocab.json").symlink_to("/etc/hostname")


AFTERWARDS: dict[str, Callable[[Path], None]] = {
    "drops keys": drop_key,
    "leaves a file shorter": shorten,
    "leaves a tokenizer shorter": shorten_tokenizer,
    "pickles": leave_pickle,
    "pickles under another name": disguise_pickle,
    "leaves what it did not report": leave_stray,
    "links to what is elsewhere": link_away,
}
SENTENCES = {
    "does nothing": "training moved no tensor; the model is what it was",
    "returns the origin": "handed back the origin, every tensor of it",
    "drops keys": "asks for a tensor model.layers.2.self_attn.v_proj.weight of shape .*, the weights do not hold it",
    "writes NaN": "model.layers.1.mlp.up_proj.weight of the saved model holds NaN or infinite values",
    "leaves a file shorter": "not a complete safetensors file: [0-9]+ bytes where its header promises [0-9]+",
    "leaves a tokenizer shorter": "the saved tokenizer.json is not the one that the plan promised",
    "pickles": "left the pickle optimizer.pt, which can run code when opened",
    "pickles under another name": "left the pickle tokenizer.model",
    "leaves what it did not report": "left the file cache/activations.safetensors, which no runtime reads",
    "links to what is elsewhere": "left vocab.json, which is no plain file",
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An origin in fp32, more digits than bf16 holds among its weights, and what an earlier stage made of it."""
    folder = tmp_path_factory.mktemp("models")
    origin = tiny_model(folder / "origin")
    generator = torch.Generator().manual_seed(0)
    weights = {name: tensor.float() for name, tensor in load_file(origin / WEIGHTS).items()}
    noisy = {n: t * (1 + 1e-3 * torch.randn(t.shape, generator=generator)) for n, t in weights.items()}
    save_file(noisy, origin / WEIGHTS, metadata={"format": "pt"})
    return origin, tiny_model(folder / "source", seed=1)


def run(fault: str, source: Path, origin: Path, home: Path) -> Artifact:
    home.mkdir()
    stage = Planted(fault=fault)
    told = job(stage, source, write_text(home / "text.txt"), home, "planted", "float32")
    told["origin"] = {"folder": str(origin), "fingerprint": folder_fingerprint(origin, home)}
    return stage.run(stage.job(told), Events(home / "events.jsonl"))


@pytest.mark.parametrize("fault", SENTENCES)
def test_a_fault_is_a_sentence_and_no_artifact(tmp_path: Path, models: tuple[Path, Path], fault: str) -> None:
    origin, source = models
    with pytest.raises(ProofFailed, match=SENTENCES[fault]) as caught:
        run(fault, source, origin, tmp_path / "home")
    assert "\n" not in str(caught.value)
    store = tmp_path / "home" / "store"
    assert not list(store.glob("model/*")) and not list(store.glob("tmp/*"))


def test_writing_floats_in_bf16_is_neither_compression_nor_training(tmp_path: Path, models: tuple[Path, Path]) -> None:
    origin, _ = models
    with pytest.raises(ProofFailed, match="training moved no tensor"):
        run("does nothing", origin, origin, tmp_path / "home")


def test_without_a_fault_it_passes(tmp_path: Path, models: tuple[Path, Path]) -> None:
    origin, source = models
    made = run("", source, origin, tmp_path / "home")
    assert made.manifest["proofs"]["changed"].startswith("1 of ")
