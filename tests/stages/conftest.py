"""Stages applied within the tests' own process, which spares the fresh one that the base proves every result in."""

from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp

import pytest
import torch
from safetensors.torch import load_file, save_file

from attar import probe, reopen
from attar.checkpoint import stored_tensors
from attar.data import Corpus, DataSettings, open_corpus
from attar.events import Events
from attar.model import Model
from attar.sources import folder_fingerprint
from attar.store import Store
from attar.testing import write_text
from attar.writer import Writer
from stages.base import Context, Stage, stage_seed

Apply = Callable[..., Writer]


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text to calibrate and train on."""
    folder = tmp_path_factory.mktemp("workshop")
    write_text(folder / "text.txt")
    return folder


@pytest.fixture(scope="session")
def corpus(workshop: Path) -> Corpus:
    """The workshop's text, split as a run would split it."""
    return open_corpus(DataSettings(source=str(workshop / "text.txt")), workshop / "dataset")


@pytest.fixture(scope="session")
def apply_here(workshop: Path, corpus: Corpus) -> Apply:
    """``apply_here(stage, model, teacher=model)``: what the stage writes, checked as the base would prove it.

    The tensors are those of the plan, and the folder reopens as the same function. Beside the folder lies what the
    stage reported, ``events.jsonl``.
    """

    def apply(stage: Stage, model: Path, teacher: Path | None = None) -> Writer:
        source, taught, folder = Model(model), teacher or model, Path(mkdtemp(dir=workshop))
        context = Context(
            origin=source,
            teacher=Model(taught, folder_fingerprint(taught, workshop)) if stage.teacher_spec() else None,
            data=corpus,
            device="cpu",
            dtype="float32",
            seed=stage_seed(0, stage.stage),
            state=folder / "state",
            store=Store(workshop / "store"),
            events=Events(folder / "events.jsonl"),
            cancelled=lambda: False,
        )
        (folder / "model").mkdir()
        promised = stage.plan(source.facts)
        out = Writer(folder / "model", promised, tokenizer_from=model)
        stage.apply(source, out, context)
        out.close()
        facts = {name: (fact.dtype, fact.shape) for name, fact in promised.tensors().items()}
        assert stored_tensors(out.folder) == facts
        exchange = folder / "probe.safetensors"
        save_file({"tokens": probe.tokens(promised.vocabulary)}, exchange)
        reopen.main(out.folder, exchange)  # a dense folder is opened by transformers alone
        torch.testing.assert_close(load_file(exchange)["logits"], out.probe_logits, atol=1e-4, rtol=1e-4)
        return out

    return apply
