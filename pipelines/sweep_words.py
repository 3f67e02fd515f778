"""What a sweep's settings, values and orders are called: the same in the terminal, in plots, on pages and in MLflow."""

import copy
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import takewhile
from typing import Any

from pipelines.recipe import Recipe

ORDER = "order"  # the dimension of the stages' orders
MARK = "sweep"
# Stages are called by the last part of their names, but for those of which it says little.
CALLED = {
    "distill.logit": "distill",
    "distill.response": "distill",
    "finetune.full": "finetune",
    "generate.responses": "generate",
}
LETTERS = 5  # of a setting's name where room is scarce

Document = dict[str, Any]
Values = dict[str, Any]  # dimension → value


def label(values: Mapping[str, Any], document: Document) -> str:
    """What tells a variant from the others: ``temperature 4, depth → width → rtn, without distill``."""
    said = words(values, document)
    return ", ".join(
        said[path] if path == ORDER else f"{name} {said[path]}" for path, name in names(values, document).items()
    )


def short(values: Mapping[str, Any], document: Document, orders: Sequence[Sequence[int]] = ()) -> str:
    """The same for lists that cut it off: ``temp 4, depth→width``; ``temp 4, no distill`` where that is all.

    Numbers are rounded; params have all digits.
    """
    called = names(values, document)
    brief = {path: _abbreviated(name) for path, name in called.items()}
    brief = brief if len(set(brief.values())) == len(brief) else called
    return ", ".join(
        short_order(values[path], document, orders) if path == ORDER else f"{name} {_rounded(values[path])}"
        for path, name in brief.items()
    )


def short_order(order: Sequence[int], document: Document, orders: Sequence[Sequence[int]] = ()) -> str:
    """An order where nine letters may be all that is shown: what it leaves out, or how it differs from the others.

    MLflow names the values on an axis by their first and last three letters.
    """
    called = _stages(document)
    gone = _left_out(order, called)
    if gone and list(order) == sorted(order):
        return f"no {' and '.join(gone)}"
    return "→".join(called.get(place, f"stage {place + 1}") for place in _apart(order, orders))


def words(values: Mapping[str, Any], document: Document) -> dict[str, str]:
    """Dimension → its value in words; an order is told as the stages it has and those it leaves out."""
    return {path: _order(value, document) if path == ORDER else told(value) for path, value in values.items()}


def told(value: Any) -> str:
    """A value as a recipe spells it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def names(paths: Iterable[str], document: Document) -> dict[str, str]:
    """What is varied → its name wherever it is told: ``temperature``; ``1 prune.width ffn`` where that is not enough.

    Stages have the places that the sweep's recipe gives them, counted from 1, whatever their order is.

    Args:
        paths: the dimensions, all of them: of two that are called alike, both have a longer name.
        document: the recipe of the sweep, or what its variants tell of it, see :func:`whole`.
    """
    last = {path: keys(path)[-1] for path in paths}
    often = Counter(last.values())
    long = {
        path
        for path, name in last.items()
        if often[name] > 1 or name.isdigit() or (name != path and name in Recipe.model_fields)  # such as a stage's seed
    }
    return {path: _where(path, document) if path in long else name for path, name in last.items()}


def whole(variants: Sequence[tuple[Values, Document]]) -> Document:
    """The sweep's recipe as far as its variants tell it: every stage at its place there, and holes where it has any."""
    stages: dict[int, Any] = {}
    for values, recipe in variants:
        entries = recipe.get("stages", [])
        stages |= dict(zip(values.get(ORDER, range(len(entries))), entries, strict=False))
    document = copy.deepcopy(variants[0][1])
    document["stages"] = [copy.deepcopy(stages.get(place, {})) for place in range(1 + max(stages, default=-1))]
    for path in {path for values, _ in variants for path in values} - {ORDER}:
        with suppress(LookupError, TypeError, ValueError):  # of a stage that no variant has
            put(document, keys(path), {MARK: []})
    return document


def keys(path: str) -> list[str]:
    """The keys on the way to a dimension; they may have dots, which JSON pointers spell otherwise."""
    return [key.replace("~1", ".").replace("~0", "~") for key in path.split(".")]


def put(place: Any, way: Sequence[str], value: Any) -> None:
    """Set a value inside a recipe."""
    for key in way[:-1]:
        place = place[int(key) if isinstance(place, list) else key]
    place[int(way[-1]) if isinstance(place, list) else way[-1]] = copy.deepcopy(value)


def _order(order: Sequence[int], document: Document) -> str:
    called = _stages(document)
    gone = _left_out(order, called)
    said = " → ".join(called.get(place, f"stage {place + 1}") for place in order)
    return f"{said}, without {' and '.join(gone)}" if gone else said


def _apart(order: Sequence[int], orders: Sequence[Sequence[int]]) -> Sequence[int]:
    """An order without the stages that all orders begin and end with; whole where hardly anything would be left."""
    both = orders, [one[::-1] for one in orders]
    head, tail = (len(list(takewhile(lambda at: len(set(at)) == 1, zip(*ones, strict=False)))) for ones in both)
    kept = order[head : len(order) - tail]
    return kept if len(kept) > 1 else order


def _rounded(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else told(value)


def _left_out(order: Sequence[int], called: Mapping[int, str]) -> list[str]:
    return [word for place, word in called.items() if place not in order]


def _stages(document: Document) -> dict[int, str]:
    """Place → what the stage there is called; the second of a name says so, and no two are called alike."""
    entries = document.get("stages", [])
    once = [_stage(entry) or f"stage {place}" for place, entry in enumerate(entries, start=1)]
    return {
        place: word if word not in once[:place] else f"{word} {1 + once[:place].count(word)}"
        for place, word in enumerate(once)
    }


def _stage(entry: Any) -> str:
    """``width``, or ``3 × (width → finetune)``; nothing where the stage itself is what is varied."""
    if not isinstance(entry, dict):
        return ""
    if "repeat" in entry:
        inner = " → ".join(_stage(one) or "stage" for one in entry.get("stages", []))
        return f"{entry['repeat']} × ({inner})" if isinstance(entry["repeat"], int) else f"rounds of ({inner})"
    name = entry.get("stage")
    return CALLED.get(name, name.rpartition(".")[2]) if isinstance(name, str) else ""


def _abbreviated(name: str) -> str:
    """``temperature`` → ``temp``, ``learning_rate`` → ``lr``, ``1 prune.width windows`` → ``1 wind``."""
    *before, last = name.split()
    if not re.fullmatch(r"[a-z_]+", last):
        return name
    parts = last.split("_")
    brief = "".join(part[:1] for part in parts) if len(parts) > 1 else last if len(last) <= LETTERS else last[:4]
    return " ".join([*before[:1], brief])


def _where(path: str, document: Document) -> str:
    """``1 prune.width ffn``; outside of the stages, or inside one that the variant does not have, the whole path."""
    way = keys(path)
    place: Any = document
    numbers, stage, inside = [], "", way
    try:
        for depth, key in enumerate(way[:-1], start=1):
            place = place[int(key) if isinstance(place, list) else key]
            if isinstance(place, dict) and isinstance(place.get("stage", place.get("repeat")), str | int):
                numbers.append(str(int(key) + 1))
                stage, inside = str(place.get("stage", "repeat")), way[depth:]
    except (LookupError, TypeError, ValueError):
        return ".".join(way)
    return " ".join(filter(None, (".".join(numbers), stage, ".".join(inside))))
