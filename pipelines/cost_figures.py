"""What a model costs to keep and to run, for a report: bytes, bits, FLOPs, memory, latency, price; their table."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attar import contention
from attar.facts import ModelFacts
from attar.flops import flops_per_token
from attar.parts import BYTE_PARTS, bits_per_weight, bits_quantized, bytes_by_part
from attar.suite import Suite
from pipelines.markdown_table import markdown_table
from pipelines.price import prices

if TYPE_CHECKING:
    from pipelines.report import Row

NESTED = ("parts", "batches")  # columns that hold several figures


def figures(
    facts: ModelFacts, result: Mapping[str, Any], suite: Mapping[str, Any], price_per_hour: float | None
) -> dict[str, Any]:
    """Columns of a row, from the model's shapes and from what was measured; nothing is measured for it.

    Args:
        result: of the evaluation; one from before latencies has none.
        suite: settings that it was measured with.
        price_per_hour: of the machine that it was measured on.
    """
    prompt = int(suite.get("prompt") or Suite.model_fields["prompt"].default)
    prefill, decode = result["prefill_tokens_per_second"], result["decode_tokens_per_second"]
    batches = {
        size: {**latency, **_known(prices(price_per_hour, latency["prefill"], latency["decode"]))}
        for size, latency in result.get("batches", {}).items()
    }
    single = batches.get("1", {})
    return {
        "parts": bytes_by_part(facts),
        "bits_per_weight": bits_per_weight(facts),
        "bits_quantized": bits_quantized(facts),
        "flops_per_token": flops_per_token(facts, prompt),
        "context": prompt,
        "cpu_lost": result.get("cpu_lost"),
        "runtime_memory_bytes": result.get("peak_memory_bytes") if prefill else None,
        "first_token": single.get("first_token"),
        "p50": single.get("p50"),
        "p95": single.get("p95"),
        "batches": batches,
        **prices(price_per_hour, prefill, decode),
    }


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """The figures of a row's nested columns by names of their own: ``bytes.ffn``, ``batch.4.p95``."""
    found = {f"bytes.{part}": float(value) for part, value in (row.get("parts") or {}).items()}
    for size, entry in (row.get("batches") or {}).items():
        found |= {f"batch.{size}.{name}": float(value) for name, value in entry.items()}
    return found


def table(rows: Sequence["Row"]) -> tuple[list[str], list[list[str]]] | None:
    """Headings and lines of texts: a figure downwards, a step across; None of rows that tell nothing of it.

    Latencies of batches and prices are there where they were asked for; the rest follows from shapes and files.
    """
    models = [row for row in rows if row.pairs is None]
    sizes = sorted({size for row in models for size in row.batches}, key=int)
    held = [part for part in BYTE_PARTS if any(row.parts.get(part) for row in models)]
    lines = [
        *([part, *(_size(row.parts.get(part)) for row in models)] for part in held),
        ["bits per weight", *(_text(row.bits_per_weight, "{:.2f}") for row in models)],
        ["of quantized", *(_text(row.bits_quantized, "{:.2f}") for row in models)],
        ["GFLOP per token", *(_text(row.flops_per_token, "{:.3f}", 1e-9) for row in models)],
        ["memory in use", *(_text(row.runtime_memory_bytes, "{:,.0f} MB", 1e-6) for row in models)],
    ]
    for size in sizes:
        entries = [row.batches.get(size, {}) for row in models]
        lines.append([f"batch {size}: first", *(_text(e.get("first_token"), "{:,.0f} ms", 1e3) for e in entries)])
        lines.append([f"batch {size}: p50", *(_text(e.get("p50"), "{:,.1f} ms", 1e3) for e in entries)])
        lines.append([f"batch {size}: p95", *(_text(e.get("p95"), "{:,.1f} ms", 1e3) for e in entries)])
        lines.append([f"batch {size}: tok/s", *(_text(e.get("decode"), "{:,.1f}") for e in entries)])
    lines.append(["1 M tokens in", *(_price(row.price_input) for row in models)])
    lines.append(["1 M tokens out", *(_price(row.price_output) for row in models)])
    for size in sizes:
        lines.append(
            [f"batch {size}: 1 M out", *(_price(row.batches.get(size, {}).get("price_output")) for row in models)]
        )
    shown = [line for line in lines if set(line[1:]) != {"–"}]
    return (["cost", *(row.label for row in models)], shown) if shown else None


def meaning(rows: Sequence["Row"]) -> str:
    """What the lines of the table mean, of those alone that are there."""
    told = "cost: bytes by part, files being config, tokenizer and headers; bits: of all weights, and of the quantized "
    told += "ones with their scales; FLOP: of a decoded token"
    if any(row.batches for row in rows):
        told += "; one sequence at a time where no batch is named; first: until the first token; p50 and p95: from a "
        told += "token to the next; tok/s: decode, of all sequences"
    if any(row.price_input is not None for row in rows):
        told += "; 1 M in and out: the price of a million tokens read and written, in the currency of price_per_hour"
    return told


def disturbed(rows: Sequence["Row"]) -> str:
    """Of times that were taken while other work had much of the CPU: whose, how much, what to do; else nothing."""
    found = [(row.label, row.cpu_lost) for row in rows if row.pairs is None and (row.cpu_lost or 0) > contention.MUCH]
    if not found:
        return ""
    names = ", ".join(f"{label} ({lost:.0%})" for label, lost in found)
    return (
        f"Other work had a share of the CPU while these were timed: {names}. Do not rely on their speeds and prices; "
        "with the machine to itself, a run with another measure.repeats times all of them again.\n"
    )


def markdown(rows: Sequence["Row"]) -> str:
    """The same as Markdown; nothing where there is no table."""
    made = table(rows)
    return "" if made is None else markdown_table(*made)


def _known(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in values.items() if value is not None}


def _text(value: float | None, form: str, factor: float = 1) -> str:
    return "–" if value is None else form.format(value * factor)


def _size(value: int | None) -> str:
    """Bytes in eight letters at most, so that five steps stay on 80 characters."""
    if not value:
        return "–"
    unit, factor = ("GB", 1e-9) if value >= 1e9 else ("MB", 1e-6) if value >= 1e6 else ("kB", 1e-3)
    return f"{value * factor:.{2 if unit == 'GB' else 1}f} {unit}"


def _price(value: float | None) -> str:
    """Two places, or three figures of what is less than that shows."""
    return "–" if value is None else f"{value:,.2f}" if value >= 1 else f"{value:.3g}"
