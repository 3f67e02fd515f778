"""Latencies: what the figures are of the times that were taken, and what is asked of a model for them."""

import pytest
import torch

from attar.latency import measure_latencies, percentile, summarize
from attar.model import Model
from attar.speed import measure_speed, timed_pass
from attar.suite import LATENCY_PASSES, Suite
from attar.tiny import tiny_model

SUITE = Suite(prompt=12, new_tokens=5, repeats=2, batch_sizes=[3, 1, 3])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> torch.nn.Module:
    return Model(tiny_model(tmp_path_factory.mktemp("tiny"))).materialize(torch.float32)


def test_figures_of_known_times() -> None:
    found = summarize([[1.0, 0.1, 0.3], [2.0, 0.2, 0.2], [4.0, 0.1, 0.1]], batch=4, prompt=100)
    assert (found.first_token, found.p50, found.p95) == (2.0, 0.1, 0.3)
    assert found.prefill == 4 * 100 / 2.0
    assert found.decode == pytest.approx(4 * 2 / 0.4)  # the median pass takes 0.4 s for its two tokens


@pytest.mark.parametrize("count", [1, 2, 19, 20, 21, 96])
def test_a_percentile_is_a_value_that_so_many_do_not_exceed(count: int) -> None:
    values = [float((7 * i) % count) for i in range(count)]
    for share in (0.5, 0.95, 1.0):
        found = percentile(values, share)
        assert found in values
        assert sum(value <= found for value in values) >= share * count
        assert sum(value < found for value in values) < share * count


def test_every_size_is_timed_once_with_its_warm_up(model: torch.nn.Module) -> None:
    shapes: list[tuple[int, ...]] = []
    hook = model.register_forward_pre_hook(
        lambda _, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    told: list[tuple[int, int]] = []
    try:
        found = measure_latencies(model, 512, SUITE, lambda done, total: told.append((done, total)))
    finally:
        hook.remove()
    assert list(found) == [1, 3]
    total = 2 * (LATENCY_PASSES + 1)
    assert told == [(done, total) for done in range(total)]
    for batch, latency in found.items():
        assert shapes.count((batch, 12)) == LATENCY_PASSES + 1 and shapes.count((batch, 1)) == 2 + 5 * LATENCY_PASSES
        assert 0 < latency.p50 <= latency.p95 and latency.first_token > 0
        assert latency.prefill == pytest.approx(batch * 12 / latency.first_token)


def test_no_sizes_cost_nothing(model: torch.nn.Module) -> None:
    for suite in (Suite(), Suite(speed=False, batch_sizes=[1, 4])):
        assert measure_latencies(model, 512, suite) == {}
    assert measure_speed(model, 512, SUITE).decode > 0


def test_tokens_one_by_one_are_as_many_as_were_asked(model: torch.nn.Module) -> None:
    prompt = torch.zeros(2, 4, dtype=torch.long)
    assert len(timed_pass(model, prompt, 5)) == 2 and len(timed_pass(model, prompt, 5, each=True)) == 6


def test_sizes_name_the_evaluation_and_nothing_else_does_for_them() -> None:
    def name(suite: Suite) -> str:
        return suite.fingerprint({"model": "m"}, {"device": "cpu"})

    assert name(Suite(batch_sizes=[4, 1, 4])) == name(Suite(batch_sizes=[1, 4])) != name(Suite(batch_sizes=[4]))
    assert name(Suite(batch_sizes=[4])) != name(Suite())
    assert name(Suite(speed=False, batch_sizes=[4])) == name(Suite(speed=False))


def test_a_name_stays_what_it_is_until_the_version_of_the_measures_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attar.suite.environment_versions", lambda: {"torch": "2.13"})
    assert Suite(windows=24).fingerprint({"model": "m"}, {"device": "cpu"}) == "b0e7a5a52cd893c0e045"
