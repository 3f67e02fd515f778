"""The README's tree says of every module what the module says of itself."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("attar", "stages", "pipelines", "benchmarks")
MODULES = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]


def line(path: Path) -> str:
    """The tree's line of a module: its path within the room, and the first paragraph of its docstring."""
    said = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n\n")[0]
    return f"  {path.relative_to(ROOT / path.relative_to(ROOT).parts[0])!s:<34}{' '.join(said.split())}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_is_in_the_tree(path: Path) -> None:
    assert line(path) in (ROOT / "README.md").read_text(encoding="utf-8").splitlines()


def test_the_tree_names_no_module_that_is_gone() -> None:
    tree = (ROOT / "README.md").read_text(encoding="utf-8").split("## The tree")[1]
    named = [text.split()[0] for text in tree.splitlines() if text.startswith("  ") and ".py " in text]
    assert sorted(named) == sorted(str(p.relative_to(ROOT / p.relative_to(ROOT).parts[0])) for p in MODULES)
