"""Measures against their definitions."""

from math import exp, log

import pytest
import torch
from torch.nn import functional

from attar.model import Model
from attar.quality import Reference, measure_text
from attar.tiny import tiny_model

IDS = torch.randint(0, 512, (5, 48), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> torch.nn.Module:
    return Model(tiny_model(tmp_path_factory.mktemp("origin"))).materialize(torch.float32)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> torch.nn.Module:
    return Model(tiny_model(tmp_path_factory.mktemp("other"), seed=1)).materialize(torch.float32)


def test_perplexity_is_exp_of_the_mean_loss_without_first_tokens(origin: torch.nn.Module) -> None:
    quality, _ = measure_text(origin, IDS, None)
    logits = origin(input_ids=IDS).logits[:, :-1]
    loss = functional.cross_entropy(logits.flatten(0, 1), IDS[:, 1:].flatten())
    assert quality.perplexity == pytest.approx(exp(loss.item()), rel=1e-5)
    assert quality.scored_tokens == 5 * 47
    assert quality.bits_per_byte(1000) == pytest.approx(loss.item() * 5 * 47 / log(2) / 1000, rel=1e-5)


def test_a_model_is_no_distance_from_itself(origin: torch.nn.Module) -> None:
    _, hidden = measure_text(origin, IDS, None)
    itself, _ = measure_text(origin, IDS, Reference(hidden, origin.get_output_embeddings().weight))  # type: ignore[operator]
    assert itself.kl == pytest.approx(0, abs=1e-6) and itself.agreement == 1


def test_kl_and_agreement_are_those_of_the_logits(origin: torch.nn.Module, other: torch.nn.Module) -> None:
    _, hidden = measure_text(origin, IDS, None)
    quality, _ = measure_text(other, IDS, Reference(hidden, origin.get_output_embeddings().weight))  # type: ignore[operator]
    p = functional.log_softmax(origin(input_ids=IDS).logits[:, :-1].double(), -1)
    q = functional.log_softmax(other(input_ids=IDS).logits[:, :-1].double(), -1)
    assert quality.kl == pytest.approx((p.exp() * (p - q)).sum(-1).mean().item(), rel=1e-4)
    assert quality.agreement == pytest.approx((p.argmax(-1) == q.argmax(-1)).double().mean().item(), abs=1e-6)
