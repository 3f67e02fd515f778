"""The Prefect flow ``compress``: one task per stage and per measurement, each a child process.

What has to run is decided by fingerprints and not by Prefect: whatever the store has is skipped, after a crash as on
a second run. Annotations are evaluated here, since Prefect reads them for its forms.
"""

from contextlib import suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from prefect import flow, runtime, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed

from attar import shortage
from attar.credentials import without_credentials
from attar.errors import AttarError
from attar.store import COLLECTING
from pipelines import changes, display, guard, lost_runs, patience, prefect_link
from pipelines.execution import Execution
from pipelines.gating import Gatekeeper
from pipelines.home import Home
from pipelines.journal import Journal
from pipelines.plan import Step, make_plan
from pipelines.recipe import validate
from pipelines.tracking import catch_up, open_tracker
from stages.spec import MeasureSpec, StageSpec

# What a task needs beside its parameters, which stay small JSON for the Prefect UI.
_EXECUTION: ContextVar[Execution] = ContextVar("execution")


@task(name="stage", task_run_name="{title}", cache_policy=NO_CACHE, persist_result=False, result_serializer="json")
@patience.counted
def stage(title: str, step: int, spec: dict[str, Any]) -> dict[str, Any]:
    """Run one stage in a child process, unless the store has its artifact."""
    return _run(title, step, StageSpec.model_validate(spec))


@task(
    name="measure",
    task_run_name="{title} · measure",
    cache_policy=NO_CACHE,
    persist_result=False,
    result_serializer="json",
)
@patience.counted
def measure(title: str, step: int, spec: dict[str, Any]) -> dict[str, Any]:
    """Measure one model in a child process, unless the store has the evaluation."""
    return _run(f"{title} · measure", step, MeasureSpec.model_validate(spec))


def _run(title: str, step: int, spec: StageSpec | MeasureSpec) -> dict[str, Any]:
    execution = _EXECUTION.get()
    if execution.has(spec):
        # Prefect takes a returned state as the task's state: its pages say Cached instead of Completed.
        text = f"{title}: {spec.fingerprint} is in the store"
        return Completed(name="Cached", message=text, data={"cached": True})  # type: ignore[return-value]
    with display.child(title, Path(spec.events).with_name("log.txt")) as hear:
        execution.child(step, spec, hear)
    return {"cached": False}


def _name() -> str:
    parameters = runtime.flow_run.parameters
    return f"{parameters['recipe']['name']} · {parameters.get('run') or 'new run'}"


@flow(name="compress", flow_run_name=_name, persist_result=False, result_serializer="json")
@patience.counted
def compress(
    recipe: dict[str, Any], home: str | None = None, run: str | None = None, track: bool = True
) -> dict[str, Any]:
    """Run a recipe: measure the origin, then every stage and its measurement; report, plot and track.

    Args:
        recipe: a recipe as plain values, what ``attar plan --json`` shows under ``recipe``.
        home: the home folder; by default that of the environment.
        run: id of the run, a folder that exists in the home; by default a new one.
        track: send the journal to MLflow.

    Returns:
        The report as JSON.
    """
    parsed = validate(recipe)
    place = Home.open(Path(home) if home else None)
    run = run or place.new_run(parsed.name)
    folder = place.runs / run
    journal = Journal(folder, open_tracker(parsed, place, folder, track))
    prefect = patience.Patience(lambda text: journal.write("warning", step=None, text=text))
    lost_runs.close(place)
    if track:
        catch_up(parsed, place)
    execution: Execution | None = None
    try:
        place.store.sweep()
        guard.sweep()
        with place.store.lock(COLLECTING, shared=True):  # what is planned with stays, and is then in the journal
            plan = make_plan(parsed, place, complete=True)
            execution = Execution(plan, run, journal)
            why = changes.compare(plan, run).line
            flow_run = str(runtime.flow_run.id or "")
            execution.begin(flow_run=flow_run, flow_run_url=prefect_link.flow_run_url())
        journal.write("why", text=why)
        display.say(why, plan.warnings)
        model = display.model_name(parsed.model, plan.origin.facts.parameters)

        def carry(at: Execution, step: Step, measured: bool = True) -> None:
            token = _EXECUTION.set(at)
            title = f"{model} · {at.title(step)}"
            try:
                if step.stage is not None:
                    prefect.through(stage, title, step.index, at.stage_spec(step).model_dump(mode="json"))
                if measured and step.dataset is None:  # else its model was measured by the step before
                    prefect.through(measure, title, step.index, at.measure_spec(step).model_dump(mode="json"))
            finally:
                _EXECUTION.reset(token)

        gates = Gatekeeper(execution, carry)
        following: int | None = 0
        while following is not None:
            step = execution.plan.steps[following]
            with journal.step(step.index):
                execution.open(step)
                carry(execution, step)
                execution.measured(step)
            following = gates.after(step)
        return execution.finish("finished")
    except BaseException as error:  # also Prefect's and the terminal's way to stop a run
        cancelled = getattr(error, "exit_code", 130 if not isinstance(error, Exception) else 4) == 130
        short = None if isinstance(error, AttarError) else shortage.sentence(error, {})
        text = str(error) if isinstance(error, AttarError) else short or f"{type(error).__name__}: {error}"
        text = "cancelled; the same recipe goes on from here" if cancelled else text
        if execution is not None:
            with suppress(OSError):  # a full disk must not hide what happened before
                execution.finish("cancelled" if cancelled else "failed", without_credentials(text))
        raise
    finally:
        journal.close()
