"""A table of texts as Markdown: names to the left, figures to the right."""

from collections.abc import Sequence


def markdown_table(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Headings, a rule below them, and the lines, each ended by a line break."""
    rule = f"|{'|'.join(['---', *['---:'] * (len(headings) - 1)])}|"
    first, *rest = [f"| {' | '.join(line)} |" for line in (headings, *lines)]
    return "\n".join([first, rule, *rest]) + "\n"
