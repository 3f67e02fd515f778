"""Recipes as text: plain YAML 1.2 scalars, no tags, no duplicate keys, no cycles; every fault is one sentence."""

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from attar.errors import BadInput

MAX_BYTES = 1_000_000
MAX_NODES = 20_000  # after aliases are expanded


class _Loader(yaml.SafeLoader):
    """Safe YAML whose scalars mean what YAML 1.2 says: ``1e-4`` is a number, ``no`` and ``2026-01-01`` are strings."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (PyYAML's own form)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key is no plain text", key.start_mark)
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                problem = f"the key {key.value!r} is there twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _integer(loader: _Loader, node: yaml.ScalarNode) -> int:
    return int(loader.construct_scalar(node))


_Loader.add_constructor("tag:yaml.org,2002:int", _integer)
for _tag, _pattern, _first in (
    ("null", r"null|Null|NULL|~|", ["n", "N", "~", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9][0-9_]*", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan", list("-+.0123456789")),
    ("merge", r"<<", ["<"]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)


def read_text(path: Path, what: str = "the recipe") -> str:
    """Text of a file of YAML, or a sentence that calls it ``what``."""
    try:
        if not path.exists():
            raise BadInput(f"{what} {path} does not exist")
        if path.is_dir():
            raise BadInput(f"{what} {path} is a folder; give the YAML file inside it")
        if not path.is_file() or path.stat().st_size > MAX_BYTES:
            raise BadInput(f"{what} {path} is not a text file of at most {MAX_BYTES:,} bytes")
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadInput(f"{what} {path} is not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise BadInput(f"{what} {path} cannot be read ({error.strerror})") from None


def parse(text: str, where: str) -> dict[str, Any]:
    """The mapping that a YAML text holds, as plain JSON values."""
    value = value_of(text, where)
    if value is None:
        raise BadInput(f"{where} is empty; a recipe needs at least name, model and stages")
    if not isinstance(value, dict):
        raise BadInput(f"{where} holds a {_kind(value)}; a recipe is a mapping with name, model and stages")
    return value


def value_of(text: str, where: str) -> Any:
    """Any YAML value as plain JSON, or a sentence that says where it is wrong."""
    try:
        value = yaml.load(text, Loader=_Loader)
    except yaml.constructor.ConstructorError as error:
        raise BadInput(f"{where} is not plain YAML: {error.problem}{_place(error)}") from None
    except yaml.MarkedYAMLError as error:
        raise BadInput(f"{where} is not YAML: {error.problem or error.context}{_place(error)}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise BadInput(f"{where} is not YAML: {str(error).splitlines()[0]}") from None
    except RecursionError:
        raise BadInput(f"{where} is nested too deeply or refers to itself") from None
    return _Plain(where).copy(value, "", ())


class _Plain:
    """Copies parsed YAML into a tree of JSON values; refuses cycles and explosions of aliases."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.nodes = 0

    def copy(self, value: Any, path: str, above: tuple[int, ...]) -> Any:
        self.nodes += 1
        if self.nodes > MAX_NODES or len(above) > 50:
            raise BadInput(f"{self.where} is too large or too deep for a recipe (aliases expanded)")
        if id(value) in above:
            raise BadInput(f"{self.where}: the anchor at {path or 'the top'} contains itself")
        inside = (*above, id(value))
        if isinstance(value, dict):
            odd = next((key for key in value if not isinstance(key, str)), None)
            if odd is not None:
                raise BadInput(f"{self.where}: the key {odd!r} at {path or 'the top'} is not a string")
            return {key: self.copy(entry, f"{path}.{key}".lstrip("."), inside) for key, entry in value.items()}
        if isinstance(value, list):
            return [self.copy(entry, f"{path}.{i}".lstrip("."), inside) for i, entry in enumerate(value)]
        if value is None or isinstance(value, str | int | float | bool):
            return value
        raise BadInput(f"{self.where}: the value at {path or 'the top'} is a {_kind(value)}, not text, number or list")


def _place(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark
    return f" (line {mark.line + 1})" if mark else ""


def _kind(value: Any) -> str:
    names = {list: "list", str: "text", int: "number", float: "number", bool: "true/false", dict: "mapping"}
    return names.get(type(value), type(value).__name__)
