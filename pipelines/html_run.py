"""One run in the HTML report: its figures, gates, tasks, loss curves and samples; settings and how to repeat it."""

import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from attar.stamp import HASH, stamp_of
from attar.store import Store
from pipelines import cost_figures, samples, step_inputs, task_figures
from pipelines.asked_runs import Shown
from pipelines.gates import Decision
from pipelines.home import RECIPE, Home
from pipelines.html_page import Child, Html, element, folded, note, table
from pipelines.html_strips import curve
from pipelines.html_waterfall import waterfall
from pipelines.report import COLUMNS, Row, cells, told

SHARES = ("calibration_error", "confidently_wrong")
# What the table of figures tells already, and what is no figure.
SHOWN = frozenset(
    [
        "step",
        "parameters",
        "bytes",
        "compression_ratio",
        "perplexity_held_out",
        "perplexity_other",
        "retained",
        "adaptation",
        "kl",
        "agreement",
        "prefill",
        "decode",
        "seconds",
        "pairs",
        "tokens",
        "retained_low",
        "retained_high",
        "cached",
    ]
)


def figures(one: Shown, store: Store) -> list[Child]:
    """Everything that was measured, a step at a time."""
    nodes = step_inputs.read(one.report, one.records)
    return [
        element("h3", "What each step cost, and what it saved"),
        waterfall(one.report, nodes),
        note(
            "Blue is what is left of the origin's quality, with its 95 % interval; red was lost in that step and green "
            "won back. An arc leads from a teacher to the step it taught."
        ),
        element("h3", "Figures"),
        _table(one),
        note(
            "Perplexity, retained quality (95 % interval over documents), KL and agreement are on the other-kind text, "
            "on which nothing was trained or calibrated; seconds in brackets: made before. Ratio: bytes of the origin "
            "in bf16 ÷ bytes of all files that a runtime needs. Retained: the origin's perplexity ÷ the model's, at "
            "most 100 %."
        ),
        *([note(disturbed)] if (disturbed := cost_figures.disturbed(one.report.rows)) else []),
        *_gates(one.report.gates),
        *_tasks(one.report.rows),
        *_costs(one.report.rows),
        *_further(one.report.rows),
        *_curves(one),
        *_samples(one.folder),
    ]


def settings(one: Shown, home: Home) -> list[Child]:
    """The recipe, what it ran on, what its results may be compared by, and the command that repeats it."""
    told = _circumstances(one, home.store)
    found = again("run", one.folder / RECIPE, home, _recipe(one))
    if told:
        found += [element("h3", "Circumstances"), table(("what", "value"), told, "facts", words=2)]
    return found


def again(command: str, file: Path, home: Home, recipe: str) -> list[Child]:
    """The command that makes what a recipe says, here and elsewhere; and the recipe."""
    here = f"attar {command} {shlex.quote(str(file))} --home {shlex.quote(str(home.root))}"
    there = f"save the recipe below as {file.name}, then attar {command} {file.name} (attar {_version()})"
    return [
        element("h3", "Again"),
        element("pre", here),
        note(f"Elsewhere: {there}."),
        element("h3", "Recipe"),
        element("pre", recipe),
    ]


def facts(row: Row) -> Html:
    """The figures that a choice is about, large."""
    shown: list[tuple[str, str]] = [(f"{row.compression_ratio:.2f}×", "compression ratio")]
    share = f"{100 * row.retained:.1f} %"
    if row.retained_low is not None and row.retained_high is not None:
        span = f"retained quality (95\u00a0%: {100 * row.retained_low:.1f}–{100 * row.retained_high:.1f})"
    else:
        span = "retained quality"
    shown += [(share, span), (f"{row.bytes / 1e6:.1f} MB", "of files"), (f"{row.parameters / 1e6:.1f} M", "parameters")]
    shown += [(f"{row.kl:.3f}", "KL, nats per token")] if row.kl is not None else []
    shown += [(f"{100 * row.agreement:.1f} %", "same next token as the origin")] if row.agreement is not None else []
    shown += [(f"{row.decode:,.1f}", "tokens/s when it writes")] if row.decode is not None else []
    return element(
        "div", (element("div", element("b", big), element("span", small), class_="tile") for big, small in shown),
        class_="tiles",
    )  # fmt: skip


def _table(one: Shown) -> Html:
    lines = [cells(row) for row in one.report.rows]
    kept = [place for place in range(len(COLUMNS)) if place == 0 or any(line[place] != "–" for line in lines)]
    headings = [COLUMNS[place][0].replace("-\n", "").replace("\n", " ") for place in kept]
    drawn = [
        element(
            "tr",
            (element("td", line[place], class_="n" if place else None) for place in kept),
            class_="chosen" if row is one.report.final and row.step else None,
        )
        for row, line in zip(one.report.rows, lines, strict=True)
    ]
    return table(headings, drawn, "figures")


def _gates(decisions: Sequence[Decision]) -> Iterator[Child]:
    if decisions:
        yield element("h3", "Gates")
        yield element("ul", (element("li", told(one), class_="good" if one.kept else "bad") for one in decisions))
    for one in decisions:
        if one.probes:
            lines = [(str(probe["value"]), "✓" if probe["kept"] else "✗", probe["text"]) for probe in one.probes]
            yield table((one.setting, "kept", "why"), lines, words=3)


def _costs(rows: Sequence[Row]) -> Iterator[Child]:
    made = cost_figures.table(rows)
    if made is not None:
        yield element("h3", "Cost")
        yield table(*made)


def _tasks(rows: Sequence[Row]) -> Iterator[Child]:
    made = task_figures.table(rows)
    if made is not None:
        yield element("h3", "Tasks")
        yield table(*made)
        yield note(
            "Share of right answers, or likeness to the origin's (95 % interval over items); ↑ better, ↓ worse than "
            "the origin beyond doubt; sure: from a confidence of 90 % on."
        )


def _further(rows: Sequence[Row]) -> Iterator[Child]:
    """Every other number of a row that is there: a measure a line."""
    models = [row for row in rows if row.pairs is None]
    found = [_numbers(row) for row in models]
    names = list(dict.fromkeys(name for numbers in found for name in numbers))
    if names:
        lines = [
            [name.replace("_", " "), *(_number(name, numbers.get(name)) for numbers in found)]
            for name in names
        ]  # fmt: skip
        lines.append(["against the origin", *(row.verdict or row.note or "–" for row in models)])
        yield folded("More figures", table(["measure", *(row.label for row in models)], lines))


def _numbers(row: Row) -> dict[str, float]:
    """Numbers by name; a mapping of numbers counts as several."""
    found: dict[str, float] = {}
    for name in (entry.name for entry in fields(Row) if entry.name not in (*SHOWN, "tasks")):
        value = getattr(row, name)
        entries = {f"{name} {key}": one for key, one in value.items()} if isinstance(value, dict) else {name: value}
        found |= {
            key: one for key, one in entries.items() if isinstance(one, int | float) and not isinstance(one, bool)
        }
    return found


def _number(name: str, value: float | None) -> str:
    if value is None:
        return "–"
    if "bytes" in name.split("_") or name.startswith("parts "):
        return f"{value / 1e6:,.1f} MB"
    if name in SHARES:
        return f"{100 * value:.2f} %"
    if name == "p_value":
        return f"{value:.4f}" if value >= 0.0005 else "< 0.0005"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def _curves(one: Shown) -> Iterator[Child]:
    """The loss of every step that trained; of one that was tried again the last time."""
    losses: dict[int, dict[float, float]] = {}
    for record in one.records:
        if record["kind"] == "metrics":
            found = losses.setdefault(record["step"], {})
            found |= {at or 0: value for name, value, at, _ in record["points"] if name == "loss" and value is not None}
    labels = {row.step: row.label for row in one.report.rows}
    drawn = [
        curve(f"{labels[step]}: loss", sorted(points.items()))
        for step, points in sorted(losses.items())
        if len(points) > 1 and step in labels
    ]
    if drawn:
        yield element("h3", "Training")
        yield element("div", drawn, class_="columns")


def _samples(folder: Path) -> Iterator[Child]:
    found = samples.load(folder)
    if found:
        lines = [
            [entry["prompt"], *(entry["answers"].get(label) or "–" for label in found[0]["answers"])] for entry in found
        ]
        yield element("h3", "Samples")
        yield folded(
            f"Greedy answers of every step's model to the same {len(found)} prompts",
            table(["prompt", *found[0]["answers"]], lines, "samples", words=100),
            open_=True,
        )


def _circumstances(one: Shown, store: Store) -> list[tuple[str, str]]:
    """Machine, versions, data and stamp of the last measurement."""
    begun = next((record for record in reversed(one.records) if record["kind"] == "run"), {})
    found = [
        ("run", one.report.run),
        ("model", one.report.final.folder),
        ("origin", str(one.document.get("model", ""))),
    ]
    machine = begun.get("machine", {}) | {"processor": begun.get("environment", {}).get("processor")}
    found.append(("machine", _told(machine)))
    found.append(("fingerprints", ", ".join(f"{row.label} {row.fingerprint}" for row in one.report.rows)))
    measured = store.find("evaluation", one.report.final.evaluation)
    if measured is not None:
        result: dict[str, Any] = json.loads((measured.folder / "result.json").read_text())
        stamp = stamp_of(result) or {}
        parts = {name: value for name, value in stamp.items() if name not in (HASH, "libraries")}
        found.append(("versions", _told(measured.manifest.get("versions", {}))))
        found += [("stamp", f"{stamp.get(HASH, '–')}: {_told(parts)}")]
    found.append(("data", _told(one.document.get("data", {}))))
    return [(name, value) for name, value in found if value]


def _recipe(one: Shown) -> str:
    """As YAML, lists of numbers on one line."""
    if not one.document:
        return one.recipe or "the recipe is gone"
    return yaml.safe_dump(one.document, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100)


def _told(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items() if value is not None)


def _version() -> str:
    try:
        return version("attar")
    except PackageNotFoundError:
        return "of this folder"
