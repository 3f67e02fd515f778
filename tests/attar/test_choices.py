"""Four choices: fair questions, the same for everybody, in two strata that share no function."""

import pytest

from attar.choices import CHOICES, Stratum, questions
from attar.data import Document
from attar.data.documents import split_of


def document(library: str, leaf: str, text: str, module: str = "_core") -> Document:
    return Document(f"{library}.{module}.{leaf}", f"{library}.{module}", text)


TEXT = "Compute the number {} of a thing that nobody asked for.\n\nMore about it."
DOCUMENTS = [
    document(lib, f"{lib}_{module}_f{i}", TEXT.format(1000 * at + i * 7), module)
    for at, (lib, module) in enumerate((lib, module) for lib in ("one", "two") for module in ("_core", "extra"))
    for i in range(20)
]
MODULE = {".".join(p for p in d.name.split(".") if not p.startswith("_")): d.module for d in DOCUMENTS}


def asked(documents: list[Document], count: int, seed: int = 0) -> dict[Stratum, list[str]]:
    return {s: [question.key for question in questions(documents, s, count, seed)] for s in ("easy", "hard")}


def test_questions_are_fair() -> None:
    found = [*questions(DOCUMENTS, "easy", 100), *questions(DOCUMENTS, "hard", 100)]
    assert len(found) == len(DOCUMENTS)
    texts = {name: document.text for name, document in zip(MODULE, DOCUMENTS, strict=True)}
    for question in found:
        assert len(set(question.choices)) == CHOICES
        assert question.choices[question.right] == question.key and question.key not in question.text
        assert texts[question.key].partition("\n")[0] in question.text and "More about it" not in question.text
    assert {question.right for question in found} == set(range(CHOICES))


def test_strata_are_disjoint_and_the_hard_one_stays_in_the_module() -> None:
    easy, hard = questions(DOCUMENTS, "easy", 100), questions(DOCUMENTS, "hard", 100)
    assert easy and hard and not {q.key for q in easy} & {q.key for q in hard}
    assert all(len({MODULE[choice] for choice in question.choices}) == 1 for question in hard)
    assert any(len({MODULE[choice] for choice in question.choices}) > 1 for question in easy)


def test_questions_are_the_same_for_everybody() -> None:
    found = asked(DOCUMENTS, 10)
    assert {s: names[:10] for s, names in asked(list(reversed(DOCUMENTS)), 30).items()} == found
    assert asked(DOCUMENTS, 10, seed=1) != found


def test_modules_that_nothing_is_trained_on_come_first() -> None:
    modules = [f"m{i}" for i in range(200)]
    documents = [document("one", f"{m}_f{i}", TEXT.format(m), m) for m in modules for i in range(4)]
    held_out = [split_of(d.module) == "held-out" for d in documents]
    names = {d.name: unseen for d, unseen in zip(documents, held_out, strict=True)}
    order = [names[question.key] for question in questions(documents, "easy", 1000)]
    assert any(order) and order == sorted(order, reverse=True)


@pytest.mark.parametrize(
    "odd",
    [
        document("one", "norm", "Compute the norm of a vector or of a matrix of numbers."),
        document("one", "short", "Too short."),
        document("one", "_hidden", "Compute something that is of no concern to anybody else."),
        Document("one._core:12", "one._core", "Compute something that has no name of its own in there."),
    ],
    ids=lambda d: d.name,
)
def test_what_makes_no_question(odd: Document) -> None:
    assert asked([*DOCUMENTS, odd], 100) == asked(DOCUMENTS, 100)


def test_three_others_are_needed() -> None:
    assert asked(DOCUMENTS[:3], 10) == {"easy": [], "hard": []}
