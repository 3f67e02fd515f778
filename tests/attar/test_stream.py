"""Streaming layer by layer is the same function as the whole model."""

from pathlib import Path

import numpy as np
import pytest
import torch

from attar import probe
from attar.architecture import FAMILIES, family, shared_inputs
from attar.model import Model
from attar.stream import LayerStream
from attar.tiny import tiny_model


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
@pytest.mark.parametrize("tied", [True, False])
def test_streamed_logits_are_the_models(tmp_path: Path, model_type: str, tied: bool) -> None:
    source = Model(tiny_model(tmp_path, model_type, tie_word_embeddings=tied))
    ids = np.arange(60).reshape(3, 20)
    stream = LayerStream(source, ids, torch.float32, "cpu")
    assert [layer.index for layer in stream] == list(range(len(stream)))
    whole = source.materialize(torch.float32)
    torch.testing.assert_close(stream.logits(), probe.logits(whole, source.facts.vocabulary), atol=1e-5, rtol=1e-5)
    hidden = whole.base_model(input_ids=torch.from_numpy(ids), output_hidden_states=True).hidden_states  # type: ignore[operator]
    norm = whole.get_submodule(family(source.facts.config).final_norm)
    torch.testing.assert_close(norm(stream.hidden), hidden[-1], atol=1e-5, rtol=1e-5)


def test_visits_see_every_token_of_every_named_input(tmp_path: Path) -> None:
    source = Model(tiny_model(tmp_path))
    ids = np.arange(40).reshape(4, 10)
    rows: dict[str, int] = {}
    for layer in LayerStream(source, ids, torch.float32, "cpu"):
        rows.clear()
        layer.inputs(["mlp.down_proj", "self_attn.q_proj"], lambda n, x: rows.update({n: rows.get(n, 0) + len(x)}))
        assert rows == {"mlp.down_proj": 40, "self_attn.q_proj": 40}


class Seen:
    """Keeps every input it is shown."""

    def __init__(self) -> None:
        self.inputs: dict[str, list[torch.Tensor]] = {}

    def __call__(self, name: str, x: torch.Tensor) -> None:
        self.inputs.setdefault(name, []).append(x.clone())


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_batches_in_step_see_what_one_pass_shows_and_leave_the_same_hidden_states(
    tmp_path: Path, model_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attar.stream.BATCH_TOKENS", 20)
    source = Model(tiny_model(tmp_path, model_type, num_hidden_layers=2))
    ids = np.arange(60).reshape(6, 10)
    firsts = [names[0] for names in shared_inputs(source.facts.config)]
    plain, walked = LayerStream(source, ids, torch.float32, "cpu"), LayerStream(source, ids, torch.float32, "cpu")
    for one, other in zip(plain, walked, strict=True):
        seen, met = Seen(), Seen()
        one.inputs(firsts, seen)
        assert list(other.in_step(firsts, met)) == firsts
        for name in firsts:
            assert torch.equal(torch.cat(seen.inputs[name]), torch.cat(met.inputs[name])), name
    assert torch.equal(plain.hidden, walked.hidden)


def test_what_is_changed_at_a_halt_is_what_the_batches_go_on_with(tmp_path: Path) -> None:
    source = Model(tiny_model(tmp_path, num_hidden_layers=1))
    stream = LayerStream(source, np.arange(40).reshape(4, 10), torch.float32, "cpu")
    (layer,) = iter([next(iter(stream))])
    before = stream.hidden.clone()
    for name in layer.in_step(["self_attn.o_proj", "mlp.down_proj"], lambda name, x: None):
        layer.module.get_submodule(name).weight.data.zero_()  # type: ignore[union-attr,operator]
    assert torch.equal(stream.hidden, before)  # both branches add nothing now
