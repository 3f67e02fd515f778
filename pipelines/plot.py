"""The picture of a run: compression ratio against retained quality, one point a step."""

from itertools import product
from pathlib import Path
from typing import Any

from pipelines.report import Report, Row

INK, LINE, GRID = "#1b1b1f", "#2f6f9f", "#d9d9de"


def pareto(report: Report, path: Path) -> Path:
    """Draw the steps of a run in order into a PNG file; up and to the right is better."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    rows = [row for row in report.rows if row.pairs is None]  # a dataset is no model
    ratios = [row.compression_ratio for row in rows]
    retained = [100 * row.retained for row in rows]
    axes.plot(ratios, retained, color=LINE, linewidth=1.2, alpha=0.5, zorder=1)
    axes.scatter(ratios[:-1], retained[:-1], color=LINE, s=45, zorder=2)
    axes.scatter(ratios[-1:], retained[-1:], color=LINE, s=120, marker="*", zorder=2)
    axes.set_xlabel("compression ratio (bytes of the bf16 origin ÷ bytes)")
    axes.set_ylabel("retained quality, % (perplexity on other-kind text)")
    axes.set_title(f"{report.recipe}: what each step costs and saves", loc="left", fontsize=11)
    room = max(2.0, 0.25 * (100 - min(retained)))
    axes.set_ylim(min(retained) - room, 100 + room)
    axes.margins(x=0.15)
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    canvas.draw()  # labels are placed by their size in pixels
    _label(axes, rows, canvas.get_renderer())
    figure.savefig(path, dpi=150)
    return path


def _label(axes: Any, rows: list[Row], renderer: Any) -> None:
    """Name every point where its name covers neither another name nor a point."""
    points = [axes.transData.transform((row.compression_ratio, 100 * row.retained)) for row in rows]
    taken: list[Any] = []
    for row in rows:
        x, y = row.compression_ratio, 100 * row.retained
        text = f"{row.label}\n{x:.2f}× · {y:.1f} %"
        label = axes.annotate(text, (x, y), xytext=(0, 0), textcoords="offset points", fontsize=8, color=INK)
        for (right, up), side, sign in product(((8, 7), (8, 30), (8, 55)), ("left", "right", "center"), (1, -1)):
            label.set(ha=side, va="bottom" if sign > 0 else "top")
            label.set_position(({"left": right, "right": -right, "center": 0}[side], sign * up))
            box = label.get_window_extent(renderer)
            inside = axes.bbox.contains(*box.min) and axes.bbox.contains(*box.max)
            free = not any(box.overlaps(other) for other in taken) and not any(box.contains(*p) for p in points)
            if inside and free:
                break
        taken.append(label.get_window_extent(renderer))
        label.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 1})  # the line goes behind a name
