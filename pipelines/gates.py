"""Gates: a measure, a limit, where it is judged, what a breach does; the judgement itself. Pure: values in, words out.

    gates:
      - {measure: bytes, max: 100 MB}
      - measure: headline
        min: 0.95
        after: stages.1
        breach: {bisect: {setting: stages.0.ffn, within: [0.05, 0.5], probes: 6}}

What is judged is the bound of the interval that is nearer to the breach, so that a gate is not passed by luck: the low
end against ``min``, the high end against ``max``. A limit that is a multiple of the origin's figure (``1.05×``) is held
against the interval of the ratio, in pairs over documents. What is measured on no documents has no interval (bytes,
sizes, speeds, latencies, prices) and is judged by its value, and the decision says so. Speeds, latencies and prices are
those of one sequence at a time, or of a batch: ``p95/4`` with ``max: 60 ms``. Tasks are ``task/NAME``, see
:mod:`pipelines.task_measures`.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from attar.complaint import complaint
from attar.errors import BadInput, nearest
from pipelines import task_measures

STAGE = r"stages\.[0-9]{1,3}(\.stages\.[0-9]{1,3})*"
Unit = Literal[
    "share", "bytes", "count", "times", "nats", "speed", "seconds", "flops", "bits", "price", "plain", "answers"
]
Number = int | float


class Measure(NamedTuple):
    """A column of the report that a gate can be on."""

    column: str
    unit: Unit
    higher: bool  # is better
    scores: str = ""  # per document, that its interval is made of
    made: Literal["mean", "exp", "gaps"] = "mean"  # of them how: exp of their mean, or see statistics.gap_interval
    timed: bool = False  # taken only with measure.speed
    batch: str = ""  # the size of measure.batch_sizes that it is taken at


class Measures(dict[str, Measure]):
    """Measures by name; speeds, latencies and prices of a batch by its size, too: ``p95/4``; and those of tasks."""

    def __missing__(self, name: str) -> Measure:
        if (asked := task_measures.read(name)) is not None:
            return Measure("tasks", asked.unit, asked.higher, scores=name)
        head, _, size = name.partition("/")
        if head not in BATCHED or not re.fullmatch("[1-9][0-9]{0,3}", size):
            raise KeyError(name)
        return self[head]._replace(batch=size)


BATCHED = frozenset({"first_token", "p50", "p95", "prefill", "decode", "price_input", "price_output"})
MEASURES = Measures(
    {
        "headline": Measure("retained", "share", True),
        "bytes": Measure("bytes", "bytes", False),
        "parameters": Measure("parameters", "count", False),
        "ratio": Measure("compression_ratio", "times", True),
        "kl": Measure("kl", "nats", False, "kl/other"),
        "agreement": Measure("agreement", "share", True, "agreed/other"),
        "perplexity_other": Measure("perplexity_other", "plain", False, "loss/other", "exp"),
        "perplexity_held_out": Measure("perplexity_held_out", "plain", False, "loss/held-out", "exp"),
        "bits_per_byte": Measure("bits_per_byte", "plain", False, "bits/other"),
        "calibration_error": Measure("calibration_error", "share", False, "gap/other", "gaps"),
        "confidently_wrong": Measure("confidently_wrong", "share", False, "sure-wrong/other"),
        "prefill": Measure("prefill", "speed", True, timed=True),
        "decode": Measure("decode", "speed", True, timed=True),
        "first_token": Measure("first_token", "seconds", False, timed=True, batch="1"),
        "p50": Measure("p50", "seconds", False, timed=True, batch="1"),
        "p95": Measure("p95", "seconds", False, timed=True, batch="1"),
        "peak_memory": Measure("runtime_memory_bytes", "bytes", False, timed=True),
        "flops_per_token": Measure("flops_per_token", "flops", False),
        "bits_per_weight": Measure("bits_per_weight", "bits", False),
        "bits_quantized": Measure("bits_quantized", "bits", False),
        "price_input": Measure("price_input", "price", False, timed=True),
        "price_output": Measure("price_output", "price", False, timed=True),
    }
)
RELATIVE: tuple[Unit, ...] = (
    "speed",
    "seconds",
    "price",
    "plain",
    "answers",
)  # units whose limit may be a multiple of the origin's figure
FEW = "there are too few documents for an interval"
UNITS: dict[Unit, dict[str, float]] = {
    "share": {"": 1, "%": 0.01},
    "bytes": {"": 1, "B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30},
    "count": {"": 1, "k": 1e3, "M": 1e6, "G": 1e9},
    "times": {"": 1, "×": 1, "x": 1},
    "nats": {"": 1, "nats": 1},
    "speed": {"": 1, "tok/s": 1},
    "seconds": {"s": 1, "ms": 1e-3},  # which of both is not left to be guessed
    "flops": {"": 1, "MFLOP": 1e6, "GFLOP": 1e9, "TFLOP": 1e12},
    "bits": {"": 1, "bits": 1},
    "price": {"": 1},
    "plain": {"": 1},
    "answers": {"": 1, "%": 0.01},  # a share, too
}
FORMS: dict[Unit, tuple[float, str]] = {
    "share": (100, "{:.2f} %"),
    "bytes": (1e-6, "{:.1f} MB"),
    "count": (1e-6, "{:.1f} M"),
    "times": (1, "{:.2f}×"),
    "nats": (1, "{:.4f} nats"),
    "speed": (1, "{:,.1f} tok/s"),
    "seconds": (1e3, "{:,.1f} ms"),
    "flops": (1e-9, "{:.3f} GFLOP"),
    "bits": (1, "{:.3f} bits"),
    "price": (1, "{:,.4g} a million tokens"),
    "plain": (1, "{:.3f}"),
    "answers": (100, "{:.2f} %"),
}
FINER: dict[Unit, tuple[tuple[float, str], ...]] = {  # for what would be told as 0.0 of these
    "bytes": ((1e-3, "{:.1f} kB"), (1, "{:.0f} B")),
    "count": ((1e-3, "{:.1f} k"), (1, "{:.0f}")),
    "seconds": ((1e6, "{:.1f} µs"),),
    "flops": ((1e-6, "{:.3f} MFLOP"), (1, "{:.0f} FLOP")),
}


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Bisect(_Part):
    """On a breach, search the boldest value of a setting that keeps the gate, and go on with that."""

    setting: Annotated[
        str,
        Field(
            pattern=rf"^{STAGE}\.[a-z_][a-z0-9_]*$",
            description="a stage's number, such as stages.1.ffn (counted from 0)",
        ),
    ]
    within: Annotated[
        list[Number],
        Field(
            min_length=2, max_length=2, description="the mildest value, then the boldest: [0.05, 0.5], or [8, 2] bits"
        ),
    ]
    probes: Annotated[int, Field(ge=2, le=8, description="values that are tried at most")] = 6


class Insert(_Part):
    """On a breach, put a stage after the one that was judged, and judge again, once."""

    entry: dict[str, Any]


class Gate(_Part):
    """One line that a model must not cross."""

    measure: Annotated[str, Field(description="what is judged")]
    min: Annotated[Number | str | None, Field(description="the least that passes: 0.95, 95 %, 1.5×")] = None
    max: Annotated[Number | str | None, Field(description="the most that passes: 100 MB, 0.05")] = None
    after: Annotated[
        str,
        Field(pattern=rf"^(end|every|{STAGE})$", description="end, every, or a stage such as stages.1 (from 0)"),
    ] = "end"
    bound: Annotated[
        Literal["interval", "value"], Field(description="judge the interval's end or the value itself")
    ] = "interval"
    breach: Annotated[
        Literal["stop"] | Bisect | Insert,
        Field(description="stop, {bisect: …} a setting of a stage, or {insert: …} a stage once, and judge again"),
    ] = "stop"

    @property
    def rule(self) -> str:
        """``headline ≥ 0.95``."""
        return f"{self.measure} ≥ {self.min}" if self.max is None else f"{self.measure} ≤ {self.max}"

    @property
    def remedy(self) -> str:
        """What a breach does, in words."""
        if isinstance(self.breach, Bisect):
            mild, bold = self.breach.within
            return f"bisects {self.breach.setting} within {mild} and {bold}, at most {self.breach.probes} probes"
        return "stops" if self.breach == "stop" else f"puts {self.breach.entry.get('stage')} after it, once"


@dataclass(frozen=True)
class Figure:
    """What was measured: a value, the ends of its interval where it has one, and the value of the origin."""

    value: float | None
    low: float | None = None
    high: float | None = None
    origin: float | None = None
    times: tuple[float, float] | None = None  # the interval of value ÷ origin, in pairs over documents
    note: str = FEW  # why ends are missing that the measure may have
    absent: str = ""  # why there is no value
    instead: str = ""  # what may be judged in its place


class Held(NamedTuple):
    """A number against a limit."""

    value: float
    bar: float
    lacking: float  # to the limit; of what keeps it, 0 or less
    end: bool  # the number is an end of an interval
    paired: bool  # of that of the ratio to the origin's figure, as the limit is


@dataclass(frozen=True)
class Judgement:
    kept: bool
    text: str


@dataclass(frozen=True)
class Decision:
    """What became of a gate at a step; :class:`pipelines.report.Report` holds them in order."""

    gate: int  # its place in the recipe, from 0
    rule: str
    step: int
    label: str
    kept: bool
    action: Literal["go on", "stop", "bisect", "insert"]
    text: str
    setting: str = ""  # that was bisected
    value: float | None = None  # that it goes on with
    probes: Sequence[Mapping[str, Any]] = field(default=())  # value, kept, text, evaluation where it was measured
    evaluation: str = ""  # that was judged
    given_up: Sequence[str] = ()  # evaluations of the steps before it that the run went on without


def has_interval(measure: str) -> bool:
    """Whether it is judged by an interval's end, where there are documents or questions enough."""
    return measure == "headline" or bool(MEASURES[measure].scores)


def parse(entries: Sequence[dict[str, Any]]) -> tuple[Gate, ...]:
    """The gates of a recipe, or one sentence about the first that is wrong."""
    return tuple(_parse(dict(entry), f"gates.{number}") for number, entry in enumerate(entries))


def limit(gate: Gate) -> tuple[float, bool]:
    """The limit as a number, and whether it is a multiple of the origin's figure."""
    given = gate.min if gate.max is None else gate.max
    unit = MEASURES[gate.measure].unit
    match = re.fullmatch(r"([0-9.]+(?:e[-+]?[0-9]+)?)\s*([^\s0-9]*)", str(given).strip().replace("_", ""))
    try:
        number = float(match[1]) if match else math.nan
    except ValueError:
        number = math.nan
    written = match[2] if match else ""
    relative = unit in RELATIVE and written in ("×", "x")
    if not math.isfinite(number) or not (relative or written in UNITS[unit]):
        units = [name for name in (*UNITS[unit], *(("×",) if unit in RELATIVE else ())) if name]
        raise BadInput(
            f"{'min' if gate.max is None else 'max'}={given!r} is no limit of {gate.measure}; possible: a number"
            + ("," if units else "")
            + (" alone or" if units and "" in UNITS[unit] else "")
            + (f" with {' or '.join(units)}" if units else "")
        )
    number = number if relative else float(f"{number * UNITS[unit][written]:.12g}")  # 95 % is 0.95
    if unit in ("share", "answers") and number > 1 and not relative:
        raise BadInput(f"{gate.rule}: {gate.measure} is a share of 1; write {number / 100:g} or {number:g} %")
    return number, relative


def judge(gate: Gate, figure: Figure) -> Judgement:
    """Whether a figure keeps a gate, and the sentence about it."""
    measure = MEASURES[gate.measure]
    if figure.value is None:
        why = figure.absent or f"{gate.measure} was not measured here"
        more = f"; {figure.instead}" if figure.instead else ""
        return Judgement(False, f"{gate.rule}: {why}, so nobody can tell{more}")
    found = held(gate, figure)
    if found is None:
        return Judgement(False, f"{gate.rule}: the origin has no {gate.measure} to compare with")
    form, told = "{:.3f}×".format if found.paired else partial(_told, measure), list[str]()
    if limit(gate)[1] and figure.origin is not None:
        told.append(f"the origin's is {_told(measure, figure.origin)}")
    if found.end:
        apart = limit(gate)[1] and not found.paired
        told.append(f"{'low' if measure.higher else 'high'} end {form(found.value, found.bar)}")
        told += [f"not in pairs: {figure.note}"] if apart else []
    else:
        told.append("judged by its value" + _why(gate, figure))
    kept = found.lacking <= 0
    if not kept:
        told.append(f"{'under' if measure.higher else 'over'} {form(found.bar)}")
    shown = _told(measure, figure.value, None if found.paired else found.bar)
    text = f"{gate.rule} is {'kept' if kept else 'not kept'}: {shown} ({', '.join(told)})"
    return Judgement(kept, text)


def held(gate: Gate, figure: Figure) -> Held | None:
    """What is held against the limit; None where there is nothing, or no origin's figure that it is a multiple of."""
    measure, (bar, relative) = MEASURES[gate.measure], limit(gate)
    if figure.value is None or (relative and not figure.origin):
        return None
    side = 0 if measure.higher else 1
    end = (figure.low, figure.high)[side] if gate.bound == "interval" else None
    paired = relative and end is not None and figure.times is not None
    if paired and figure.times is not None:
        end = figure.times[side]
    elif relative:
        bar *= figure.origin or 1.0
    value = figure.value if end is None else end
    return Held(value, bar, bar - value if measure.higher else value - bar, end is not None, paired)


def shown(name: str, figure: Figure) -> str:
    """A figure with the ends of its interval, where it has them: ``45.00 % (29.26–61.51)``."""
    if figure.value is None:
        return "–"
    measure = MEASURES[name]
    text = _told(measure, figure.value)
    if figure.low is None or figure.high is None:
        return text
    factor, form = FORMS[measure.unit]
    number = f"{form.partition('}')[0]}}}"
    return f"{text} ({number.format(figure.low * factor)}–{number.format(figure.high * factor)})"


def _why(gate: Gate, figure: Figure) -> str:
    """Why a value is judged that has an interval otherwise."""
    if not has_interval(gate.measure):
        return ""
    return ", as the gate asks" if gate.bound == "value" else f": {figure.note}"


def _told(measure: Measure, value: float, beside: float | None = None) -> str:
    """In the measure's unit, with as many digits as tell it from another value that it stands beside."""
    forms = (FORMS[measure.unit], *FINER.get(measure.unit, ()))
    factor, form = next((one for one in forms if abs(value * one[0]) >= 0.1), forms[-1])
    text = form.format(value * factor)
    if beside is None or beside == value or text != form.format(beside * factor):
        return text
    return f"{value * factor:.12g}{form.partition('}')[2]}"


def _parse(entry: dict[str, Any], where: str) -> Gate:
    try:
        gate = Gate(**entry | {"breach": _breach(entry.get("breach", "stop"), where)})
    except ValidationError as error:
        raise BadInput(f"{where}: {complaint(error, Gate)}") from None
    try:
        measure = MEASURES[gate.measure]
    except KeyError:
        head, slash, size = gate.measure.partition("/")
        if slash and head in MEASURES:
            able = ", ".join(sorted(BATCHED))
            why = f"is measured at no batch size; {able} are" if head not in BATCHED else f"has no batch size {size!r}"
            raise BadInput(f"{where}: {head} {why}; write {head}, or p95/4 for the p95 at batch 4") from None
        if gate.measure.startswith(task_measures.PREFIX):
            raise BadInput(f"{where}: {task_measures.refusal(gate.measure)}") from None
        known = [*MEASURES, *task_measures.FORMS]
        raise BadInput(f"{where}: there is no measure {gate.measure!r}; {nearest(gate.measure, known)}") from None
    right, wrong = ("min", "max") if measure.higher else ("max", "min")
    if getattr(gate, wrong) is not None:
        better = "higher" if measure.higher else "lower"
        raise BadInput(f"{where}: {gate.measure} is the better the {better} it is; write {right} instead of {wrong}")
    if getattr(gate, right) is None:
        raise BadInput(f"{where}: {gate.measure} has no limit; give one in {right}")
    try:
        limit(gate)
    except BadInput as error:
        raise BadInput(f"{where}: {error}") from None
    return gate


def _breach(given: Any, where: str) -> Any:
    if isinstance(given, str) and given == "stop":
        return given
    if not isinstance(given, dict) or len(given) != 1 or next(iter(given)) not in ("bisect", "insert"):
        raise BadInput(
            f"{where}: breach={given!r} is not possible; possible: stop, {{bisect: {{setting: …, within: […]}}}}, "
            "{insert: {stage: …}}"
        )
    ((kind, inner),) = given.items()
    if not isinstance(inner, dict):
        raise BadInput(f"{where}: breach.{kind}={inner!r} is not possible; it holds a mapping of settings")
    if kind == "insert":
        return Insert(entry=inner)
    try:
        found = Bisect(**inner)
    except ValidationError as error:
        raise BadInput(f"{where}: breach.bisect: {complaint(error, Bisect)}") from None
    if not all(map(math.isfinite, found.within)) or found.within[0] == found.within[1]:
        raise BadInput(f"{where}: breach.bisect: within={found.within} needs two different numbers")
    return found
