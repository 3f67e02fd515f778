"""A page of samples: what the origin and every model of a run wrote to the same prompts, side by side."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attar.responses.prompts import Prompt
from attar.store import Store
from pipelines.report import Row

FILE = "samples.md"
DATA = "samples.json"  # the same for programs: a list of prompts, each with its answers by step
ANSWERS = "answers.json"  # in an evaluation: by key of the prompt
SHOWN = 20  # prompts, so that the page can be read


def save(rows: Sequence[Row], prompts: Sequence[Prompt], store: Store, folder: Path) -> Path | None:
    """Write the page, and its data, into a run's folder; None where nobody was asked to write."""
    models = [row for row in rows if row.pairs is None]
    said = [_answers(store.folder("evaluation", row.evaluation) / ANSWERS) for row in models]
    if not prompts or not any(said):
        return None
    lines = ["# Samples", "", "Greedy answers to the same prompts: what the origin wrote, then every step's model.", ""]
    for number, prompt in enumerate(prompts[:SHOWN], start=1):
        lines += [f"## {number}", "", _fenced(prompt.messages[-1]["content"]), "", "| step | answer |", "|---|---|"]
        lines += [f"| {row.label} | {_cell(found.get(prompt.key))} |" for row, found in zip(models, said, strict=True)]
        lines.append("")
    labels = [row.label for row in models]
    data = [
        {"prompt": prompt.messages[-1]["content"],
         "answers": {label: found.get(prompt.key) for label, found in zip(labels, said, strict=True)}}
        for prompt in prompts[:SHOWN]
    ]  # fmt: skip
    (folder / DATA).write_text(json.dumps(data, indent=1) + "\n")
    path = folder / FILE
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def load(folder: Path) -> list[dict[str, Any]]:
    """The samples in a run's folder, if there are any: ``prompt``, and ``answers`` by step."""
    try:
        found: list[dict[str, Any]] = json.loads((folder / DATA).read_text())
    except FileNotFoundError:
        return []
    return found


def _answers(path: Path) -> dict[str, str]:
    found: dict[str, str] = json.loads(path.read_text()) if path.is_file() else {}
    return found


def _fenced(text: str) -> str:
    """As it is, whatever backticks it holds."""
    fence = "`" * max(3, *(len(run) + 1 for run in ["", *re.findall(r"`+", text)]))
    return f"{fence}text\n{text}\n{fence}"


def _cell(text: str | None) -> str:
    """One cell of a table, whatever a model wrote: a page shows it, and never takes it for its own markup."""
    if text is None:
        return "–"
    plain = re.sub(r"[^\w\s.,;:'\"()/-]", lambda sign: f"&#{ord(sign[0])};", text).replace("_", "&#95;")
    return "<br>".join(plain.splitlines()) or "*nothing*"
