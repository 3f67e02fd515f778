"""Every name that the installed libraries define, documented or not: what tells whose a name is.

A docstring tells of a function's own library alone; another may have one of that name that is compiled, documented
elsewhere, or in few words. So all that a library's source and stubs define, list, attach texts to or import from within
is counted as its own.
"""

import ast
import warnings
from collections.abc import Iterator
from pathlib import Path

from attar.data import embedded
from attar.data.cache import kept
from attar.data.corpus import library_key
from attar.data.documents import Document
from attar.data.embedded import ATTACHED, LIBRARIES
from attar.waiting import ANYBODY, Waiter

VERSION = 1  # bump when other names are found in the same libraries
# What a library offers for tests of others is its own, too; what its own tests are made of is nobody's business.
_SKIPPED = embedded.SKIPPED - {"testing"} | {"_internal"}
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_PARTS = ("body", "orelse", "finalbody", "handlers", "cases")  # where statements hold further ones

Names = dict[str, frozenset[str]]


def library_names(cache: Path, waiter: Waiter = ANYBODY) -> Names:
    """Library → names of the installed one, in lower case; kept in the folder ``cache``."""
    found = kept(cache / f"names-{library_key(VERSION)}.json", "the names in the libraries", _scanned, waiter)
    return {one.name: frozenset(one.text.split()) for one in found}


def names_in(tree: ast.AST, package: str) -> set[str]:
    """Last parts of the names that a file of a package defines: see the module's own words."""
    return {name.rpartition(".")[2].lower() for name in _names(tree, package)}


def _scanned() -> list[Document]:
    embedded.library_versions()
    return [Document(package, package, " ".join(sorted(_of_library(package)))) for package in sorted(LIBRARIES)]


def _of_library(package: str) -> set[str]:
    found: set[str] = set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other people's escapes
        for kind in ("py", "pyi"):
            for _, path in embedded.modules(package, kind, _SKIPPED):
                try:
                    found |= names_in(ast.parse(path.read_bytes()), package)
                except (SyntaxError, ValueError, OSError):
                    continue
    return {name for name in found if name.isidentifier()}


def _names(tree: ast.AST, package: str) -> Iterator[str]:
    """Names in all statements of a file, however deep; variables only where they are a module's or a class's.

    Expressions are not walked: they are most of a file, and nothing is defined in them.
    """
    left: list[tuple[ast.AST, bool]] = [(tree, False)]
    while left:
        node, local = left.pop()
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name
            case ast.Assign(targets=targets, value=value) if not local:
                yield from _assigned(targets, value)
            case ast.AugAssign(target=target, value=more) | ast.AnnAssign(target=target, value=more) if not local:
                yield from _assigned([target], more)
            case ast.ImportFrom(module=module, level=level, names=aliases):
                if level or (module or "").partition(".")[0] == package:
                    yield from (alias.asname or alias.name for alias in aliases)
        match node:
            case ast.Expr(value=ast.Call(args=arguments) as call) | ast.Assign(value=ast.Call(args=arguments) as call):
                if embedded.called(call) in ATTACHED:
                    yield from _told(arguments)
        inside = local or isinstance(node, _FUNCTIONS)
        for part in _PARTS:
            left += [(child, inside) for child in getattr(node, part, ())]


def _assigned(targets: list[ast.expr], value: ast.expr | None) -> Iterator[str]:
    """Names that are assigned to; of a module's list of what it offers, what is in it."""
    names = [target.id for target in targets if isinstance(target, ast.Name)]
    yield from names
    if "__all__" in names and isinstance(value, ast.List | ast.Tuple):
        yield from _told(value.elts)


def _told(nodes: list[ast.expr]) -> Iterator[str]:
    """Names among strings, attributes and tuples of them; a text is none."""
    for node in nodes:
        match node:
            case ast.Constant(value=str(text)) if " " not in text:
                yield text
            case ast.Attribute(attr=name) | ast.Name(id=name):
                yield name
            case ast.Tuple(elts=elements):
                yield from _told(elements[:1])
