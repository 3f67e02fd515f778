"""Runs on one page that were measured differently: that is said first, and nothing is called the one to ship."""

from pathlib import Path
from typing import TYPE_CHECKING

from pipelines import asked_runs, html_report, html_variants

if TYPE_CHECKING:
    from tests.pipelines.conftest import Shelf

MB = 1_000_000


def test_of_two_runs_measured_differently_none_is_chosen(shelf: "Shelf", tmp_path: Path) -> None:
    shelf.run("2026-1-mine", "mine", ("m1", 50 * MB, 0.1))
    shelf.run("2026-2-other", "other", ("m2", 20 * MB, 0.01), windows=8, dtype="bfloat16")
    found = html_variants.compare(asked_runs.find(shelf.home, ["mine", "other"]), shelf.home.store)
    title, reasons = html_variants.headline(found)
    assert found.chosen is None and title == "mine and other: measured differently, so none is the best of them"
    assert reasons[0] == "1 and 2 were measured differently: dtype (float32 and bfloat16), windows (4 and 8)."
    page = html_report.write(shelf.home, ["mine", "other"], tmp_path / "page.html").read_text()
    assert "Ship" not in page and "★" not in page and "only one to choose" not in page
    assert page.index(reasons[0]) < page.index("Smaller against better")


def test_of_more_that_are_alike_the_best_is_named_after_what_differs(shelf: "Shelf") -> None:
    shelf.run("2026-1-mine", "mine", ("m1", 50 * MB, 0.1))
    shelf.run("2026-2-mine", "mine", ("m2", 60 * MB, 0.05))
    shelf.run("2026-3-other", "other", ("m3", 20 * MB, 0.01), windows=8)
    asked = asked_runs.find(shelf.home, ["2026-3-other", "2026-1-mine", "2026-2-mine"])
    title, reasons = html_variants.headline(html_variants.compare(asked, shelf.home.store))
    assert title.startswith("Best of the 2 measured alike: 3 (recipe mine")
    assert reasons[0] == "2, 3 and 1 were measured differently: windows (4 and 8)."
    assert "It keeps the most of 2 models, the last of each run." in reasons
