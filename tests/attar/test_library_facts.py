"""Facts: every library is right as often as any other, and no question says the answer."""

import ast
from collections import Counter

import pytest

from attar.data import Document
from attar.data.embedded import LIBRARIES
from attar.data.library_names import names_in
from attar.library_facts import facts


def document(library: str, leaf: str, module: str = "_core") -> Document:
    return Document(f"{library}.{module}.{leaf}", f"{library}.{module}", "A text about it.")


DOCUMENTS = [document(lib, f"{lib[0]}{at}thing{i}") for at, lib in enumerate(LIBRARIES) for i in range(9 + at)]


def test_every_library_is_right_equally_often() -> None:
    found = facts(DOCUMENTS, 100, {})
    assert len(found) == 9 * len(LIBRARIES)
    assert set(Counter(question.choices[question.right] for question in found).values()) == {9}
    assert {question.choices for question in found} == {tuple(sorted(LIBRARIES.values()))}
    for question in found:
        library = LIBRARIES[question.key.partition(".")[0]]
        assert question.choices[question.right] == library
        assert question.key.rpartition(".")[2] in question.text and library not in question.text


def test_questions_are_the_same_for_everybody() -> None:
    found = facts(DOCUMENTS, 10, {})
    assert len(found) == 10 and facts(list(reversed(DOCUMENTS)), 30, {})[:10] == found
    assert facts(DOCUMENTS, 10, {}, seed=1) != found


def test_a_name_of_two_libraries_or_with_a_librarys_name_is_not_asked_about() -> None:
    odd = [
        document("numpy", "Shared"),
        document("scipy", "shared", "other"),
        document("torch", "to_numpy"),
        document("pandas", "_hidden"),
        Document("pandas._core.Frame.method", "pandas._core", "A method, which other classes may have."),
    ]
    assert facts([*DOCUMENTS, *odd], 100, {}) == facts(DOCUMENTS, 100, {})


def test_without_one_of_the_libraries_there_is_no_question() -> None:
    assert facts([d for d in DOCUMENTS if not d.name.startswith("numpy")], 10, {}) == []


def test_a_name_that_another_library_has_without_a_text_is_not_asked_about() -> None:
    """Compiled, or documented elsewhere: whoever says that library is right."""
    taken = facts(DOCUMENTS, 100, {"numpy": ["s2thing0"], "torch": {"S2THING1"}, "scipy": {"s2thing2"}})
    asked = {question.key.rpartition(".")[2] for question in taken}
    assert asked.isdisjoint({"s2thing0", "s2thing1"}) and "s2thing2" in asked


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("def One(x):\n    local = 1\n    def two(): ...", {"one", "two"}),
        ("class A:\n    b = 1\n    def c(self): ...", {"a", "b", "c"}),
        ("if x:\n    f = g\nelse:\n    h: int = 2", {"f", "h"}),
        ("__all__ = ['shown', 'also']\n__all__ += ('more',)", {"__all__", "shown", "also", "more"}),
        ("from ._compiled import quick\nfrom torch._C import inner as outer", {"quick", "outer"}),
        ("import numpy\nfrom numpy import ones_like\nx.y = 1\nprint('no')", set()),
        ("add_docstr(torch.bincount, r'counts things')", {"bincount"}),
        ("expit = _add_docstr(_special.special_expit, 'text of it')", {"expit", "special_expit"}),
        ("add_docstr_all('abs', 'a text')", {"abs"}),
        ("add_newdoc('numpy._core.umath', 'tile', 'a text')", {"umath", "tile"}),
        ("add_newdoc('numpy', 'ndarray', ('argmax', 'a text'))", {"numpy", "ndarray", "argmax"}),
    ],
)
def test_all_that_a_file_defines_lists_or_documents_is_its_own(source: str, names: set[str]) -> None:
    assert names_in(ast.parse(source), "torch") == names
