"""What a suite asks of every model beyond the two texts: tasks, prompts, tasks of lm-eval. Torch-free.

Everything is made from settings, files and installed libraries before a model is opened, so that what is wrong is told
first; its content goes into the name of the evaluation, not the paths and counts that it came from.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from attar import lm_eval_folder
from attar.choices import questions
from attar.data import Corpus
from attar.data.corpus import Progress, library_documents
from attar.data.library_names import library_names
from attar.errors import BadInput
from attar.fingerprint import hash_json
from attar.library_facts import facts
from attar.questions import Choosing, Question, Task, fingerprints
from attar.responses.prompts import Prompt, made_prompts
from attar.suite import Suite
from attar.user_tasks import read_tasks
from attar.waiting import ANYBODY, Waiter

GENERATION = "generation"
LM_EVAL = "lm_eval"


@dataclass(frozen=True)
class Exam:
    """Tasks to answer, prompts to write answers to, and what lm-eval is asked for."""

    tasks: tuple[Task, ...] = ()
    prompts: tuple[Prompt, ...] = ()
    tokens: int = 0  # of an answer at most
    lm_eval: tuple[str, ...] = ()
    lm_eval_folder: Path | None = None

    def contents(self) -> dict[str, str]:
        """Name of a task → hash of all that it asks; results compare where these agree."""
        found = fingerprints(self.tasks)
        if self.prompts:
            found[GENERATION] = hash_json([self.tokens, [prompt.messages for prompt in self.prompts]])
        if self.lm_eval:
            asked = lm_eval_folder.content(self.lm_eval_folder)
            found |= {f"{LM_EVAL}.{name}": hash_json([name, asked]) for name in self.lm_eval}
        return found

    def inputs(self) -> dict[str, str]:
        """The same as inputs of an evaluation."""
        return {f"task.{name}": content for name, content in self.contents().items()}

    def require_unchanged(self, planned: Mapping[str, str]) -> None:
        """Raise :class:`BadInput` if a task asks something else than when a run was planned."""
        for name, content in self.inputs().items():
            if planned.get(name, content) != content:
                raise BadInput(
                    f"the questions of {name.removeprefix('task.')} have changed since this run was planned; run it "
                    "again to plan anew"
                )


def set_exam(
    suite: Suite, corpus: Corpus, cache: Path, progress: Progress | None = None, waiter: Waiter = ANYBODY
) -> Exam:
    """The exam of a suite.

    Args:
        corpus: the data of the recipe; prompts are about its held-out part.
        cache: folder where the docstrings of the libraries are kept, see :func:`attar.data.open_corpus`.
        progress: hears (done, total) while the libraries are read.
        waiter: waits while another process reads them.

    Raises:
        BadInput: a task's file is missing or wrong, or there is less to ask than was asked for.
    """
    tasks: list[Task] = []
    if suite.choices or suite.facts:
        documents = library_documents(cache, progress, waiter)
        if suite.choices:
            half = suite.choices // 2
            tasks.append(Choosing("describes/easy", _enough(questions(documents, "easy", half), half, "choices")))
            tasks.append(Choosing("describes/hard", _enough(questions(documents, "hard", half), half, "choices")))
        if suite.facts:
            # A library's name is one word: what a model makes likeliest as a whole is what it would say.
            names = library_names(cache, waiter)
            asked = _enough(facts(documents, suite.facts, names), suite.facts, "facts")
            tasks.append(Choosing("facts", asked, per_token=False))
    tasks += read_tasks(suite.tasks, suite.answer_tokens)
    prompts = made_prompts(corpus.documents("held-out"), suite.generation, seed=0) if suite.generation else []
    if len(prompts) < suite.generation:
        raise BadInput(
            f"measure.generation={suite.generation} prompts are asked for, and the held-out part of the data holds "
            f"{len(prompts)} documents to ask about; ask for fewer, or add text"
        )
    folder = lm_eval_folder.require(suite.lm_eval, suite.lm_eval_folder)
    return Exam(tuple(tasks), tuple(prompts), suite.answer_tokens, tuple(suite.lm_eval), folder)


def _enough(found: Sequence[Question], count: int, setting: str) -> tuple[Question, ...]:
    if len(found) < count:
        raise BadInput(
            f"measure.{setting}: {count:,} questions are asked for where the installed libraries give {len(found):,}; "
            "ask for fewer"
        )
    return tuple(found)
