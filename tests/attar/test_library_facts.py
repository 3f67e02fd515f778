"""Facts: every library is right as often as any other, and no question says the answer."""

from collections import Counter

from attar.data import Document
from attar.data.embedded import LIBRARIES
from attar.library_facts import facts


def document(library: str, leaf: str, module: str = "_core") -> Document:
    return Document(f"{library}.{module}.{leaf}", f"{library}.{module}", "A text about it.")


DOCUMENTS = [document(lib, f"{lib[0]}{at}thing{i}") for at, lib in enumerate(LIBRARIES) for i in range(9 + at)]


def test_every_library_is_right_equally_often() -> None:
    found = facts(DOCUMENTS, 100)
    assert len(found) == 9 * len(LIBRARIES)
    assert set(Counter(question.choices[question.right] for question in found).values()) == {9}
    assert {question.choices for question in found} == {tuple(sorted(LIBRARIES.values()))}
    for question in found:
        library = LIBRARIES[question.key.partition(".")[0]]
        assert question.choices[question.right] == library
        assert question.key.rpartition(".")[2] in question.text and library not in question.text


def test_questions_are_the_same_for_everybody() -> None:
    found = facts(DOCUMENTS, 10)
    assert len(found) == 10 and facts(list(reversed(DOCUMENTS)), 30)[:10] == found
    assert facts(DOCUMENTS, 10, seed=1) != found


def test_a_name_of_two_libraries_or_with_a_librarys_name_is_not_asked_about() -> None:
    odd = [
        document("numpy", "Shared"),
        document("scipy", "shared", "other"),
        document("torch", "to_numpy"),
        document("pandas", "_hidden"),
        Document("pandas._core.Frame.method", "pandas._core", "A method, which other classes may have."),
    ]
    assert facts([*DOCUMENTS, *odd], 100) == facts(DOCUMENTS, 100)


def test_without_one_of_the_libraries_there_is_no_question() -> None:
    assert facts([d for d in DOCUMENTS if not d.name.startswith("numpy")], 10) == []
