"""Reports: the definitions of the measures, and that nothing is lost between memory and disk."""

import csv
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from io import StringIO
from math import exp, log
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from rich.console import Console

from attar import scores
from attar.scores import Scores
from attar.stamp import stamp
from attar.store import Store
from attar.tiny import tiny_model
from pipelines import plot, report
from pipelines.journal import Journal, NullTracker
from pipelines.report import Reference, Report, Row
from pipelines.tables import show_report


def stored(store: Store, name: str, held_out: float, other: float, kl: float | None = 0.5) -> str:
    """An evaluation with these perplexities."""
    result: dict[str, Any] = {
        "perplexity": {"held-out": held_out, "other": other},
        "kl": {"held-out": kl, "other": kl},
        "agreement": {"held-out": 0.5, "other": 0.75},
        "prefill_tokens_per_second": 100.0,
        "decode_tokens_per_second": None,
    }
    draft = store.draft("evaluation", name)
    (draft / "result.json").write_text(json.dumps(result))
    store.commit("evaluation", name, draft, {"inputs": {}})
    return name


def scored(
    store: Store,
    name: str,
    losses: list[float],
    bits: float = 1.0,
    result: Mapping[str, Any] = MappingProxyType({}),
    **parts: Any,
) -> str:
    """An evaluation with these mean losses on documents of ten tokens each, the other-kind text being all there is."""
    counts = (10,) * len(losses)
    perplexity = exp(sum(losses) / len(losses))
    figures = (("perplexity", perplexity), ("bits_per_byte", bits), ("kl", 0.1))
    result = {
        **result,
        **{key: {"held-out": value, "other": value} for key, value in figures},
        **{key: {"held-out": 0.5, "other": 0.25} for key in ("agreement", "calibration_error", "confidently_wrong")},
        "prefill_tokens_per_second": None,
        "decode_tokens_per_second": None,
        "stamp": stamp(**{"suite": 2, "windows": 4, **parts}),
    }
    draft = store.draft("evaluation", name)
    (draft / "result.json").write_text(json.dumps(result))
    ids = tuple(f"d{i}" for i in range(len(losses)))
    scores.save({"loss/other": Scores(ids, tuple(10 * loss for loss in losses), counts)}, draft)
    store.commit("evaluation", name, draft, {"inputs": {}})
    return name


def imported(store: Store, name: str, **config: Any) -> Path:
    draft = store.draft("model", name)
    tiny_model(draft, **config)
    return store.commit("model", name, draft, {"inputs": {}, "seconds": 12.5, "peak_memory_bytes": 1000}).folder


@pytest.fixture
def rows(tmp_path: Path) -> list[Row]:
    """Origin, a stage that lost on one text and gained on the other, and a stage that gained on both."""
    store = Store(tmp_path / "store")
    models = [
        imported(store, "a"),
        imported(store, "b", num_hidden_layers=2),
        imported(store, "c", num_hidden_layers=1),
    ]
    evaluations = [stored(store, "x", 20, 30, 0.0), stored(store, "y", 10, 40), stored(store, "z", 15, 25, None)]
    origin = Reference.read(models[0], evaluations[0], store)
    names = ["origin", "prune.width", "finetune.full"]
    return [report.make_row(i, names[i], i == 1, models[i], "abc"[i], evaluations[i], store, origin) for i in range(3)]


def test_measures_are_what_the_definitions_say(rows: list[Row]) -> None:
    origin, lost, gained = rows
    assert (origin.retained, origin.adaptation, origin.seconds) == (1, 0, None)
    assert origin.compression_ratio == pytest.approx(1, rel=0.02)
    assert lost.retained == 0.75  # the other-kind text alone counts
    assert lost.adaptation == 1.0  # half the perplexity on held-out text: learned, not retained
    assert gained.retained == 1.0  # capped
    assert gained.kl is None and gained.decode is None
    assert lost.compression_ratio == pytest.approx(origin.compression_ratio * origin.bytes / lost.bytes)
    assert (lost.seconds, lost.peak_memory_bytes) == (12.5, 1000)


def test_reports_survive_the_disk(rows: list[Row], tmp_path: Path) -> None:
    made = Report("run-1", "small", tuple(rows))
    report.save(made, tmp_path)
    assert report.load(tmp_path) == made
    with open(tmp_path / "table.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [float(line["perplexity_other"]) for line in lines] == [30, 40, 25]


def test_tables_show_every_row_and_what_was_made_before_in_brackets(rows: list[Row]) -> None:
    text = report.markdown(Report("run-1", "small", tuple(rows)))
    assert len(text.partition("\n\n")[0].splitlines()) == 2 + len(rows)
    lost = text.splitlines()[3]
    assert "| 1 prune.width |" in lost and "| 75.0 % |" in lost and "| +100% |" in lost and "| (12) |" in lost


def test_an_upright_table_has_a_stage_a_column_and_no_measure_that_was_never_taken(rows: list[Row]) -> None:
    text = report.markdown(Report("run-1", "small", tuple(rows)), upright=True)
    lines = text.splitlines()
    assert lines[0] == f"| step | {' | '.join(row.label for row in rows)} |"
    assert lines[1] == "|---|---:|---:|---:|"
    measures = [line.split(" | ")[0].removeprefix("| ") for line in lines[2:]]
    assert "retained quality" in measures and "prefill tok/s" in measures and "decode tok/s" not in measures


def test_a_run_that_is_not_done_shows_what_its_journal_has(rows: list[Row], tmp_path: Path) -> None:
    written = Journal(tmp_path, NullTracker())
    written.write("run", name="small")
    for row in rows[:2]:
        written.write("measured", step=row.step, row=asdict(row))
    assert report.load(tmp_path) == Report(tmp_path.name, "small", tuple(rows[:2]))


def test_a_report_that_is_not_there_or_broken_is_none(tmp_path: Path) -> None:
    assert report.load(tmp_path) is None
    (tmp_path / "report.json").write_text("{")
    assert report.load(tmp_path) is None


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_plot_is_a_picture(rows: list[Row], tmp_path: Path, count: int) -> None:
    path = plot.pareto(Report("run-1", "small", tuple(rows[:count])), tmp_path / "p.png")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_retained_has_an_interval_over_documents_and_a_verdict(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    folder = imported(store, "a")
    base = [2.0 + 0.1 * i for i in range(12)]
    origin = Reference.read(folder, scored(store, "origin", base), store)

    def row(name: str, losses: list[float], **parts: Any) -> Row:
        return report.make_row(1, name, False, folder, "a", scored(store, name, losses, **parts), store, origin)

    worse = row("worse", [loss + 0.1 + 0.01 * (i % 3) for i, loss in enumerate(base)])
    assert worse.verdict == "worse" and worse.documents == 12 and worse.p_value is not None and worse.p_value < 0.01
    assert worse.retained_low is not None and worse.retained_high is not None
    assert worse.retained_low < worse.retained < worse.retained_high < 1
    assert worse.retained == pytest.approx(exp(-0.11))
    assert worse.calibration_error == worse.confidently_wrong == 0.25 and worse.stamp is not None
    shown = f"{100 * worse.retained:.1f} % ({100 * worse.retained_low:.1f}–{100 * worse.retained_high:.1f})"
    assert shown in report.markdown(Report("run-1", "small", (worse,)))

    noisy = row("noisy", [loss + (0.3 if i % 2 else -0.3) for i, loss in enumerate(base)])
    assert noisy.verdict == "not distinguishable" and noisy.retained_high == 1  # capped, as retained is
    other = row("other", base, windows=8)
    assert other.verdict is None and "differ in windows" in str(other.note)
    assert worse.group == noisy.group != other.group and None not in (worse.group, other.group)
    assert row("origin-again", base).verdict is None  # the origin is not compared with itself
    report.save(Report("run-1", "small", (worse, noisy, other)), tmp_path)
    assert report.load(tmp_path) == Report("run-1", "small", (worse, noisy, other))


def test_five_steps_with_their_intervals_fit_on_eighty_characters(rows: list[Row]) -> None:
    told = [replace(row, retained_low=0.991, retained_high=1.0) for row in (rows * 2)[1:]]
    console = Console(width=80, force_terminal=True, color_system=None, record=True, file=StringIO())
    show_report(console, Report("run-1", "small", tuple(told)))
    text = console.export_text()
    assert text.count("≥ 99.1") == text.count("≤ 100.0") == 5 and "…" not in text


def test_few_documents_give_no_interval_and_say_why(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    folder = imported(store, "a")
    origin = Reference.read(folder, scored(store, "origin", [2.0, 3.0]), store)
    row = report.make_row(1, "few", False, folder, "a", scored(store, "few", [2.5, 3.5]), store, origin)
    assert (row.retained_low, row.verdict, row.documents) == (None, "not distinguishable", 2)
    assert row.note == "too few items to tell models apart: 2 of at least 6"
    assert f"| {100 * exp(-0.5):.1f} % |" in report.markdown(Report("run-1", "small", (row,)))


def test_reports_from_before_intervals_are_still_read(rows: list[Row], tmp_path: Path) -> None:
    made = Report("run-1", "small", tuple(rows)).as_json()
    new = ("retained_low", "retained_high", "verdict", "p_value", "documents", "note", "stamp", "group")
    new += ("bits_per_byte", "calibration_error", "confidently_wrong")
    older = {**made, "rows": [{key: value for key, value in row.items() if key not in new} for row in made["rows"]]}
    (tmp_path / "report.json").write_text(json.dumps(older))
    assert report.load(tmp_path) == Report("run-1", "small", tuple(rows))


@pytest.mark.parametrize(
    ("tokens", "more", "told"), [(0.5, 0.0, 1.0), (2.0, 0.0, 1.0), (0.5, 0.25, 0.5), (1, 0.25, 0.5)]
)
def test_of_another_tokenizer_quality_is_told_by_bytes(tmp_path: Path, tokens: float, more: float, told: float) -> None:
    """The origin's perplexity is 16 a token; the model has ``tokens`` times as many, and needs ``more`` bits."""
    store, folder = Store(tmp_path / "store"), imported(Store(tmp_path / "store"), "a")
    base = [log(16)] * 8
    origin = Reference.read(folder, scored(store, "origin", base, bits=1.0, tokenizer="t"), store)
    name = scored(store, "other", [loss * (1 + more) / tokens for loss in base], bits=1 + more, tokenizer="u")
    row = report.make_row(1, "other", False, folder, "a", name, store, origin)
    assert row.retained == pytest.approx(told) and row.adaptation == 0
    assert (row.retained_low, row.verdict, row.note) == (None, None, report.BY_BYTES)
    same = scored(store, "same", [loss * (1 + more) for loss in base], bits=1 + more, tokenizer="t")
    assert report.make_row(1, "same", False, folder, "a", same, store, origin).retained == pytest.approx(told)


def test_documents_that_were_cut_otherwise_are_a_note(tmp_path: Path) -> None:
    store, folder = Store(tmp_path / "store"), imported(Store(tmp_path / "store"), "a")
    origin = Reference.read(folder, scored(store, "origin", [2.0] * 8), store)
    row = report.make_row(1, "x", False, folder, "a", scored(store, "x", [2.5] * 7), store, origin)
    assert row.verdict is None and "not scored on the same items, token for token" in str(row.note)


def test_a_head_of_another_size_has_a_verdict_and_says_what_it_has_not(tmp_path: Path) -> None:
    store, folder = Store(tmp_path / "store"), imported(Store(tmp_path / "store"), "a")
    origin = Reference.read(folder, scored(store, "origin", [2.0] * 8), store)
    name = scored(store, "x", [2.5] * 8, result={"not_beside_origin": "the vocabulary differs (96 and 128 rows)"})
    row = report.make_row(1, "x", False, folder, "a", name, store, origin)
    assert row.verdict == "worse" and row.retained_low is not None
    assert row.note == "no KL to the origin and no agreement with it, for the vocabulary differs (96 and 128 rows)"
