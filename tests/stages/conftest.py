"""Runs a stage on a tiny model without the proofs that a process of their own is started for."""

from collections.abc import Callable
from pathlib import Path

import pytest

from attar.data import Corpus, DataSettings, open_corpus
from attar.events import Events
from attar.model import Model
from attar.testing import write_text
from attar.writer import Writer
from stages.base import Context, Stage

Apply = Callable[..., Model]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Python's own docstrings, split as a run would split them."""
    folder = tmp_path_factory.mktemp("corpus")
    return open_corpus(DataSettings(source=str(write_text(folder / "text.txt"))), folder / "cache")


@pytest.fixture
def apply(corpus: Corpus, tmp_path: Path) -> Apply:
    """``apply(stage, source, teacher=source)``: the model that the stage writes. Metrics go to ``events.jsonl``."""

    def run(stage: Stage, source: Path, teacher: Path | None = None) -> Model:
        made = tmp_path / f"made-{len(list(tmp_path.glob('made-*')))}"
        made.mkdir()
        model = Model(source)
        context = Context(
            origin=model,
            teacher=Model(teacher or source) if stage.teacher_spec() else None,
            data=corpus,
            device="cpu",
            dtype="float32",
            seed=0,
            state=made / "state",
            events=Events(tmp_path / "events.jsonl"),
            cancelled=lambda: False,
        )
        writer = Writer(made, stage.plan(model.facts), tokenizer_from=source)
        stage.apply(model, writer, context)
        writer.close()
        return Model(made)

    return run
