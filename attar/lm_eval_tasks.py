"""EleutherAI's lm-eval on a model of ours: the same figures as its own command line gives on the same folder.

It is imported only when a recipe asks for its tasks. The model goes in as it is, so that packed weights and adapters
are measured in Attar's runtime; seeds and defaults are those of ``lm_eval run``. Templates of tasks, which lm-eval
would let do whatever Python can, are carried out in Jinja's sandbox.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment
from jinja2.sandbox import SandboxedEnvironment
from torch import nn

from attar.errors import BadInput, StageFailed, first_line, nearest
from attar.exam import LM_EVAL
from attar.lm_eval_folder import EXACT, PICKED
from attar.scores import Scores, of_answers

BATCH = 8  # as ``--batch_size 8``


def load(names: Sequence[str], folder: Path | None) -> Any:
    """lm-eval's tasks; raises :class:`BadInput` for a name it does not know."""
    import lm_eval.utils
    from lm_eval.tasks import TaskManager

    lm_eval.utils.env = sandboxed(lm_eval.utils.env)
    manager = TaskManager(include_path=str(folder) if folder else None)
    for name in names:
        if name not in manager.all_tasks:
            raise BadInput(f"measure.lm_eval: lm-eval has no task {name!r}; {_like(name, manager.all_tasks)}")
    return manager, list(names)


def sandboxed(environment: Environment) -> SandboxedEnvironment:
    """The same environment of templates, without a way from values to their classes and to Python's functions."""
    found = SandboxedEnvironment(
        loader=environment.loader,
        undefined=environment.undefined,
        keep_trailing_newline=environment.keep_trailing_newline,
    )
    found.filters |= {name: kept for name, kept in environment.filters.items() if name not in found.filters}
    return found


def answer(
    loaded: Any, model: nn.Module, folder: Path, progress: Callable[[int, int, str], None]
) -> Iterator[tuple[str, Scores | None, dict[str, Any]]]:
    """(name, scores per item, figures) of every metric of every task; no scores where a metric is not a mean.

    Args:
        loaded: from :func:`load`.
        folder: the model's, for its tokenizer.
        progress: hears (done, total, of what).
    """
    import lm_eval

    manager, names = loaded
    wrapped = _wrapped(model, folder, progress)
    try:
        found = lm_eval.simple_evaluate(
            model=wrapped, tasks=names, task_manager=manager, batch_size=BATCH, bootstrap_iters=0, log_samples=True
        )
    except (
        Exception
    ) as error:  # of a data set that is not there, a template that is wrong: lm-eval has no errors of its own
        raise StageFailed(
            f"lm-eval failed on {', '.join(names)}: {type(error).__name__}: {first_line(error)}"
        ) from error
    for task, metrics in sorted(found["results"].items()):
        better = found["higher_is_better"].get(task, {})
        for key, value in sorted(metrics.items()):
            metric, comma, filtered = key.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            suffix = "" if filtered == "none" else f":{filtered}"
            name = f"{LM_EVAL}.{task}/{metric}{suffix}"
            told: dict[str, Any] = {"lower_is_better": better.get(metric) is False}
            rows = [row for row in found["samples"].get(task, ()) if row["filter"] == filtered]
            if (chance := _chance(found["configs"].get(task, {}), rows, metric)) is not None:
                told["chance"] = chance
            scored = _scores(rows, metric, value)
            yield name, scored, told if scored else {**told, "value": value}


def _chance(config: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], metric: str) -> float | None:
    """Share of right answers that guessing gives; None of a metric of which lm-eval does not tell it."""
    if not rows or metric not in (*PICKED, EXACT):
        return None
    kind, own = config.get("output_type"), "process_results" in config  # code of the task's own says what is right
    if metric == EXACT or (metric == "acc" and kind == "loglikelihood" and not own):
        return 0.0  # nobody guesses an answer word for word
    if kind != "multiple_choice" or own:
        return None
    return sum(map(_guessed, rows)) / len(rows)


def _guessed(row: Mapping[str, Any]) -> float:
    """Every choice is a request, and another one by itself for acc_mutual_info; several choices may be right."""
    choices: int = len(row["resps"]) // (2 if "acc_mutual_info" in row["metrics"] else 1)
    right = len(set(row["target"])) if isinstance(row["target"], list) else 1
    return min(1.0, right / choices)


def _scores(rows: Sequence[Mapping[str, Any]], metric: str, value: float) -> Scores | None:
    """A metric item by item, where its figure is the mean of the items."""
    values = [row.get(metric) for row in rows]
    if not rows or not all(isinstance(one, int | float) for one in values):
        return None
    scored = of_answers([str(row["doc_id"]) for row in rows], [float(one) for one in values if one is not None])
    return scored if abs(scored.mean - value) < 1e-9 else None


def _wrapped(model: nn.Module, folder: Path, progress: Callable[[int, int, str], None]) -> Any:
    from lm_eval.models.huggingface import HFLM
    from transformers import GenerationConfig

    if (folder / "generation_config.json").is_file():  # which lm-eval's own loading obeys, penalties included
        model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)

    class Told(HFLM):  # type: ignore[misc]  # an extra without types
        """Says how far it is; computes nothing of its own."""

        done = total = 0

        def _loglikelihood_tokens(self, requests: Any, *more: Any, **named: Any) -> Any:
            self.total += len(requests)
            return super()._loglikelihood_tokens(requests, *more, **named)

        def generate_until(self, requests: Any, *more: Any, **named: Any) -> Any:
            self.total += len(requests)
            return super().generate_until(requests, *more, **named)

        def _model_call(self, inps: Any, *more: Any, **named: Any) -> Any:
            self._tell(inps)
            return super()._model_call(inps, *more, **named)

        def _model_generate(self, context: Any, *more: Any, **named: Any) -> Any:
            self._tell(context)
            return super()._model_generate(context, *more, **named)

        def _tell(self, batch: Any) -> None:
            self.done = min(self.done + len(batch), self.total)
            progress(self.done, self.total, "requests of lm-eval")

    return Told(pretrained=model, tokenizer=str(folder), batch_size=BATCH)


def _like(name: str, known: Sequence[str]) -> str:
    """The nearest of thousands of names, or where to find them."""
    text = nearest(name, known)
    return text if text.startswith("did") else "`lm_eval ls tasks` lists them"
