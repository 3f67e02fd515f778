"""Axes, ticks and marks of the report's drawings: SVG that we write ourselves, in the colours of the page."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil, cos, floor, log10, pi, sin

from pipelines.html_page import Html, element
from pipelines.signs import Kind

Form = Callable[[float], str]

CHARACTER = 6.9  # pixels that one takes at most, on average, at the drawings' size of letters
LINE = 15.0  # pixels from line to line


@dataclass(frozen=True)
class Frame:
    """A rectangle in pixels, and the values at its edges."""

    left: float
    right: float
    top: float
    bottom: float
    xs: tuple[float, float]
    ys: tuple[float, float]

    def x(self, value: float) -> float:
        return self.left + (value - self.xs[0]) / (self.xs[1] - self.xs[0]) * (self.right - self.left)

    def y(self, value: float) -> float:
        return self.bottom - (value - self.ys[0]) / (self.ys[1] - self.ys[0]) * (self.bottom - self.top)


def wide(drawing: Html) -> Html:
    """A drawing that scrolls sideways where it would get too small to read."""
    return element("div", drawing, class_="wide")


def svg(width: float, height: float, label: str, *children: Html | Sequence[Html]) -> Html:
    """A drawing that a screen reader calls by ``label``."""
    return element("svg", children, viewBox=f"0 0 {width:g} {height:g}", role="img", aria_label=label)


def words(text: str, x: float, y: float, class_: str = "") -> Html:
    return element("text", text, x=x, y=y, class_=class_ or None)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Html:
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def bar(x: float, y: float, width: float, height: float, class_: str) -> Html:
    return element("rect", x=x, y=y, width=max(0.0, width), height=height, rx=1.5, class_=class_)


def polyline(points: Sequence[tuple[float, float]], class_: str) -> Html:
    return element("polyline", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in points), class_=class_)


def whisker(x: float, low: float, high: float) -> Html:
    """An interval, as a bar with two ends."""
    return element(
        "path", d=f"M{x:.1f} {low:.1f}V{high:.1f}M{x - 3:.1f} {low:.1f}h6M{x - 3:.1f} {high:.1f}h6", class_="bar"
    )


def room(low: float, high: float, share: float = 0.08, least: float = 1e-9) -> tuple[float, float]:
    """Ends that leave some room around values, and are not the same."""
    span = max(high - low, least)
    return low - share * span, high + share * span


def ticks(low: float, high: float, most: int = 7) -> list[float]:
    """Round values within two ends."""
    raw = (high - low) / max(1, most)
    power = 10.0 ** floor(log10(raw)) if raw > 0 else 1.0
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * (1 - 1e-9))
    return [round(step * i, 10) for i in range(ceil(low / step - 1e-9), floor(high / step + 1e-9) + 1)]


def axes(frame: Frame, across: str, up: str, x_form: Form, y_form: Form) -> Iterator[Html]:
    """Grid, ticks and what they are of."""
    yield from upright(frame, up, y_form)
    for value in ticks(*frame.xs, most=9):
        yield line(frame.x(value), frame.top, frame.x(value), frame.bottom, "grid")
        yield words(x_form(value), frame.x(value), frame.bottom + 18, "mid dim")
    yield line(frame.left, frame.bottom, frame.right, frame.bottom, "axis")
    yield words(across, frame.right, frame.bottom + 38, "end dim")


def upright(frame: Frame, up: str, y_form: Form) -> Iterator[Html]:
    """The axis at the left alone."""
    for value in ticks(*frame.ys):
        yield line(frame.left, frame.y(value), frame.right, frame.y(value), "grid")
        yield words(y_form(value), frame.left - 8, frame.y(value) + 4, "end dim")
    yield words(up, frame.left - 46, frame.top - 12, "dim")


def mark(kind: Kind, x: float, y: float, hint: str = "") -> Html:
    """A point, told by its shape as much as by its colour: a square, diamond, disc, ring, star, triangle or cross."""
    title = element("title", hint) if hint else None
    match kind:
        case "origin":
            return element("rect", title, x=x - 6, y=y - 6, width=12, height=12, class_=kind)
        case "on-front":
            return element("path", title, d=f"M{x:.1f} {y - 8:.1f}l7 8l-7 8l-7 -8z", class_=kind)
        case "alike" | "behind":
            return element("circle", title, cx=x, cy=y, r=5, class_=kind)
        case "apart":
            return element("path", title, d=f"M{x:.1f} {y - 6:.1f}l6 11h-12z", class_=kind)
        case "refused":
            return element("path", title, d=f"M{x - 5:.1f} {y - 5:.1f}l10 10m0 -10l-10 10", class_=kind)
        case "chosen":
            turns = [(11 if i % 2 == 0 else 4.6, pi * (i / 5 - 0.5)) for i in range(10)]
            corners = [f"{x + r * cos(turn):.1f},{y + r * sin(turn):.1f}" for r, turn in turns]
            return element("polygon", title, points=" ".join(corners), class_=kind)


def legend(entries: Sequence[tuple[Kind, str]], x: float, y: float) -> Iterator[Html]:
    """Marks and what they stand for, side by side."""
    for kind, told in entries:
        yield mark(kind, x + 8, y - 4)
        yield words(told, x + 22, y, "dim")
        x += 40 + CHARACTER * len(told)
