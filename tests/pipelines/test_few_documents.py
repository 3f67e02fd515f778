"""A sweep that was measured on few documents: one way to say what is kept, and no interval that promises nothing."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from attar import scores, statistics
from pipelines import html_report, report
from pipelines.as_good import SCORED
from pipelines.sweep import TRIALS
from tests.pipelines.conftest import Shelf as Documents
from tests.pipelines.test_html_report import MB, Parsed, rows_of, stands_alone

if TYPE_CHECKING:
    from tests.pipelines.conftest import Shelf


def page_of(shelf: "Shelf", out: Path, *more: float) -> Parsed:
    """A sweep over so many widths with these further losses."""
    lines = []
    for number, lost in enumerate(more, start=1):
        run, ffn = f"2026-{number}-mine-0{number}", number / 4
        row = shelf.run(run, f"mine-0{number}", (f"m{number}", (90 - number) * MB, lost))[-1]
        recipe = {"name": f"mine-0{number}", "model": "some/origin", "stages": [{"stage": "prune.width", "ffn": ffn}]}
        (shelf.home.runs / run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        told = {"number": number, "values": {"stages.0.ffn": ffn}, "status": "finished", "run": run, "text": ""}
        lines.append(told | {"row": vars(row)})
    folder = shelf.home.root / "sweeps" / "mine-0123abcd"
    folder.mkdir(parents=True)
    (folder / TRIALS).write_text("\n".join(map(json.dumps, lines)) + "\n")
    return stands_alone(html_report.write(shelf.home, ["mine"], out).read_text())


@pytest.mark.parametrize("documents", [1, statistics.FEWEST - 1])
def test_few_documents_have_no_interval(
    shelf: "Shelf", tmp_path: Path, monkeypatch: pytest.MonkeyPatch, documents: int
) -> None:
    monkeypatch.setattr(Documents, "BASE", Documents.BASE[:documents])
    parsed = page_of(shelf, tmp_path / "page.html", -0.03, 0.05)
    assert "ffn: 0.25 keeps most (100.0 %); not distinguishable: 0.5" in parsed.text
    (cells,) = [cells for cells in rows_of(parsed) if cells[1:2] == ["02"]]
    kept = report.load(shelf.home.runs / "2026-2-mine-02")
    assert kept is not None and "nobody can tell" in cells
    assert cells[-1] == f"{100 * (kept.final.retained - 1):+.1f}".replace("-", "−")


def test_the_difference_lies_in_its_interval_where_the_best_keeps_more_than_all(shelf: "Shelf", tmp_path: Path) -> None:
    """All there is to lose below 100 % is what the value says and its interval spans."""
    parsed = page_of(shelf, tmp_path / "page.html", 0.1, -0.22, -0.3)
    found = {cells[1]: cells[-1].replace("−", "-") for cells in rows_of(parsed) if cells[1:2] in (["01"], ["02"])}
    value, low, high = (float(word.strip("()")) for word in found["01"].split() if word != "to")
    assert low <= value <= high < 0 and found["02"] == "+0.0 (+0.0 to +0.0)"
    assert "ffn: 0.75 keeps most (100.0 %); keeps all of it, too: 0.5; worse: 0.25 (9.5 points less, " in parsed.text


def test_one_variant_scored_on_other_tokens_takes_no_page_away(shelf: "Shelf", tmp_path: Path) -> None:
    page_of(shelf, tmp_path / "page.html", 0.1, 0.2, 0.4)
    kept = report.load(shelf.home.runs / "2026-2-mine-02")
    assert kept is not None
    folder = shelf.home.store.folder("evaluation", kept.final.evaluation)
    found = scores.load(folder)[SCORED]
    scores.save({SCORED: replace(found, counts=(11, *found.counts[1:]))}, folder)
    parsed = stands_alone(html_report.write(shelf.home, ["mine"], tmp_path / "page.html").read_text())
    (cells,) = [cells for cells in rows_of(parsed) if cells[1:2] == ["02"]]
    assert "not compared" in cells and cells[-1] == "–" and "ffn: 0.25 keeps most (90.5 %); worse: 0.75" in parsed.text


def test_the_difference_is_that_of_the_figures_in_points(shelf: "Shelf", tmp_path: Path) -> None:
    parsed = page_of(shelf, tmp_path / "page.html", 0.4, 0.43)
    one, two = (report.load(shelf.home.runs / f"2026-{n}-mine-0{n}") for n in (1, 2))
    assert one is not None and two is not None
    points = f"{100 * (one.final.retained - two.final.retained):.1f}"
    (cells,) = [cells for cells in rows_of(parsed) if cells[1:2] == ["02"]]
    assert cells[-1].startswith(f"−{points} (−") and "difference to it in points, paired" in parsed.text
    assert f"−{points} points" in parsed.texts  # below the column of the value
    assert f"worse: 0.5 ({points} points less, " in parsed.text
