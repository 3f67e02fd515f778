"""The report of a run: one row per step, from the artifacts alone; as JSON, CSV, Markdown and on the terminal."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from math import exp, log
from pathlib import Path
from typing import Any

from attar import scores
from attar.checkpoint import read_facts
from attar.errors import BadInput, StageFailed
from attar.scores import Scores
from attar.stamp import HASH, KEY, comparable, group, stamp_of
from attar.store import Artifact, Store
from pipelines import cost_figures, journal, task_figures
from pipelines.gates import Decision
from pipelines.markdown_table import markdown_table

HELD_OUT, OTHER = "held-out", "other"
BY_BYTES = "retained quality is by bits per byte, without an interval, for the tokenizer is not the origin's"


@dataclass(frozen=True)
class Row:
    """What one step made, measured. Ratios and retention are against the origin (definitions in README)."""

    step: int
    name: str
    cached: bool
    fingerprint: str
    evaluation: str
    folder: str
    parameters: int
    bytes: int
    compression_ratio: float
    perplexity_held_out: float
    perplexity_other: float
    retained: float  # headline: min(1, origin ÷ result) of the perplexity on the other-kind text, see kept
    adaptation: float  # origin ÷ result - 1 on held-out text where that is positive: learned, not retained
    kl: float | None  # nats per token, on the other-kind text
    agreement: float | None  # top-1, on the other-kind text
    prefill: float | None  # tokens/s
    decode: float | None  # tokens/s
    seconds: float | None  # of the stage, without measuring
    peak_memory_bytes: int | None  # of the stage's process
    pairs: int | None = None  # kept by a stage that makes a dataset; its model is that of the step before
    tokens: int | None = None  # of all prompts and answers of the dataset's making
    price: float | None = None  # of these tokens, in the currency that the recipe's price is in
    retained_low: float | None = None  # 95 % interval of retained, over documents; None of few, or of the origin
    retained_high: float | None = None
    verdict: str | None = None  # against the origin: better, worse, not distinguishable
    p_value: float | None = None  # of the test that the verdict asks
    documents: int | None = None  # that the interval is over
    note: str | None = None  # why nothing can be said
    bits_per_byte: float | None = None  # on the other-kind text, as the two below
    calibration_error: float | None = None
    confidently_wrong: float | None = None
    stamp: str | None = None  # rows of equal stamps may be ranked together in everything, see attar.stamp
    group: str | None = None  # rows of equal groups may be ranked together by what they retain
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)  # figures by task, see pipelines.task_figures
    parts: dict[str, int] = field(default_factory=dict)  # bytes by part, see attar.parts; they add up to ``bytes``
    bits_per_weight: float | None = None  # of the whole model
    bits_quantized: float | None = None  # of the packed linears, scales and zero points among them
    flops_per_token: float | None = None  # of a decoded token behind ``context`` others, see attar.flops
    context: int | None = None
    cpu_lost: float | None = None  # share of the CPU time wanted while it was timed that others had
    runtime_memory_bytes: int | None = None  # highest of the process that opened the model and timed it
    first_token: float | None = None  # seconds to the first token, batch 1, where batch_sizes has that
    p50: float | None = None  # seconds from a token to the next, likewise
    p95: float | None = None
    price_input: float | None = None  # of a million tokens, one sequence at a time, see pipelines.price
    price_output: float | None = None
    batches: dict[str, dict[str, float]] = field(default_factory=dict)  # batch size → latencies, speeds and prices

    @property
    def label(self) -> str:
        return f"{self.step} {self.name}"


@dataclass(frozen=True)
class Report:
    """All rows of a run so far, the origin first, and what its gates decided."""

    run: str
    recipe: str
    rows: tuple[Row, ...]
    gates: tuple[Decision, ...] = ()

    @property
    def final(self) -> Row:
        """The row of the last model."""
        return next(row for row in reversed(self.rows) if row.pairs is None)

    @property
    def stopped(self) -> str:
        """What the gates that stopped the run have to say; empty where none did."""
        broken = (one for one in self.gates if one.action == "stop" and not one.kept)
        return "; ".join(f"after {one.label}: {one.text}" for one in broken)

    def as_json(self) -> dict[str, Any]:
        return {
            "run": self.run,
            "recipe": self.recipe,
            "rows": [asdict(row) for row in self.rows],
            "gates": [asdict(decision) for decision in self.gates],
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Report":
        decisions = tuple(Decision(**found) for found in value.get("gates", []))
        return cls(value["run"], value["recipe"], tuple(Row(**row) for row in value["rows"]), decisions)


@dataclass(frozen=True)
class Reference:
    """The origin's figures that every row is compared with."""

    bytes: int  # of the origin in bf16
    result: Mapping[str, Any]
    scores: Mapping[str, Scores]

    @classmethod
    def read(cls, folder: Path, evaluation: str, store: Store) -> "Reference":
        """From the origin's folder and its evaluation."""
        result = _result(_evaluation(evaluation, store))
        scored = scores.load(store.folder("evaluation", evaluation))
        return cls(read_facts(folder).bf16_bytes, result, scored)


def make_row(
    step: int,
    name: str,
    cached: bool,
    folder: Path,
    fingerprint: str,
    evaluation: str,
    store: Store,
    origin: Reference,
    dataset: str | None = None,
    price_per_hour: float | None = None,
) -> Row:
    """A row from a stored model and its stored evaluation; bytes are those of the files on disk.

    ``dataset`` is the fingerprint of what a step made beside its unchanged model; row and manifest are then of that.
    """
    measured = _evaluation(evaluation, store)
    result = _result(measured)
    facts = read_facts(folder)
    if dataset is not None:
        fingerprint, folder = dataset, store.folder("dataset", dataset)
    made = store.find("dataset" if dataset else "model", fingerprint) if step else None
    manifest = made.manifest if made else {}
    counts = manifest.get("counts", {})
    perplexity = result["perplexity"]
    scored = scores.load(measured.folder)
    costs = cost_figures.figures(facts, result, measured.manifest.get("suite", {}), price_per_hour)
    return Row(
        step=step,
        name=name,
        cached=cached,
        fingerprint=fingerprint,
        evaluation=evaluation,
        folder=str(folder),
        parameters=facts.parameters,
        bytes=facts.bytes,
        compression_ratio=origin.bytes / facts.bytes,
        perplexity_held_out=perplexity[HELD_OUT],
        perplexity_other=perplexity[OTHER],
        retained=min(1.0, kept(result, origin.result, OTHER)),
        adaptation=max(0.0, kept(result, origin.result, HELD_OUT) - 1),
        kl=result["kl"][OTHER],
        agreement=result["agreement"][OTHER],
        prefill=result["prefill_tokens_per_second"],
        decode=result["decode_tokens_per_second"],
        seconds=manifest.get("seconds"),
        peak_memory_bytes=manifest.get("peak_memory_bytes"),
        pairs=counts.get("pairs"),
        tokens=counts["prompt_tokens"] + counts["answer_tokens"] if counts else None,
        price=counts.get("price"),
        **_compared(result, scored, origin),
        bits_per_byte=result.get("bits_per_byte", {}).get(OTHER),
        calibration_error=result.get("calibration_error", {}).get(OTHER),
        confidently_wrong=result.get("confidently_wrong", {}).get(OTHER),
        stamp=(stamp_of(result) or {}).get(HASH),
        group=group(result, "retained"),
        tasks={} if dataset else task_figures.compared(result, scored, origin.result, origin.scores),
        **({} if dataset else costs),
    )


def kept(result: Mapping[str, Any], origin: Mapping[str, Any], text: str) -> float:
    """Perplexity of ``origin`` ÷ that of ``result`` on a text, not capped at 1.

    Perplexities of a token compare where the tokens are the same. Of another tokenizer the model's is taken for as many
    bytes as a token of the origin's has, by the bits per byte of both, so that the two figures mean the same: with one
    tokenizer it is the plain ratio.
    """
    base = origin["perplexity"][text]
    if not _cut_otherwise(result, origin):
        return float(base / result["perplexity"][text])
    more = result["bits_per_byte"][text] / origin["bits_per_byte"][text] - 1
    return exp(max(-700.0, -log(base) * more))


def _cut_otherwise(result: Mapping[str, Any], origin: Mapping[str, Any]) -> bool:
    one, two = (stamp.get("tokenizer") for stamp in (result.get(KEY, {}), origin.get(KEY, {})))
    return bool(one and two and one != two)


def _compared(result: dict[str, Any], scored: Mapping[str, Scores], origin: Reference) -> dict[str, Any]:
    """The interval of the headline and what may be said of it; a note instead where the two cannot be compared."""
    from attar import statistics  # numpy, which the command line does without until there is something to compare

    loss = f"loss/{OTHER}"
    if loss not in scored or loss not in origin.scores or result == origin.result:
        return {}
    if _cut_otherwise(result, origin.result) and comparable(origin.result, result, "bits_per_byte") is None:
        return {"note": BY_BYTES}
    if why := comparable(origin.result, result, "retained"):
        return {"note": why}
    try:
        found = statistics.perplexity_retained(scored[loss], origin.scores[loss])
    except BadInput as error:
        return {"note": str(error)}
    told = found.items >= statistics.FEWEST  # of fewer, bounds would promise what they cannot keep
    apart = result.get("not_beside_origin")
    return {
        "retained_low": min(1.0, found.low) if told else None,
        "retained_high": min(1.0, found.high) if told else None,
        "verdict": found.verdict,
        "p_value": found.p,
        "documents": found.items,
        "note": found.note or (f"no KL to the origin and no agreement with it, for {apart}" if apart else None),
    }


def _evaluation(fingerprint: str, store: Store) -> Artifact:
    measured = store.find("evaluation", fingerprint)
    if measured is None:
        raise StageFailed(f"the evaluation {fingerprint} is not in the store {store.root}")
    return measured


def _result(measured: Artifact) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((measured.folder / "result.json").read_text())
    return result


# Column → (heading, text of a row): one definition for terminal and Markdown.
COLUMNS: tuple[tuple[str, Any], ...] = (
    ("step", lambda r: r.label),
    ("parameters", lambda r: f"{r.parameters / 1e6:.1f} M" if r.parameters >= 1e6 else f"{r.parameters / 1e3:.1f} k"),
    ("size", lambda r: f"{r.bytes / 1e6:.1f} MB"),
    ("ratio", lambda r: f"{r.compression_ratio:.2f}×"),
    ("perplexity\nother", lambda r: f"{r.perplexity_other:.2f}"),
    ("perplexity\nheld-out", lambda r: f"{r.perplexity_held_out:.2f}"),
    ("retained\nquality", lambda r: interval(r)),
    ("adapt-\nation", lambda r: f"+{r.adaptation:.0%}" if r.adaptation >= 0.005 else "–"),
    ("KL\nnats", lambda r: _number(r.kl, "{:.3f}")),
    ("agree-\nment", lambda r: _number(r.agreement, "{:.1%}")),
    ("prefill\ntok/s", lambda r: _number(r.prefill, "{:,.0f}")),
    ("decode\ntok/s", lambda r: _number(r.decode, "{:,.1f}")),
    ("seconds", lambda r: _number(r.seconds, "{:,.0f}") if not r.cached or not r.step else _cached(r.seconds)),
)


def cells(row: Row) -> list[str]:
    """The texts of a row; one that made a dataset tells of that, since its model is the one above."""
    if row.pairs is None:
        return [text(row) for _, text in COLUMNS]
    told = [row.label, f"{row.pairs:,} pairs", f"{_number(row.tokens, '{:,}')} tokens"]
    return [*told, *["–"] * (len(COLUMNS) - len(told) - 1), COLUMNS[-1][1](row)]


def interval(row: Row) -> str:
    """Retained quality with its 95 % interval, where there is one: ``78.1 % (76.2–79.9)``."""
    if row.retained_low is None or row.retained_high is None:
        return f"{100 * row.retained:.1f} %"
    return f"{100 * row.retained:.1f} % ({100 * row.retained_low:.1f}–{100 * row.retained_high:.1f})"


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)


def _cached(seconds: float | None) -> str:
    """What it took when it was made; now it took nothing."""
    return f"({_number(seconds, '{:,.0f}')})"


def markdown(report: Report, upright: bool = False) -> str:
    """The table as Markdown, gates, tasks and costs below it; ``upright``, where width is scarce: a measure a line."""
    headings = [heading.replace("-\n", "").replace("\n", " ") for heading, _ in COLUMNS]
    table = [headings, *(cells(row) for row in report.rows)]
    if upright:
        table = [list(line) for line in zip(*table, strict=True) if set(line[1:]) != {"–"}]
    gates = "".join(f"- {told(decision)}\n" for decision in report.gates)
    below = [gates, task_figures.markdown(report.rows), cost_figures.markdown(report.rows)]
    below.append(cost_figures.disturbed(report.rows))
    return markdown_table(table[0], table[1:]) + "".join(f"\n{text}" for text in below if text)


def told(decision: Decision) -> str:
    """What a gate decided, in a line."""
    return f"{'✓' if decision.kept else '✗'} gate after {decision.label}: {decision.text}"


def save(report: Report, folder: Path) -> list[Path]:
    """Write report.json, report.md and table.csv; returns their paths."""
    paths = [folder / "report.json", folder / "report.md", folder / "table.csv"]
    paths[0].write_text(json.dumps(report.as_json(), indent=1) + "\n")
    paths[1].write_text(f"# {report.recipe}, run {report.run}\n\n{markdown(report)}")
    with open(paths[2], "w", newline="") as file:
        csv.writer(file).writerows(columns(report.rows))
    return paths


def columns(rows: Sequence[Row]) -> list[list[Any]]:
    """The names of all figures, and those of each row: a number or a word a cell."""
    names = [field.name for field in fields(Row) if field.name not in ("tasks", *cost_figures.NESTED)]
    nested = [task_figures.numbers(row.tasks) | cost_figures.numbers(vars(row)) for row in rows]
    more = list(dict.fromkeys(name for found in nested for name in found))
    lines = [
        [*(getattr(row, name) for name in names), *(found.get(name) for name in more)]
        for row, found in zip(rows, nested, strict=True)
    ]
    return [[*names, *more], *lines]


def here(row: Row, home: Path) -> Row:
    """A row with the folder of its artifact in this home's store, which may have been moved or copied since."""
    told = Path(row.folder)
    if told.parts[-3:-1] not in (("store", "model"), ("store", "dataset")) or told.name != row.fingerprint:
        return row
    mine = home.joinpath(*told.parts[-3:])
    return replace(row, folder=str(mine)) if mine.is_dir() or not told.is_dir() else row


def load(folder: Path) -> Report | None:
    """The report of a run; of one that runs still, or was killed, the rows that its journal has; else None."""
    found = _load(folder)
    return found and replace(found, rows=tuple(here(row, folder.absolute().parents[1]) for row in found.rows))


def _load(folder: Path) -> Report | None:
    try:
        return Report.from_json(json.loads((folder / "report.json").read_text()))
    except (OSError, ValueError, KeyError, TypeError):
        records = journal.read(folder)
    rows: list[Row] = []
    decisions: list[Decision] = []
    for record in records:
        if record["kind"] == "measured":
            rows.append(Row(**record["row"]))
        elif record["kind"] == "gate":
            decisions.append(Decision(**record["decision"]))
            rows = rows[: record["again"]]  # what runs anew; None keeps all
    name = next((record["name"] for record in records if record["kind"] == "run"), "")
    return Report(folder.name, name, tuple(rows), tuple(decisions)) if rows else None
