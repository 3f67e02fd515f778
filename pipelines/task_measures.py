"""Measures of a task, for gates and limits: ``task/capitals``, ``task/describes/hard``, ``task/facts/retained``.

A task goes by the name that the report has for it; one of a file is called as the file is, without the ending. Alone
it is the share of right answers: of ``describes`` over its easy and hard questions together, of ``generation`` the
likeness to the origin's answers (its overlap). ``/retained`` is the share of the origin's answers above chance that is
left, ``/confidently_wrong`` how often a model is sure and wrong where it chooses.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from attar import lm_eval_folder
from attar.errors import BadInput
from attar.questions import Writing

if TYPE_CHECKING:
    from attar.exam import Exam
    from attar.suite import Suite

PREFIX = "task/"
RETAINED, SURE_WRONG = "retained", "confidently_wrong"
TOGETHER = {"describes": ("describes/easy", "describes/hard"), "generation": ("generation/overlap",)}
GUESSED = (*lm_eval_folder.PICKED, lm_eval_folder.EXACT)  # metrics of lm-eval whose /retained there can be
GENERATION = ("overlap", "same", "repetition", "empty")
LM_EVAL = "lm_eval."
_NAME = re.compile(r"[A-Za-z0-9][\w.:@+-]*(/[\w.:@+-]+){0,2}", re.ASCII)
_SHARES = re.compile(r"(acc|exact_match|f1|em|pass@)[\w.:@+-]*")  # of lm-eval's metrics; others are plain numbers
_LOSSES = re.compile(r"[\w]*(perplexity|bits_per_byte|brier_score)[\w.:@+-]*|(ter|wer)(:[\w.@+-]+)?")

# What can be asked, and which settings ask it: for who looks up what there is.
FORMS = {
    "task/describes": "measure.choices",
    "task/describes/easy": "measure.choices",
    "task/describes/hard": "measure.choices",
    "task/facts": "measure.facts",
    "task/FILE": "measure.tasks: FILE.jsonl",
    **{f"task/generation{name}": "measure.generation" for name in ("", *(f"/{one}" for one in GENERATION[1:]))},
    "task/lm_eval.TASK/METRIC": "measure.lm_eval",
    f"task/NAME/{RETAINED}": "the task",
    f"task/NAME/{SURE_WRONG}": "the task, of choices",
}


class Asked(NamedTuple):
    """A figure of a task."""

    task: str  # as the report calls it, or all its kinds together
    figure: str  # "" for what is right

    @property
    def parts(self) -> tuple[str, ...]:
        """The report's names of it."""
        return TOGETHER.get(self.task, (self.task,))

    @property
    def higher(self) -> bool:
        """Is better."""
        head, _, metric = self.task.partition("/")
        loses = head.startswith(LM_EVAL) and _LOSSES.fullmatch(metric)
        return not (loses or self.figure == SURE_WRONG or self.task in ("generation/repetition", "generation/empty"))

    @property
    def unit(self) -> Literal["answers", "share", "plain"]:
        head, _, metric = self.task.partition("/")
        if self.figure == RETAINED:
            return "share"
        return "plain" if head.startswith(LM_EVAL) and not _SHARES.fullmatch(metric) else "answers"


def read(measure: str) -> Asked | None:
    """The figure of a task that a measure names; None of what names none."""
    name = measure.removeprefix(PREFIX)
    if name == measure or not _NAME.fullmatch(name):
        return None
    task, _, last = name.rpartition("/")
    asked = Asked(task, last) if task and last in (RETAINED, SURE_WRONG) else Asked(name, "")
    head, _, rest = asked.task.partition("/")
    if head.startswith(LM_EVAL):  # has a metric always
        possible = bool(rest) and "/" not in rest and asked.figure != SURE_WRONG
        possible &= asked.figure != RETAINED or rest.partition(":")[0] in GUESSED
    elif head == "generation":
        possible = rest in ("", *GENERATION) and not asked.figure
    else:
        possible = not rest or asked.task in TOGETHER.get(head, ())
    return asked if possible else None


def refusal(measure: str) -> str:
    """The sentence about a measure of a task that :func:`read` knows nothing of."""
    task, _, last = measure.rpartition("/")
    if last == RETAINED and task.startswith(PREFIX + LM_EVAL) and read(task) is not None:
        return f"{measure}: what guessing gives is known of {', '.join(GUESSED)} alone; limit {task} instead"
    return f"there is no figure {measure!r} of a task; possible: {', '.join(FORMS)}"


def require(measure: str, suite: "Suite") -> None:
    """Refuse a task that a recipe does not ask.

    A group of lm-eval's tasks has figures of each of them, whose names are known to lm-eval alone: a task of a group is
    to be asked by its own name, too, unless that begins with the group's.
    """
    asked = read(measure)
    assert asked is not None
    head, _, _ = asked.task.partition("/")
    known = names(suite)
    if head not in known and not any(head.startswith(f"{name}_") for name in known if name.startswith(LM_EVAL)):
        raise BadInput(f"{measure}: the recipe's measure does not ask that; {_known(known)}")


def require_chosen(measure: str, exam: "Exam") -> None:
    """Refuse to look at how sure a model is where it writes its answers."""
    asked = read(measure)
    if asked is None or asked.figure != SURE_WRONG:
        return
    if any(task.name == asked.task and isinstance(task, Writing) for task in exam.tasks):
        raise BadInput(
            f"{measure}: the answers of {asked.task} are written out, so nobody knows how sure a model is of them; "
            f"gate task/{asked.task}, or give the file choices"
        )


def names(suite: "Suite") -> list[str]:
    """The tasks that a suite asks."""
    own = {"describes": suite.choices, "facts": suite.facts, "generation": suite.generation}
    files = [Path(text).stem for text in suite.tasks]
    return [*(name for name, count in own.items() if count), *files, *(f"{LM_EVAL}{name}" for name in suite.lm_eval)]


def unknown(measure: str, known: Iterable[str], why: str) -> str:
    """What to say where no model has the figure: ``why`` the first has none, and which tasks were asked."""
    return f"no model here has {measure}: {why}; {_known(known)}"


def _known(known: Iterable[str]) -> str:
    found = [f"{PREFIX}{name}" + ("/METRIC" if name.startswith(LM_EVAL) and "/" not in name else "") for name in known]
    if not found:
        return "no task is asked: give choices, facts, tasks, generation or lm_eval in measure"
    return f"asked: {', '.join(sorted(found))}"
