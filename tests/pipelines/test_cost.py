"""What a model costs: prices change nothing that was made or measured, and every figure reaches whoever reads it."""

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from attar import contention, machine
from attar.checkpoint import read_facts
from attar.errors import BadInput
from pipelines import cost_figures, gates, gating, journal, mlflow_tracker, mlflow_words, report
from pipelines.home import Home
from pipelines.plan import make_plan
from pipelines.price import per_million, prices
from pipelines.recipe import validate
from pipelines.report import Report, Row
from pipelines.tables import show_report

LATENCY = {"first_token": 0.5, "p50": 0.02, "p95": 0.04, "prefill": 1000.0, "decode": 50.0}


def measured(model: Path, price: float | None = None, **result: Any) -> dict[str, Any]:
    """Columns of a model that reads 2,000 and writes 40 tokens a second."""
    taken = {"prefill_tokens_per_second": 2000.0, "decode_tokens_per_second": 40.0, "peak_memory_bytes": 3_000_000}
    return cost_figures.figures(read_facts(model), taken | result, {"prompt": 512}, price)


@pytest.fixture
def row(model: Path) -> Row:
    """A row with two batch sizes, on a machine of 1.80 an hour."""
    facts = read_facts(model)
    columns = measured(model, 1.8, batches={"1": LATENCY, "4": LATENCY | {"p95": 0.08, "decode": 160.0}})
    return Row(
        **dict.fromkeys(("kl", "agreement", "seconds", "peak_memory_bytes")),
        **dict.fromkeys(("compression_ratio", "perplexity_held_out", "perplexity_other", "retained"), 1.0),
        **columns,
        step=0,
        name="origin",
        cached=False,
        fingerprint="f",
        evaluation="e",
        folder=str(model),
        parameters=facts.parameters,
        bytes=facts.bytes,
        adaptation=0.0,
        prefill=2000.0,
        decode=40.0,
    )


def test_a_million_tokens_cost_the_hours_they_take() -> None:
    assert per_million(3.6, 1000) == pytest.approx(1.0)  # a thousand seconds
    assert prices(7.2, 1000, 100) == {"price_input": pytest.approx(2.0), "price_output": pytest.approx(20.0)}
    assert prices(None, 1000, 100) == prices(7.2, None, None) == {"price_input": None, "price_output": None}


def test_figures_follow_from_shapes_and_from_what_was_measured(model: Path) -> None:
    facts, found = read_facts(model), measured(model, 1.8, batches={"1": LATENCY, "4": LATENCY | {"decode": 160.0}})
    assert sum(found["parts"].values()) == facts.bytes
    assert found["bits_per_weight"] == 16 and found["bits_quantized"] is None
    assert found["context"] == 512 and found["runtime_memory_bytes"] == 3_000_000
    assert (found["first_token"], found["p50"], found["p95"]) == (0.5, 0.02, 0.04)  # of one sequence at a time
    assert measured(model)["first_token"] is None  # where batch sizes were not measured, whatever prefill took
    assert found["price_output"] == pytest.approx(1.8 / 3600 / 40 * 1e6)
    assert found["batches"]["4"]["price_output"] == pytest.approx(found["price_output"] / 4)


def test_an_evaluation_from_before_has_all_that_shapes_tell(model: Path) -> None:
    quick = {"prefill_tokens_per_second": None, "decode_tokens_per_second": None}
    found = cost_figures.figures(read_facts(model), quick, {}, 1.8)
    assert found["batches"] == {} and found["flops_per_token"] > 0 and found["parts"]["ffn"] > 0
    absent = ("p50", "p95", "first_token", "runtime_memory_bytes", "price_input", "price_output", "bits_quantized")
    assert all(found[name] is None for name in absent)


def test_every_figure_is_in_json_csv_and_metrics(row: Row, tmp_path: Path) -> None:
    made = Report("run-1", "small", (row,))
    report.save(made, tmp_path)
    assert report.load(tmp_path) == made
    with open(tmp_path / "table.csv", newline="") as file:
        (line,) = csv.DictReader(file)
    assert "parts" not in line and "batches" not in line
    metrics = mlflow_tracker.figures(made.as_json()["rows"][0])
    told = {"bytes.ffn": row.parts["ffn"], "batch.4.p95": 0.08, "p95": 0.04, "flops_per_token": row.flops_per_token}
    told |= {"price_output": row.price_output, "bits_per_weight": 16, "first_token": row.first_token}
    for name, value in told.items():
        assert float(line[name]) == metrics[name] == value
    assert sum(metrics[name] for name in metrics if name.startswith("bytes.")) == metrics["bytes"]
    assert all(mlflow_words.key_of(name) == name for name in metrics)  # MLflow takes them as they are


def test_what_shapes_tell_is_always_shown_and_the_rest_when_it_was_asked_for(row: Row) -> None:
    plain = replace(row, batches={}, price_input=None, price_output=None)
    shown = cost_figures.markdown([plain])
    assert "| bits per weight | 16.00 |" in shown and "GFLOP per token" in shown and "of quantized" not in shown
    names = [line.split(" | ")[0].removeprefix("| ") for line in shown.splitlines()]
    assert [name for name in names if name in row.parts] == [name for name, size in row.parts.items() if size]
    assert not any(word in shown for word in ("batch", "1 M tokens")) and "p95" not in cost_figures.meaning([plain])
    mute = dict.fromkeys(("bits_per_weight", "flops_per_token", "runtime_memory_bytes", "first_token"))
    assert cost_figures.markdown([replace(plain, parts={}, **mute)]) == ""  # of an Attar from before
    assert "batch 4: p95 | 80.0 ms" in cost_figures.markdown([row, plain])
    priced = cost_figures.markdown([replace(row, batches={})])
    assert "1 M tokens out | 12.50" in priced and "batch" not in priced
    assert cost_figures.markdown([row]) in report.markdown(Report("run-1", "small", (row,)))
    console = Console(width=80, force_terminal=True, color_system=None, record=True, file=StringIO())
    show_report(console, Report("run-1", "small", (row,)))
    assert "batch 4: p95" in (text := console.export_text()) and "80.0 ms" in text
    five = tuple(replace(row, step=step, name=name) for step, name in enumerate(["finetune.scales"] * 5))
    console = Console(width=80, force_terminal=True, color_system=None, record=True, file=StringIO())
    show_report(console, Report("run-1", "small", five))
    line = next(line for line in console.export_text().splitlines() if "batch 4: tok/s" in line)
    assert line.count("160.0") == 5  # on 80 characters
    large = tuple(replace(one, parts={"embeddings": 999_900_000_000, "ffn": 999_900_000}) for one in five)
    console = Console(width=80, force_terminal=True, color_system=None, record=True, file=StringIO())
    show_report(console, Report("run-1", "small", large))
    assert console.export_text(clear=False).count("999.90 GB") == console.export_text().count("999.9 MB") == 5
    small = replace(row, price_input=0.00012345)
    assert "0.000123" in cost_figures.markdown([small])


@pytest.mark.parametrize(
    ("measure", "bound", "kept"),
    [
        ("p95", "40 ms", True),
        ("p95", "39.9 ms", False),
        ("p95/1", "0.04 s", True),
        ("p95/4", "40 ms", False),
        ("p95/4", "80 ms", True),
        ("p50", "20 ms", True),
        ("first_token", "500 ms", True),
        ("first_token/4", "499 ms", False),
        ("price_output", 12.5, True),
        ("price_output/4", 3, False),
        ("peak_memory", "3 MB", True),
        ("bits_per_weight", "15.9 bits", False),
        ("flops_per_token", "1 GFLOP", True),
        ("p95", "1.0×", True),
    ],
)
def test_gates_judge_costs_in_their_units(row: Row, home: Path, measure: str, bound: Any, kept: bool) -> None:
    (gate,) = gates.parse([{"measure": measure, "max": bound}])
    assert gates.judge(gate, gating.figure(measure, row, row, Home(home).store)).kept == kept


def test_speeds_of_a_batch_are_the_better_the_higher(row: Row, home: Path) -> None:
    for least, kept in ((160, True), (161, False)):
        (gate,) = gates.parse([{"measure": "decode/4", "min": least}])
        assert gates.judge(gate, gating.figure("decode/4", row, row, Home(home).store)).kept == kept


@pytest.mark.parametrize(
    ("gate", "words"),
    [
        ({"measure": "p95", "max": 40}, r"max=40 is no limit of p95; possible: a number, with s or ms or ×"),
        ({"measure": "p95", "min": "40 ms"}, "p95 is the better the lower it is; write max"),
        ({"measure": "p95/0", "max": "1 s"}, "p95 has no batch size '0'"),
        ({"measure": "bytes/4", "max": 1}, "bytes is measured at no batch size"),
        ({"measure": "p59", "max": "1 s"}, "no measure 'p59'; did you mean"),
        ({"measure": "p95", "max": "40 ms"}, r"p95 is measured where measure\.batch_sizes has 1, and it is \[4\]"),
        ({"measure": "decode/2", "min": 1}, r"decode/2 is measured where measure\.batch_sizes has 2"),
        ({"measure": "price_output", "max": 1}, "price_output needs the recipe's price_per_hour"),
        (
            {"measure": "bits_per_weight", "max": 2},
            r"the plan foresees a breach after 2 quantize\.rtn: bits_per_weight",
        ),
        ({"measure": "flops_per_token", "max": 10}, "the plan foresees a breach after 2 quantize.rtn: flops_per_token"),
    ],
    ids=str,
)
def test_gates_that_cannot_be_judged_are_refused(
    document: dict[str, Any], home: Path, gate: dict[str, Any], words: str
) -> None:
    document |= {"gates": [gate], "measure": {"windows": 4, "length": 64, "batch_sizes": [4], "prompt": 32}}
    with pytest.raises(BadInput, match=words):
        make_plan(validate(document), Home(home), complete=True)


def test_costs_are_not_measured_without_speed(document: dict[str, Any]) -> None:
    document["measure"] |= {"batch_sizes": [1]}
    for measure in ("p95", "peak_memory", "first_token"):
        bound = "1 GB" if measure == "peak_memory" else "1 s"
        with pytest.raises(BadInput, match=rf"{measure} is not measured with measure\.speed=false"):
            validate(document | {"gates": [{"measure": measure, "max": bound}]})


@pytest.mark.parametrize("price", [0, -1.5, float("inf"), float("nan"), "cheap"])
def test_a_price_is_a_positive_number(document: dict[str, Any], price: Any) -> None:
    with pytest.raises(BadInput, match="price_per_hour"):
        validate(document | {"price_per_hour": price})


@pytest.mark.parametrize("sizes", [[0], [1, 2000], ["4"], 4, list(range(1, 10))])
def test_batch_sizes_have_bounds(document: dict[str, Any], sizes: Any) -> None:
    with pytest.raises(BadInput, match="batch_sizes"):
        validate(document | {"measure": {"batch_sizes": sizes}})


def test_batches_beyond_the_memory_are_refused_with_the_largest_that_fits(
    document: dict[str, Any], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document["measure"] = {"windows": 4, "length": 64, "prompt": 400, "batch_sizes": [1, 900]}
    make_plan(validate(document), Home(home), complete=True)
    monkeypatch.setattr(machine, "memory_bytes", lambda: 600_000_000)
    with pytest.raises(
        BadInput, match=r"batch_sizes: 900 sequences of 432 tokens may need .* the largest .* is (\d+)"
    ) as told:
        make_plan(validate(document), Home(home), complete=True)
    largest = int(str(told.value).rpartition(" ")[2])
    document["measure"]["batch_sizes"] = [largest]
    make_plan(validate(document), Home(home), complete=True)
    document["measure"] |= {"batch_sizes": [1, 900], "speed": False}
    make_plan(validate(document), Home(home), complete=True)


def test_a_price_moves_no_fingerprint_and_sizes_only_that_of_the_measurement(
    document: dict[str, Any], home: Path
) -> None:
    document["measure"] = {"windows": 4, "length": 64, "prompt": 32}

    def planned(**changed: Any) -> Any:
        return make_plan(validate(document | changed), Home(home), complete=True).steps

    plain = planned()
    assert planned(price_per_hour=2) == plain
    timed = planned(measure=document["measure"] | {"batch_sizes": [1, 4]})
    for before, after in zip(plain, timed, strict=True):
        assert before.made == after.made and before.evaluation != after.evaluation
        assert after.measuring.seconds > before.measuring.seconds


def test_a_run_with_another_price_measures_nothing_again(
    document: dict[str, Any], home: Path, write: Callable[[Any], Path]
) -> None:
    speed = {"speed": True, "prompt": 16, "new_tokens": 3, "repeats": 1, "batch_sizes": [1, 3]}
    document["measure"] |= speed
    document |= {"stages": document["stages"][1:], "gates": [{"measure": "p95/3", "max": "1000 s"}]}

    def run(*more: str) -> list[Row]:
        command = [sys.executable, "-m", "pipelines.cli", "run", str(write(document)), "--home", str(home)]
        done = subprocess.run([*command, "--json", "--no-track", *more], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return [Row(**row) for row in json.loads(done.stdout)["rows"]]

    first = run()
    assert all(row.price_output is None and set(row.batches) == {"1", "3"} for row in first)
    assert all(row.p95 and row.p50 and row.p50 <= row.p95 and row.runtime_memory_bytes for row in first)
    assert first[0].bits_per_weight > first[1].bits_per_weight  # type: ignore[operator]
    newer = run("price_per_hour=3.6")
    folder = max(home.glob("runs/*"))
    assert not [record for record in journal.read(folder) if record["kind"] == "child"]
    for before, after in zip(first, newer, strict=True):
        assert after.decode and after.price_output == pytest.approx(1000 / after.decode)
        assert after.batches["3"]["price_output"] == pytest.approx(1000 / before.batches["3"]["decode"])
        assert (after.evaluation, after.p95, after.decode) == (before.evaluation, before.p95, before.decode)


def test_times_that_were_taken_beside_other_work_say_so(row: Row) -> None:
    quiet, busy = replace(row, cpu_lost=contention.MUCH / 2), replace(row, step=1, name="prune.width", cpu_lost=0.47)
    out = StringIO()
    made = Report("run", "recipe", (quiet, busy))
    show_report(Console(file=out, width=300), made)
    for text in (out.getvalue(), report.markdown(made)):
        assert "1 prune.width (47%)" in text and "0 origin (" not in text
    assert cost_figures.disturbed([quiet, replace(busy, cpu_lost=None)]) == ""
