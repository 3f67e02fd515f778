"""What gates judge: intervals of scores by document, and of multiples of the origin's figure in pairs."""

from dataclasses import MISSING, fields, replace
from math import exp
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attar import scores, statistics
from attar.scores import Scores
from attar.store import Store
from pipelines import gates, gating
from pipelines.gates import Judgement
from pipelines.report import BY_BYTES, Row

DOCUMENTS = 15
SPREAD = tuple(2.0 + 0.1 * i for i in range(DOCUMENTS))  # nats a token: documents differ more than models do
TOKENS, BYTES = 100, 400


class Bench:
    """Evaluations of which only the scores are there, and rows that tell of them."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.origin = self.row("origin", SPREAD)

    def row(self, name: str, losses: tuple[float, ...], named: str = "d", **more: Scores) -> Row:
        ids = tuple(f"{named}{i}" for i in range(len(losses)))
        loss = Scores(ids, tuple(TOKENS * one for one in losses), (TOKENS,) * len(ids))
        bits = Scores(ids, tuple(TOKENS * one / np.log(2) for one in losses), (BYTES,) * len(ids))
        draft = self.store.draft("evaluation", name)
        found = {"loss/other": loss, "loss/held-out": loss, "bits/other": bits, **more}
        scores.save(found, draft)
        self.store.commit("evaluation", name, draft, {})
        needed = {one.name: None for one in fields(Row) if one.default is MISSING and one.default_factory is MISSING}
        told: dict[str, Any] = {"evaluation": name, "bits_per_byte": bits.mean, "bytes": 1, "decode": 10.0}
        told |= {"perplexity_other": exp(loss.mean), "perplexity_held_out": exp(loss.mean)}
        told["confidently_wrong"] = more["sure-wrong/other"].mean if more else 0.0
        told["calibration_error"] = 0.1
        if name != "origin" and named == "d" and len(ids) >= statistics.FEWEST:
            kept = statistics.perplexity_retained(loss, scores.load(self.folder("origin"))["loss/other"])
            told |= {"retained": min(1.0, kept.value), "retained_low": kept.low, "verdict": kept.verdict}
            told |= {"retained_high": kept.high, "documents": kept.items}
        return Row(**needed | told)

    def folder(self, name: str) -> Path:
        return self.store.folder("evaluation", name)

    def judge(self, row: Row, measure: str, **limit: Any) -> Judgement:
        (gate,) = gates.parse([{"measure": measure, **limit}])
        return gates.judge(gate, gating.figure(measure, row, self.origin, self.store))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(Store(tmp_path / "store"))


def worse(by: float, noise: float = 0.0) -> tuple[float, ...]:
    return tuple(loss + by + noise * (i % 3 - 1) for i, loss in enumerate(SPREAD))


@pytest.mark.parametrize("measure", ["bits_per_byte", "perplexity_other", "perplexity_held_out"])
def test_the_origin_is_exactly_one_time_itself(bench: Bench, measure: str) -> None:
    """Though a bound of its own interval is far above it."""
    assert bench.judge(bench.origin, measure, max="1×").kept
    figure = gating.figure(measure, bench.origin, bench.origin, bench.store)
    assert figure.times == (1.0, 1.0) and figure.value and figure.high and figure.high > 1.05 * figure.value


def test_a_multiple_is_judged_by_the_interval_of_the_ratio(bench: Bench) -> None:
    row = bench.row("model", worse(0.02, 0.01))
    figure = gating.figure("perplexity_other", row, bench.origin, bench.store)
    assert figure.times is not None and figure.times[0] < exp(0.02) < figure.times[1] < 1.05
    assert (
        bench.judge(row, "perplexity_other", max="1.05×").kept and bench.judge(row, "bits_per_byte", max="1.05×").kept
    )
    just = (1 + figure.times[1]) / 2  # the value keeps it, which an end of the interval does not
    judged = bench.judge(row, "perplexity_other", max=f"{just:.6f}×")
    assert not judged.kept and f"high end {figure.times[1]:.3f}×" in judged.text


@pytest.mark.parametrize("by", [0.0, 0.05, 0.2, 0.5])
@pytest.mark.parametrize("least", [0.6, 0.8, 0.95])
def test_a_headline_and_the_same_limit_of_perplexity_are_judged_alike(bench: Bench, by: float, least: float) -> None:
    row = bench.row("model", worse(by, 0.03))
    headline = bench.judge(row, "headline", min=least)
    assert headline.kept == bench.judge(row, "perplexity_other", max=f"{1 / least}×").kept
    assert headline.kept <= (exp(-by) >= least)


def test_an_absolute_limit_is_judged_at_the_high_end(bench: Bench) -> None:
    row = bench.row("model", worse(0.1))
    for measure in ("perplexity_other", "bits_per_byte"):
        figure = gating.figure(measure, row, bench.origin, bench.store)
        assert figure.low and figure.value and figure.high and figure.low < figure.value < figure.high
        between = (figure.value + figure.high) / 2
        assert not bench.judge(row, measure, max=between).kept
        asked = bench.judge(row, measure, max=between, bound="value")
        assert asked.kept and "judged by its value, as the gate asks" in asked.text
        assert bench.judge(row, measure, max=1.0001 * figure.high).kept


def test_sure_and_wrong_and_calibration_have_the_intervals_of_their_documents(bench: Bench) -> None:
    ids, counts = tuple(f"d{i}" for i in range(DOCUMENTS)), (TOKENS,) * DOCUMENTS
    wrong = Scores(ids, tuple(float(i % 4) for i in range(DOCUMENTS)), counts)
    gaps = {f"gap/other/{n}": Scores(ids, tuple(n + (i % 3) for i in range(DOCUMENTS)), counts) for n in range(3)}
    row = bench.row("model", worse(0.1), **{"sure-wrong/other": wrong, **gaps})
    figure = gating.figure("confidently_wrong", row, bench.origin, bench.store)
    assert (figure.low, figure.high) == statistics.mean_interval(wrong)
    figure = gating.figure("calibration_error", row, bench.origin, bench.store)
    assert (figure.low, figure.high) == statistics.gap_interval(list(gaps.values()))
    judged = bench.judge(row, "confidently_wrong", max=wrong.mean)
    assert not judged.kept and "high end" in judged.text


def test_what_is_judged_by_its_value_says_so_and_why(bench: Bench) -> None:
    row, few = bench.row("model", worse(0.1)), bench.row("few", SPREAD[:5])
    for measure, limit in (("bytes", {"max": 1}), ("decode", {"min": "1×"})):
        judged = bench.judge(row, measure, **limit)
        assert judged.kept and "judged by its value" in judged.text and "judged by its value:" not in judged.text
    assert "judged by its value: no scores of documents are kept" in bench.judge(row, "calibration_error", max=0.2).text
    assert "judged by its value: there are too few documents" in bench.judge(few, "perplexity_other", max=99).text


def test_without_pairs_the_models_own_interval_is_judged_and_that_is_told(bench: Bench) -> None:
    """Another tokenizer has windows of other documents."""
    other = bench.row("other", SPREAD, named="e")
    judged = bench.judge(other, "bits_per_byte", max="1.05×")
    assert not judged.kept and "not in pairs: the origin was not measured on the same documents" in judged.text
    assert bench.judge(other, "bits_per_byte", max="1.5×").kept


@pytest.mark.parametrize("measure", ["headline", "perplexity_other", "perplexity_held_out", "kl", "agreement"])
def test_what_cannot_be_judged_of_another_tokenizer_says_why_and_what_can(bench: Bench, measure: str) -> None:
    """Its retained quality has a value all the same, by bits per byte, so that it was measured."""
    other = replace(bench.row("other", SPREAD, named="e"), retained=0.91, note=BY_BYTES)
    judged = bench.judge(other, measure, **({"max": 99} if gates.MEASURES[measure].higher is False else {"min": 0.1}))
    assert not judged.kept and "was not measured" not in judged.text
    assert "another tokenizer, so nobody can tell; judge bits_per_byte by a number" in judged.text
    figure = gating.figure("bits_per_byte", other, bench.origin, bench.store)  # as is told: in its own interval
    assert figure.value and figure.high and bench.judge(other, "bits_per_byte", max=1.01 * figure.high).kept
    assert not bench.judge(other, "bits_per_byte", max=0.99 * figure.value).kept


def test_what_was_measured_otherwise_than_the_origin_says_in_what(bench: Bench) -> None:
    other = replace(bench.row("other", SPREAD, named="e"), retained=0.91, note="the two differ in windows (4 and 8)")
    told = bench.judge(other, "headline", min=0.5).text
    assert told == "headline ≥ 0.5: the two differ in windows (4 and 8), so nobody can tell"
