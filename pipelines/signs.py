"""The signs that models stand under wherever they are listed or drawn: one meaning each, told where they appear."""

from collections.abc import Iterable
from typing import Literal

Kind = Literal["origin", "chosen", "on-front", "alike", "behind", "apart", "refused"]

SIGNS: dict[Kind, str] = {
    "origin": "□",
    "chosen": "★",
    "on-front": "◆",
    "alike": "●",
    "behind": "○",
    "apart": "△",
    "refused": "✗",
}
TOLD: dict[Kind, str] = {
    "origin": "origin",
    "chosen": "the choice",
    "on-front": "on the front: none is smaller and better",
    "alike": "not distinguishable from the best",
    "behind": "another is as small and better",
    "apart": "not ranked with these",
    "refused": "a gate was not kept",
}


def legend(kinds: Iterable[Kind]) -> str:
    """The signs of these kinds and what they stand for: ``★ the choice, ✗ a gate was not kept``."""
    there = set(kinds)
    return ", ".join(f"{sign} {TOLD[kind]}" for kind, sign in SIGNS.items() if kind in there)
