"""What a sweep varies: lists and ranges inside a recipe, and orders of its stages; every variant is a plain recipe."""

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from attar.complaint import complaint
from attar.errors import BadInput
from pipelines import gates
from pipelines.sweep_words import MARK, ORDER, Document, Values, keys, label, put

MOST_VARIANTS = 10_000
# What variants must share to be compared.
FIXED = ("name", "model", "task", "measure", "track", "data", "dtype", "device")


class Range(BaseModel):
    """Numbers between two ends; whole ones where both ends are whole."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    low: Annotated[int | float, Field(description="the smallest value")]
    high: Annotated[int | float, Field(description="the largest value")]
    step: Annotated[int | float | None, Field(gt=0, description="distance of the values; a grid needs one")] = None
    log: Annotated[bool, Field(description="as many values between 1 and 10 as between 10 and 100")] = False

    @model_validator(mode="after")
    def _sound(self) -> "Range":
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"low={self.low} is not below high={self.high}")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("log needs low above 0, and no step")
        return self

    @property
    def whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int) and not isinstance(self.step, float)

    def brief(self, value: float) -> int | float:
        """A value to three digits, or to three of the width where that is narrow; what the recipe says stays inside."""
        if self.whole:
            return int(value)
        if self.step is not None:
            return float(f"{value:.12g}")
        digits = max(2 - math.floor(math.log10(abs(size))) for size in (value, self.high - self.low) if size)
        return min(max(round(value, digits), float(self.low)), float(self.high))

    @property
    def ends(self) -> tuple[int | float, int | float]:
        """The first and the last value that it can give: steps need not come to ``high``."""
        if self.step is None:
            return self.low, self.high
        return self.low, self.brief(self.low + (self._count - 1) * self.step)

    @property
    def _count(self) -> int:
        return math.floor((self.high - self.low) / (self.step or 1) + 1e-9) + 1

    def values(self, where: str) -> list[int | float]:
        """All values, from low to high."""
        if self.step is None:
            raise BadInput(f"{where}: a grid needs the range's step; give one, or sweep.search=random or tpe")
        count = self._count
        if count > MOST_VARIANTS:
            raise BadInput(f"{where}: the range has {count:,} values; a sweep takes {MOST_VARIANTS:,} at most")
        found = [self.low + i * self.step for i in range(count)]
        return found if self.whole else [float(f"{value:.12g}") for value in found]


def _bytes(given: Any) -> Any:
    """A size as gates take it; what is none goes on to be refused."""
    if not isinstance(given, str):
        return given
    try:
        return round(gates.limit(gates.Gate(measure="bytes", max=given))[0])
    except BadInput as error:
        raise ValueError(str(error).removeprefix(f"max={given!r} ")) from None


class Search(BaseModel):
    """How a sweep goes about: the recipe's ``sweep:`` block."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    search: Annotated[
        Literal["grid", "random", "tpe"],
        Field(description="every combination; combinations at random; or where the results so far promise most (TPE)"),
    ] = "grid"
    runs: Annotated[int | None, Field(ge=1, le=MOST_VARIANTS, description="variants at most")] = None
    minutes: Annotated[
        float | None,
        Field(gt=0, description="no variant begins that would end after so many minutes of all, over all starts"),
    ] = None
    seed: Annotated[int, Field(ge=0, lt=2**32, description="of the random choices")] = 0
    max_bytes: Annotated[
        int | None,
        BeforeValidator(_bytes, json_schema_input_type=int | str | None),
        Field(gt=0, description="tpe prefers models of at most so many bytes, such as 60 MB"),
    ] = None
    orders: Annotated[
        list[list[int]],
        Field(description="orders of the stages, by their places in the recipe, counted from 0; one may be left out"),
    ] = []

    @model_validator(mode="after")
    def _ends(self) -> "Search":
        if self.search != "grid" and self.runs is None and self.minutes is None:
            raise ValueError(f"search={self.search} has no end of its own; give runs or minutes, such as runs: 20")
        return self


@dataclass(frozen=True)
class Space:
    """A recipe with holes, and what each hole may hold."""

    document: Document  # without the sweep block; the holes still hold their marks
    search: Search
    dimensions: Mapping[str, list[Any] | Range]  # "stages.0.temperature" → its values

    def assign(self, values: Values, number: int) -> Document:
        """The recipe of one variant."""
        document = copy.deepcopy(self.document)
        for path, value in values.items():
            if path != ORDER:
                put(document, keys(path), value)
        if ORDER in values:
            document["stages"] = [document["stages"][place] for place in values[ORDER]]
        document["name"] = f"{document['name']}-{number:02}"
        return document

    def label(self, values: Values) -> str:
        """The values in words."""
        return label(values, self.document)

    def grid(self) -> Iterator[Values]:
        """All combinations; the last dimension changes quickest."""
        names = list(self.dimensions)
        lists = [self.choices(name) for name in names]
        count = math.prod(map(len, lists))
        if count > MOST_VARIANTS:
            raise BadInput(
                f"the sweep has {count:,} variants, {MOST_VARIANTS:,} are possible; use search=random or tpe"
            )
        for combination in product(*lists):
            yield dict(zip(names, combination, strict=True))

    def choices(self, name: str) -> list[Any]:
        """The values of one dimension, one after the other."""
        found = self.dimensions[name]
        return found.values(name) if isinstance(found, Range) else list(found)


def read(document: Document) -> Space:
    """The space that a document with ``{sweep: …}`` in it spans, or one sentence about what is wrong in it."""
    document = copy.deepcopy(document)
    block = document.pop(MARK, None) or {}
    if not isinstance(block, dict):
        raise BadInput(f"sweep: holds {block!r}; possible: a mapping with {', '.join(Search.model_fields)}")
    try:
        search = Search(**block)
    except ValidationError as error:
        raise BadInput(f"sweep: {complaint(error, Search, 'key')}") from None
    found = dict(_holes(document, ""))
    if search.orders:
        if "stages." in str(document.get("gates", "")):
            raise BadInput(
                "sweep: orders move the stages, which gates name by their places; gate the end, and stop there"
            )
        found[ORDER] = _orders(search.orders, document)
    if not found:
        raise BadInput(
            "nothing in the recipe is swept; write {sweep: [2, 4, 8]} or {sweep: {low: 0.1, high: 0.4, step: 0.1}} "
            "in place of a value, or orders in the sweep block"
        )
    for path in found:
        if path.split(".")[0] in FIXED:
            raise BadInput(f"{path}: a sweep may not vary {path.split('.')[0]}, or its variants could not be compared")
    if not isinstance(name := document.get("name"), str):  # variants are called after it
        told = f"name={name!r} is no text" if "name" in document else "the recipe has no name"
        raise BadInput(f"{told}; write one, such as name: sweep, after which its variants are called")
    return Space(document, search, found)


def _holes(value: Any, path: str) -> Iterator[tuple[str, list[Any] | Range]]:
    if isinstance(value, dict) and MARK in value:
        if len(value) > 1:
            other = next(key for key in value if key != MARK)
            raise BadInput(f"{path}: {other!r} stands beside sweep; {{sweep: …}} takes the place of the whole value")
        yield path, _values(value[MARK], path)
    elif isinstance(value, dict | list):
        for key, entry in value.items() if isinstance(value, dict) else enumerate(value):
            named = str(key).replace("~", "~0").replace(".", "~1")  # as JSON pointers spell it: keys may have dots
            yield from _holes(entry, f"{path}.{named}".lstrip("."))


def _values(given: Any, path: str) -> list[Any] | Range:
    if isinstance(given, list):
        if not given or any(given.count(value) > 1 for value in given):
            raise BadInput(f"{path}: sweep needs a list of different values, not {given!r}")
        return given
    if not isinstance(given, dict):
        raise BadInput(f"{path}: sweep={given!r} is not possible; possible: a list, or low and high of a range")
    try:
        return Range(**given)
    except ValidationError as error:
        raise BadInput(f"{path}: sweep: {complaint(error, Range, 'key')}") from None


def _orders(orders: list[list[int]], document: Document) -> list[Any]:
    stages = document.get("stages")
    count = len(stages) if isinstance(stages, list) else 0
    for order in orders:
        if not order or len(set(order)) < len(order) or not all(0 <= place < count for place in order):
            raise BadInput(
                f"sweep: the order {order} is not possible; possible: the places of this recipe's stages, each once at "
                f"most: {_places(stages if isinstance(stages, list) else [])}"
            )
    if any(orders.count(order) > 1 for order in orders):
        raise BadInput("sweep: an order is there twice")
    return list(orders)


def _places(stages: list[Any]) -> str:
    """``0 (prune.width), 1 (quantize.rtn)``."""
    names = [entry.get("stage", "repeat") if isinstance(entry, dict) else MARK for entry in stages]
    return ", ".join(f"{place} ({name if isinstance(name, str) else MARK})" for place, name in enumerate(names))
