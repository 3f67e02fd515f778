"""The report's drawings: every point is where its figures are, and every rail leads to the model that was changed."""

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from pipelines import html_waterfall, step_inputs
from pipelines.html_plots import Point, pareto
from pipelines.report import Report
from tests.pipelines.test_html_report import MB, Parsed

if TYPE_CHECKING:
    from tests.pipelines.conftest import Shelf


def test_points_of_a_plot_have_labels_that_cover_nothing() -> None:
    points = [Point("origin", 100, 1.0, 1.0, None, None, "origin")]
    points += [Point(f"{n:02}", 40, 2.5, 0.7 - 0.01 * n, 0.65 - 0.01 * n, 0.75 - 0.01 * n, "behind") for n in range(15)]
    drawn = Parsed(str(pareto(points)))
    places = [
        (float(a["x"] or 0), float(a["y"] or 0)) for tag, a in drawn.tags if tag == "text" and a.get("class") == "mid"
    ]
    assert len(places) == len(points)
    for place, (x, y) in enumerate(places):
        assert all(abs(x - other) > 13 or abs(y - height) > 12 for other, height in places[place + 1 :])


def test_points_stay_at_their_ratio() -> None:
    """Points of one size are moved a few pixels at most, and the front goes through where they are."""
    points = [Point("origin", 100, 1.0, 1.0, None, None, "origin")]
    points += [Point(f"{n}", 40, 2.5, 0.7 - 0.01 * n, None, None, "behind", f"a{n}") for n in range(9)]
    points += [Point("small", 20, 5.0, 0.4, None, None, "on-front")]
    points += [Point("other", 15, 4.0, 0.9, None, None, "apart")]  # which the front leaves out
    drawn = Parsed(str(pareto(points)))
    across = [float(a["cx"] or 0) for tag, a in drawn.tags if tag == "circle"][:9]
    (front,) = [a["points"] or "" for tag, a in drawn.tags if tag == "polyline"]
    xs = [float(pair.split(",")[0]) for pair in front.split()]
    assert len(xs) == 3 and len(set(across)) == 9
    assert all(abs(x - xs[1]) < 12 for x in across)
    assert (xs[1] - xs[0]) / (xs[2] - xs[0]) == pytest.approx(2.5 / 4, abs=0.001)


def test_models_of_one_size_have_no_axis_of_ratios() -> None:
    points = [Point("origin", 100, 1.0, 1.0, None, None, "origin")]
    points += [Point(f"{n}", 40, 2.5, 0.7 - 0.01 * n, None, None, "behind") for n in range(9)]
    drawn = Parsed(str(pareto(points)))
    assert "all 9 at 2.50×" in drawn.text and "compression ratio" not in drawn.text


def test_close_sizes_far_from_the_origin_are_drawn_without_it() -> None:
    """Both sizes are told apart, with the points of each beside each other."""
    points = [Point("origin", 2726, 1.0, 1.0, None, None, "origin")]
    points += [Point(f"a{n}", 1128, 2.417, 0.71 - 0.001 * n, None, None, "alike") for n in range(5)]
    points += [Point(f"b{n}", 1110, 2.456, 0.66 - 0.003 * n, None, None, "behind") for n in range(15)]
    drawn = Parsed(str(pareto(points)))
    circles = [(float(a["cx"] or 0), float(a["cy"] or 0)) for tag, a in drawn.tags if tag == "circle"]
    across = sorted(x for x, y in circles if y < 400)  # those of the legend stand below
    assert len(across) == 20 and across[5] - across[4] > 200
    assert min(b - a for a, b in pairwise(across)) > 5
    assert "lies to the left" in drawn.text and not any(a.get("class") == "origin" for tag, a in drawn.tags)
    assert (
        "lies to the left" not in Parsed(str(pareto([*points, Point("c", 2000, 1.4, 0.9, None, None, "alike")]))).text
    )


def test_a_model_from_elsewhere_is_none_of_the_steps(shelf: "Shelf") -> None:
    rows = shelf.run("2026-mine", "mine", ("a", 90 * MB, 0.1), ("b", 50 * MB, 0.2), ("c", 40 * MB, 0.3))
    rows[1] = replace(rows[1], pairs=12, tokens=300)
    told: list[dict[str, Any]] = [
        {"kind": "step", "step": 1, "inputs": {"teacher": rows[0].fingerprint}},
        {"kind": "step", "step": 2, "inputs": {"student": "f" * 20}},
        {"kind": "step", "step": 3, "inputs": {"source": rows[0].fingerprint}},
    ]
    made = Report("2026-mine", "mine", tuple(rows))
    nodes = step_inputs.read(made, told)
    assert [node.source for node in nodes] == [None, 0, None, 0]
    assert [node.from_elsewhere for node in nodes] == [False, False, True, False]
    assert "from a model from elsewhere" in nodes[2].sentence
    drawn = Parsed(str(html_waterfall.waterfall(made, nodes)))
    assert [tag for tag, attributes in drawn.tags if attributes.get("class") == "rail"] == ["line", "line"]
    assert "from elsewhere" in drawn.text
    assert step_inputs.read(made, [])[2].source == 0  # of which nothing is told: behind a dataset, the model before
