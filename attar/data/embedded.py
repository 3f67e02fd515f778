"""The corpus every installation carries: the docstrings of numpy, scipy, pandas, scikit-learn and torch.

The libraries are read as source (``ast``), never imported. Technical English with code, some 13 million characters.
"""

import ast
import inspect
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from attar.data.documents import Document
from attar.errors import BadInput

VERSION = 1  # bump when other documents come out of the same libraries
LIBRARIES = {"numpy": "numpy", "pandas": "pandas", "scipy": "scipy", "sklearn": "scikit-learn", "torch": "torch"}
SHORTEST = 200  # characters
# Tests say nothing, and what a library vendors may be vendored by another one, too.
SKIPPED = frozenset({"tests", "test", "testing", "vendor", "_vendor", "_vendored", "extern", "externals"})
# Documentation of compiled functions is attached by a call; among its arguments the text is the long one.
ATTACHED = frozenset({"add_newdoc", "add_docstr", "_add_docstr", "add_docstr_all"})
_NAMED = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)

Progress = Callable[[int, int], None]


def library_versions() -> dict[str, str]:
    """Distribution → version of the five libraries, or a sentence that names what is not installed."""
    versions = {}
    for name in sorted(LIBRARIES.values()):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            raise BadInput(
                f"data.source 'embedded' reads the docstrings of {', '.join(LIBRARIES.values())}, and {name} is not "
                f"installed; install it, or name your own text in data.source"
            ) from None
    return versions


def docstrings(progress: Progress | None = None) -> list[Document]:
    """Every docstring of over 200 characters, in the order of modules and lines.

    ``progress`` is called with (files done, files in all). Raises :class:`BadInput` when a library is missing.
    """
    library_versions()
    files = [entry for package in sorted(LIBRARIES) for entry in modules(package)]
    documents: list[Document] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other people's escapes; as errors they would drop files
        for done, (module, path) in enumerate(files, start=1):
            documents.extend(_documents(module, path))
            if progress is not None and (done % 50 == 0 or done == len(files)):
                progress(done, len(files))
    return documents


def modules(package: str, kind: str = "py", skipped: frozenset[str] = SKIPPED) -> Iterator[tuple[str, Path]]:
    """(dotted name, file) of a package's modules, sorted, without those ``skipped``; of kind ``pyi`` their stubs."""
    spec = find_spec(package)  # a top-level name: found without importing it
    for root in sorted((spec.submodule_search_locations or []) if spec else []):
        for path in sorted(Path(root).rglob(f"*.{kind}")):
            parts = (package, *path.relative_to(root).with_suffix("").parts)
            if skipped.isdisjoint(parts):
                yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def _documents(module: str, path: Path) -> Iterator[Document]:
    """The documentation in one file. A file that this Python cannot parse has none."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return
    for name, text in _documentation(tree, module):
        if len(text) > SHORTEST:
            yield Document(name, module, text.encode("utf-8", "replace").decode())  # a literal may hold half a pair


def _documentation(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
    """(dotted name, text) of a node and of all statements in it, in the order of lines."""
    if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        yield name, ast.get_docstring(node) or ""
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and called(node.value) in ATTACHED:
        yield f"{name}:{node.lineno}", inspect.cleandoc(_longest(node.value.args))
    for field in ("body", "handlers", "orelse", "finalbody"):
        inner = getattr(node, field, ())
        for child in inner if isinstance(inner, list) else ():
            yield from _documentation(child, f"{name}.{child.name}" if isinstance(child, _NAMED) else name)


def called(call: ast.Call) -> str:
    """Last part of the name of what is called; nothing where that has none."""
    match call.func:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case _:
            return ""


def _longest(arguments: list[ast.expr]) -> str:
    """The longest string among the arguments: plain, added up, ``.format(…)``-ed, or in a tuple of (name, text)."""
    return max((_string(argument) for argument in arguments), key=len, default="")


def _string(node: ast.expr) -> str:
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _string(left) + _string(right)
        case ast.Call(func=ast.Attribute(value=value)):
            return _string(value)
        case ast.Tuple(elts=elements):
            return _longest(elements)
        case _:
            return ""
