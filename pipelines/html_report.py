"""Writes the report of one run or many as a page that stands alone: which to ship, why, and how to make it again."""

import re
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from attar.errors import BadInput
from pipelines import asked_runs, html_run, html_variants, shipping
from pipelines.asked_runs import Asked, Shown
from pipelines.home import Home
from pipelines.html_page import Child, Html, element, folded, note, page, section
from pipelines.html_plots import Point, pareto
from pipelines.report import interval

FILE = "report.html"  # in a run's folder, and in that of a sweep


def write(home: Home, names: Sequence[str], out: Path | None) -> Path:
    """The page about the runs of these names, as ``attar report`` writes it; its path.

    Raises:
        BadInput: there is no such run, or the file cannot be written.
    """
    asked = asked_runs.find(home, names)
    if out is None:
        alone = len(asked.runs) == 1 and not asked.is_sweep
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", asked.name).strip("-.")[:80] or "runs"
        out = asked.runs[0].folder / FILE if alone else Path(f"report-{name}.html").absolute()
    return _save(render(home, asked), out)


def write_run(home: Home, folder: Path, end: tuple[str, str]) -> Path:
    """The page of a run that ends just now, so that its journal does not say yet how."""
    shown = asked_runs.read(folder, end=end)
    return _save(render(home, Asked(shown.report.run, (shown,))), folder / FILE)


def write_sweep(home: Home, folder: Path) -> Path:
    """The page of a sweep, into its folder."""
    return _save(render(home, asked_runs.of_sweep(home, folder)), folder / FILE)


def render(home: Home, asked: Asked) -> str:
    """The page as text."""
    if len(asked.runs) == 1 and not asked.is_sweep:
        return _of_one(home, asked.runs[0])
    return _of_many(home, asked)


def _of_one(home: Home, one: Shown) -> str:
    title, reasons = shipping.of_one(one)
    alarm = one.status in ("failed", "cancelled") or not one.kept_gates
    return page(
        title,
        _top(f"Run {one.report.run}", title, reasons, alarm),
        html_run.facts(one.report.final),
        section("What is left after each step", _steps(one)),
        section("Step by step", html_run.figures(one, home.store)),
        section("Settings, and the command that makes it again", html_run.settings(one, home)),
        _foot(),
    )


def _of_many(home: Home, asked: Asked) -> str:
    found = html_variants.compare(asked, home.store)
    title, reasons = html_variants.headline(found)
    chosen = found.chosen
    kind = (
        f"Sweep {asked.name}, {len(asked.runs)} variants"
        if asked.is_sweep
        else f"{len(asked.runs)} runs of {asked.name}"
    )
    rest = [one for one in asked.runs if one is not chosen]
    body: list[Child] = [_top(kind, title, reasons, chosen is None)]
    if chosen is not None:
        body.append(html_run.facts(chosen.report.final))
    body.append(section("Smaller against better", html_variants.plot(found)))
    body.append(section("All variants", html_variants.variants(found), html_variants.failures(asked)))
    if swept := html_variants.settings(found):
        body.append(section("What the settings did", swept))
    for one in [chosen] if chosen is not None else []:
        body.append(
            section(
                f"{'The best of these' if found.unjudged else 'The one to ship'}: {one.tag}",
                _run(one),
                html_run.figures(one, home.store),
            )
        )
        body.append(section("Settings, and the command that makes it again", html_run.settings(one, home)))
    if asked.file is not None:
        again = html_run.again("sweep", asked.file, home, asked.file.read_text(encoding="utf-8"))
        body.append(section("The whole sweep, and the command that makes it again", again))
    if rest:
        body.append(section("The others", (_folded(home, one) for one in rest)))
    return page(title, *body, _foot())


def _steps(one: Shown) -> list[Child]:
    """A run's own plot: its steps in order."""
    models = [row for row in one.report.rows if row.pairs is None]
    points = [
        Point(
            row.label,
            row.bytes,
            row.compression_ratio,
            row.retained,
            row.retained_low,
            row.retained_high,
            "origin" if not row.step else "chosen" if row is one.report.final else "behind",
            f"{row.label}: {row.compression_ratio:.2f}×, retained {interval(row)}",
        )
        for row in models
    ]
    return [pareto(points, path=True), note("Bars are 95 % intervals against the origin, over documents.")]


def _folded(home: Home, one: Shown) -> Html:
    row = one.report.final
    title = f"{one.name} · {row.compression_ratio:.2f}× · {interval(row)}"
    return folded(title, _run(one), html_run.figures(one, home.store), html_run.settings(one, home))


def _run(one: Shown) -> Html:
    _, reasons = shipping.of_one(one)
    return element("p", f"{one.name}, run {one.report.run}. ", " ".join(reasons))


def _top(kind: str, title: str, reasons: Sequence[str], alarm: bool) -> Html:
    told = element("ul", (element("li", _whole(reason)) for reason in reasons), class_="lead")
    return element(
        "header",
        element("p", f"Attar · {kind}", class_="kind"),
        element("h1", _whole(title)),
        element("div", told, class_="alarm") if alarm else told,
    )


def _whole(text: str) -> str:
    """Numbers stay on one line with their units."""
    return re.sub(r"(?<=\d) (?=%|MB|\()", "\N{NO-BREAK SPACE}", text)


def _foot() -> Html:
    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    return element(
        "footer", f"Written by attar report on {when}. This file holds everything it shows and loads nothing."
    )


def _save(text: str, path: Path) -> Path:
    draft = path.with_name(f"{path.name}.draft")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        with suppress(OSError):
            draft.unlink()
        raise BadInput(
            f"the report cannot be written to {path} ({error.strerror}); name another file with --out"
        ) from None
    return path
