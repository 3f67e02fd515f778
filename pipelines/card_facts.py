"""What a model card says in figures: quality with intervals and verdicts, size, limits; and how it quotes others."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import stages
from attar.checkpoint import read_facts
from attar.credentials import without_credentials
from attar.data.settings import EMBEDDED, TOPICS
from attar.errors import BadInput
from attar.parts import bits_per_weight, bytes_by_part
from attar.stamp import HASH, KEY, stamp_of
from pipelines import task_figures
from pipelines.lineage import Lineage
from pipelines.report import HELD_OUT, OTHER, Row, interval
from stages.base import Stage

TEXTS = {
    EMBEDDED: "the docstrings of numpy, scipy, pandas, scikit-learn and torch",
    TOPICS: "Python's own language reference",
}
ALWAYS = ("bits", "group_size", "ffn", "keep", "train_tokens", "r")  # told even where they are the default
SHARE, NUMBER = "{:.1%}", "{:.2f}"
MEASURES: tuple[tuple[str, str, str], ...] = (
    ("perplexity, other-kind text", "perplexity_other", NUMBER),
    ("perplexity, held-out text", "perplexity_held_out", NUMBER),
    ("bits per byte, other-kind text", "bits_per_byte", "{:.3f}"),
    ("KL(origin ‖ model), nats per token", "kl", "{:.3f}"),
    ("same likeliest token as the origin", "agreement", SHARE),
    ("calibration error", "calibration_error", "{:.3f}"),
    ("confidently wrong tokens", "confidently_wrong", SHARE),
)
# What could begin or end markup; an underscore within a word cannot.
_MARKUP = re.compile(r"[^\w\s.,;:'\"()/=+%–…×‖÷≤≥-]|(?<![^\W_])_|_(?![^\W_])|:(?=//)")


def inline(text: str) -> str:
    """Text of others on a line of Markdown, within a table or not: shown as it is, and never taken for markup."""
    return _MARKUP.sub(lambda sign: f"&#{ord(sign[0])};", " ".join(text.split()))


def public(text: str) -> str:
    """A model's or text's name as others may read it: of a path the last part, of an address no password."""
    if text.startswith(("/", "~", "./", "../")):
        return Path(text).name or text
    return without_credentials(text)


def public_values(value: Any) -> Any:
    """The same for all texts of a recipe."""
    if isinstance(value, str):
        return public(value)
    if isinstance(value, Mapping):
        return {key: public_values(entry) for key, entry in value.items()}
    return [public_values(entry) for entry in value] if isinstance(value, list | tuple) else value


def described(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The settings of a stage that differ from its defaults, and those that everybody asks for."""
    try:
        kind: type[Stage] = stages.stage_class(str(settings.get("stage")))
    except BadInput:  # of a package that is not installed here
        kind = Stage
    found = []
    for name, value in settings.items():
        if value is None or name == "stage" or name in kind.unhashed:  # what never changes the numbers
            continue
        if name in ALWAYS or name not in kind.model_fields or value != _default(kind, name):
            found.append((name, _value(value)))
    return found


def _default(kind: type[Stage], name: str) -> Any:
    return json.loads(json.dumps(kind.model_fields[name].get_default(call_default_factory=True), default=str))


def _value(value: Any) -> str:
    if isinstance(value, list) and len(value) > 3 and all(isinstance(entry, int) for entry in value):
        starts = [value[0], *(b for a, b in pairwise(value) if b != a + 1)]
        ends = [*(a for a, b in pairwise(value) if b != a + 1), value[-1]]
        return ", ".join(f"{a}–{b}" if a != b else str(a) for a, b in zip(starts, ends, strict=True))
    return public(value) if isinstance(value, str) else json.dumps(public_values(value), ensure_ascii=False)


def text_of(data: Mapping[str, Any], key: str = "source") -> str:
    """A text of the ``data:`` block in words."""
    name = str(data.get(key, ""))
    return TEXTS.get(name) or inline(public(name)) or "not recorded"


def summary(made: Lineage) -> str:
    """The first paragraph: what it is, how much smaller, what is left."""
    if not made.rows:
        return "Made by Attar. No run of this home has measured it, so nothing can be said of its quality."
    row = made.rows[-1]
    against = f", {row.verdict} than the origin" if row.verdict in ("better", "worse") else ""
    against = ", not distinguishable from the origin" if row.verdict == "not distinguishable" else against
    return (
        f"{inline(public(made.origin.spec))}, compressed {row.compression_ratio:.2f}× by Attar against the origin in "
        f"bf16, from {row.compression_ratio * row.bytes / 1e6:,.1f} MB to {row.bytes / 1e6:,.1f} MB. Retained quality: "
        f"{interval(row)}{against}, as measured below."
    )


def quality(made: Lineage) -> list[str]:
    """The section on quality, in paragraphs and tables; nothing where nothing was measured."""
    if not made.rows:
        return []
    origin, row = made.rows[0], made.rows[-1]
    lines = ["| measure | origin | this model |", "|---|---:|---:|"]
    lines.append(f"| retained quality | 100 % | {interval(row)} |")
    lines += [
        f"| {name} | {_number(origin, key, form)} | {_number(row, key, form)} |"
        for name, key, form in MEASURES
        if getattr(row, key) is not None
    ]
    steps = ["| step | size | retained quality | verdict |", "|---|---:|---:|---|"]
    steps += [
        f"| {one.label} | {one.bytes / 1e6:,.1f} MB | {interval(one)} | {one.verdict or '–'} |"
        for one in made.rows
        if one.pairs is None
    ]
    tasks = task_figures.markdown([_safe(origin), _safe(row)])
    return [
        "## What it costs in quality",
        "\n".join(lines),
        _meaning(row),
        *([tasks.strip(), "↑ and ↓: better or worse than the origin beyond doubt."] if tasks else []),
        "Stage by stage:",
        "\n".join(steps),
        _measured(made),
    ]


def _number(row: Row, key: str, form: str) -> str:
    value = getattr(row, key)
    return "–" if value is None else form.format(value)


def _safe(row: Row) -> Row:
    """With names of tasks that are files or words of the user's own, as a table may hold them."""
    return replace(row, tasks={inline(public(name)): figures for name, figures in row.tasks.items()})


def _meaning(row: Row) -> str:
    told = "Retained quality is min(1, origin ÷ model) of the perplexity on the other-kind text."
    if row.retained_low is not None and row.documents:
        told += f" In brackets its 95 % interval, by paired bootstrap over {row.documents} documents."
    if row.verdict is not None:
        p = f" (p = {row.p_value:.2g}, sign-flip test over documents)" if row.p_value is not None else ""
        told += f" Verdict against the origin: {row.verdict}{p}."
    if row.note:
        told += f" Note: {inline(row.note)}."
    if row.adaptation > 0:
        told += (
            f" On held-out text of the kind it was trained on its perplexity is {row.adaptation:.1%} better than the "
            "origin's: that is adaptation to this text, and not counted as quality retained."
        )
    return told


def _measured(made: Lineage) -> str:
    """On what, in the stamp's words."""
    result = made.result
    stamp = stamp_of(result or {})
    if result is None or not stamp:
        return "How it was measured is no longer in the store."
    data = (made.recipe or {}).get("data", {})
    scored = result.get("scored_tokens", {}).get(OTHER)
    libraries = ", ".join(f"{name} {found}" for name, found in stamp.get("libraries", {}).items())
    return (
        f"Measured on {stamp.get('windows')} windows of {stamp.get('length')} tokens of each of two texts, the first "
        f"token of a window not scored{f' ({scored:,} tokens scored of one)' if scored else ''}, in "
        f"{stamp.get('dtype')} on {inline(str(stamp.get('device')))}, {inline(libraries)}. Other-kind text, which "
        f"nothing was trained or calibrated on: {text_of(data, 'other')} (`{stamp.get('data.other')}`). Held-out text: "
        f"documents of {text_of(data)} that were kept apart (`{stamp.get(f'data.{HELD_OUT}')}`). Comparability stamp "
        f"`{stamp.get(HASH)}`: results with the same one may be ranked together."
    )


def size(made: Lineage) -> str:
    """The section on the footprint."""
    facts = read_facts(made.artifact.folder)
    called = {"files": "config, tokenizer, headers"}
    lines = ["| part | bytes |", "|---|---:|"]
    lines += [f"| {called.get(part, part)} | {count:,} |" for part, count in bytes_by_part(facts).items() if count]
    lines.append(f"| all | {facts.bytes:,} |")
    told = f"{facts.parameters:,} parameters, {bits_per_weight(facts):.2f} bits each on average."
    row = made.rows[-1] if made.rows else None
    if row is not None and row.prefill and row.decode:
        result = made.result or {}
        stamp = result.get(KEY) or {}
        where = (stamp.get("processor", "an unknown processor"), f"{stamp.get('threads', '?')} threads")
        runtime = inline(str(result.get("runtime", "an unknown runtime")))
        told += (
            f" Speed at batch 1 in {runtime}, not in the reader above, on {inline(', '.join(map(str, where)))}, in "
            f"{inline(str(stamp.get('dtype')))}: prefill {row.prefill:,.0f} tokens/s after a prompt of "
            f"{stamp.get('prompt')} tokens, decode {row.decode:,.1f}."
        )
    return "\n\n".join(["## Size", "\n".join(lines), told])


def limits(made: Lineage) -> str:
    """What was not measured, in so many words."""
    lines = ["- What the origin is bad at, this model is bad at: see the origin's own card."]
    if not made.rows:
        return "\n".join(["## Limits", "", "- Nothing was measured.", *lines])
    row, stamp = made.rows[-1], (made.result or {}).get(KEY) or {}
    if length := stamp.get("length"):
        lines.append(f"- Nothing longer than {length} tokens was measured.")
    asked = ", ".join(inline(public(name)) for name in row.tasks)
    lines.append(
        f"- Of tasks, only those above were measured: {asked}."
        if asked
        else "- No task was measured: what is above are figures of next-token prediction."
    )
    lines.append("- Not measured: other languages and kinds of text, instructions followed over several turns, safety.")
    lines.append(f"- {inline(made.gated)}")
    if row.retained_low is None and row.verdict is None:
        lines.append("- There is no interval: too few documents, another tokenizer, or no scores of the origin.")
    return "\n".join(["## Limits", "", *lines])
