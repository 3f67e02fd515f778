"""HTML by construction: elements that escape every text put into them, and a page that stands alone.

Whatever users or models wrote goes through :func:`element`, which escapes all that is not :class:`Html` already. The
page's own policy forbids scripts, images, fonts and addresses: a browser that opens it asks nobody for anything.
"""

import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import TypeAlias

from pipelines.html_style import STYLE

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
VOID = frozenset({"br", "meta", "hr"})
CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")  # which HTML or UTF-8 cannot hold


class Html(str):
    """Text that is HTML already."""


Child: TypeAlias = "str | float | Iterable[Child] | None"
Attribute: TypeAlias = str | float | bool | None


def element(name: str, /, *children: Child, **attributes: Attribute) -> Html:
    """``<name attribute="…">children</name>``; None and False leave an attribute or a child out.

    Underscores become dashes, and one at the end is dropped: ``class_``, ``stroke_width``.
    """
    told = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{text(value)}"'
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    return Html(f"<{name}{told}>" if name in VOID else f"<{name}{told}>{text(children)}</{name}>")


def text(value: Child) -> Html:
    """Anything as HTML; numbers as short as a drawing needs them."""
    if value is None:
        return Html("")
    if isinstance(value, Html):
        return value
    if isinstance(value, str):
        return Html(escape(CONTROLS.sub("\N{REPLACEMENT CHARACTER}", value)))
    if isinstance(value, bool | int):
        return Html(str(value).lower())
    if isinstance(value, float):
        return Html(f"{value:.2f}".rstrip("0").rstrip("."))
    return Html("".join(text(one) for one in value))


def table(headings: Sequence[Child], lines: Iterable[Sequence[Child]], class_: str = "", words: int = 1) -> Html:
    """A table that scrolls sideways where it is too wide; all but the first ``words`` columns hold numbers."""

    def cells(name: str, line: Sequence[Child]) -> list[Html]:
        return [element(name, cell, class_=None if place < words else "n") for place, cell in enumerate(line)]

    head = element("thead", element("tr", cells("th", headings)))
    body = element("tbody", (line if isinstance(line, Html) else element("tr", cells("td", line)) for line in lines))
    return element("div", element("table", head, body, class_=class_ or None), class_="wide")


def section(title: Child, *children: Child, id_: str | None = None) -> Html:
    """A part of the page, under its heading."""
    return element("section", element("h2", title), children, id=id_)


def folded(title: Child, *children: Child, open_: bool = False) -> Html:
    """A part that opens at a click; on paper it is open."""
    return element("details", element("summary", title), children, open=open_)


def note(*children: Child) -> Html:
    """A small explanation."""
    return element("p", children, class_="note")


def page(title: str, *children: Child) -> str:
    """The whole document."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=Html(POLICY)),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", Html(STYLE)),
    )
    return f"<!doctype html>\n{element('html', head, element('body', element('main', children)), lang='en')}\n"
