"""One run of a plan: specs for the children, journal records, rows of the report. Knows no Prefect."""

import os
import time
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml

from attar.errors import StageFailed, first_line
from attar.events import Event
from attar.store import COLLECTING, Kind
from pipelines import changes, plot, report, samples
from pipelines.card import save as save_card
from pipelines.child import events_file, run_child
from pipelines.following import Watch
from pipelines.gates import Decision
from pipelines.home import AS_RUN, RECIPE
from pipelines.inventory import named
from pipelines.journal import Curves, Journal
from pipelines.plan import Plan, Step, make_plan
from pipelines.process import this_process
from pipelines.recipe import Recipe
from pipelines.report import Reference, Report, Row
from stages import stage_class
from stages.spec import MeasureSpec, StageSpec


class Execution:
    """Carries a plan through: :meth:`begin`, then per step :meth:`open` … :meth:`measured`, then :meth:`finish`.

    A probe of a gate runs steps of another plan within the same run: its jobs have a folder of their own, and its
    loss curves are not those of the run.
    """

    def __init__(self, plan: Plan, run: str, journal: Journal, probe: str = "") -> None:
        self.plan = plan
        self.run = run
        self.journal = journal
        self.folder: Path = plan.home.runs / run
        self.probe = probe
        self.rows: list[Row] = []
        self.decisions: list[Decision] = []
        self._made: dict[int, float] = {}  # step → seconds, of the stages that really ran

    def begin(self, flow_run: str = "", flow_run_url: str | None = None) -> None:
        """Write down what is about to be done, and which of Prefect's runs and pages it is."""
        recipe = self.plan.recipe.model_dump(mode="json")
        _write(self.plan.recipe, self.folder / RECIPE)
        self.journal.write(
            "run",
            run=self.run,
            name=self.plan.recipe.name,
            recipe=recipe,
            plan=changes.identities(self.plan),
            machine=self.plan.machine.model_dump(),
            environment=changes.environment(self.plan),
            warnings=list(self.plan.warnings),
            process=this_process(),
            flow_run=flow_run,
            flow_run_url=flow_run_url,
        )

    def open(self, step: Step) -> None:
        """Announce a step."""
        self.journal.write(
            "step",
            step=step.index,
            name=step.name,
            label=step.label,
            cached=step.cached,
            measured=step.measured,
            fingerprint=step.made.fingerprint,
            folder=step.made.folder,
            settings=step.stage.settings() if step.stage else {},
            inputs=step.inputs,
        )

    def title(self, step: Step) -> str:
        """How a step is called where its run is watched."""
        return f"{self.probe} · {step.label}" if self.probe else step.label

    def stage_spec(self, step: Step) -> StageSpec:
        """The job that makes a step's artifact."""
        assert step.stage is not None and step.source is not None
        return StageSpec(
            home=str(self.plan.home.root),
            events=str(events_file(self._job(step, "stage"))),
            machine=self.plan.machine,
            fingerprint=step.made.fingerprint,
            who=self._who(step),
            disk=step.keeps + 2 * step.work.state,
            seed=step.seed,
            settings=step.stage.settings(),
            source=step.source,
            origin=self.plan.origin.model,
            teacher=step.teacher,
            data=self.plan.recipe.data,
            inputs=step.inputs,
            responses=step.responses,
        )

    def measure_spec(self, step: Step) -> MeasureSpec:
        """The job that measures a step's model."""
        return MeasureSpec(
            home=str(self.plan.home.root),
            events=str(events_file(self._job(step, "measure"))),
            machine=self.plan.machine,
            fingerprint=step.evaluation,
            who=self._who(step),
            disk=step.measuring.cache,
            model=step.model,
            origin=self.plan.origin.model,
            suite=self.plan.recipe.measure,
            data=self.plan.recipe.data,
            inputs=step.evaluation_inputs,
            origin_evaluation=self.plan.origin.evaluation if step.index else None,
        )

    def has(self, spec: StageSpec | MeasureSpec) -> bool:
        """Whether the store has what the job would make."""
        return self.plan.home.store.find(_kind(spec), spec.fingerprint) is not None

    def child(self, index: int, spec: StageSpec | MeasureSpec, hear: Watch = lambda event: None) -> None:
        """Run a job in a child process; its curves go to the journal while it runs, and ``hear`` gets its events."""
        step = self.plan.steps[index]
        estimate = step.work if spec.do == "stage" else step.measuring
        self.journal.write(
            "child", step=index, what=spec.do, label=self.title(step), events=spec.events, seconds=estimate.seconds
        )
        curves = Curves(self.journal, index)

        def watch(event: Event) -> None:
            hear(event)
            if event["kind"] == "metric" and not self.probe:
                curves.add(event["name"], event["value"], event.get("step"), event["time"])
            elif event["kind"] == "log" and event.get("level") == "warning":
                self.journal.write("warning", step=index, text=f"{step.label}: {event['text']}")
            elif event["kind"] == "waiting":
                self.journal.write("waiting", step=index, text=event["text"])

        began = time.monotonic()
        title = self.title(step) if spec.do == "stage" else f"measuring {self.title(step)}"
        try:
            result = run_child(spec, Path(spec.events).parent, title, watch, self.plan.recipe.progress_timeout)
        except BaseException:
            with suppress(OSError):  # a full disk must not hide what happened before
                curves.flush()
            raise
        curves.flush()
        if not self.has(spec):
            raise StageFailed(f"{title} ended well but left no {spec.fingerprint} in {self.plan.home.store.root}")
        if spec.do == "stage" and result["new"]:  # else another run made it meanwhile
            self._made[index] = time.monotonic() - began

    def row(self, step: Step) -> Row:
        """The step's line of the report."""
        store = self.plan.home.store
        origin = Reference.read(Path(self.plan.origin.model.folder), self.plan.origin.evaluation, store)
        return report.make_row(
            step=step.index,
            name=step.name,
            cached=step.stage is not None and step.index not in self._made,
            folder=Path(step.model.folder),
            fingerprint=step.model.fingerprint,
            evaluation=step.evaluation,
            store=store,
            origin=origin,
            dataset=step.dataset.fingerprint if step.dataset else None,
            price_per_hour=self.plan.recipe.price_per_hour,
        )

    def measured(self, step: Step) -> None:
        """Add the step's row to the report and link what it made into the run's folder."""
        row = self.row(step)
        self.rows.append(row)
        self.journal.write("measured", step=step.index, row=asdict(row))
        link = self._link(step)
        link.parent.mkdir(exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(os.path.relpath(step.made.folder, link.parent), target_is_directory=True)

    def planned(self, recipe: Recipe) -> Plan:
        """The plan of a changed recipe; the journal names what it needs before anybody can collect it."""
        home = self.plan.home
        with home.store.lock(COLLECTING, shared=True):
            plan = make_plan(recipe, home, complete=True)
            self.journal.write("planned", needs=sorted(named(home, changes.identities(plan))))
        return plan

    def decided(self, decision: Decision, plan: Plan | None = None) -> None:
        """Record what a gate came to; with the plan that the run goes on with, what that makes anew is dropped."""
        decision = replace(decision, evaluation=self.rows[decision.step].evaluation)
        again = None
        if plan is not None:
            again = first_other(self.plan, plan)
            for step in self.plan.steps[again:]:
                self._link(step).unlink(missing_ok=True)
            given_up = tuple(row.evaluation for row in self.rows[again : decision.step] if row.pairs is None)
            decision = replace(decision, given_up=given_up)
            self.rows, self.plan = self.rows[:again], plan
            self._made = {index: seconds for index, seconds in self._made.items() if index < again}
            _write(plan.recipe, self.folder / AS_RUN)
        self.decisions.append(decision)
        self.journal.write(
            "gate",
            step=decision.step,
            decision=asdict(decision),
            again=again,
            needs=[step.made.fingerprint for step in plan.steps] if plan else [],
        )

    def finish(self, status: str, text: str = "") -> dict[str, Any]:
        """Save report and plot of the rows so far and close the journal; returns the report as JSON."""
        made = Report(self.run, self.plan.recipe.name, tuple(self.rows), tuple(self.decisions))
        files = [self.folder / RECIPE, *self.folder.glob(AS_RUN)]
        try:
            if self.rows:
                files += report.save(made, self.folder)
            if self.rows and status != "cancelled":  # then Prefect gives half a minute, and the end is to be written
                files.append(plot.pareto(made, self.folder / "pareto.png"))
                files += self._card()
                page = samples.save(self.rows, self.plan.exam.prompts, self.plan.home.store, self.folder)
                files += [page] if page else []
                files += self._page(status, text)
        except Exception as error:  # a full disk, or a plot that cannot be drawn, must not hide what happened before
            if status == "finished":
                raise StageFailed(f"the report cannot be written to {self.folder} ({first_line(error)})") from error
        manifest = Path(made.final.folder) / "manifest.json" if self.rows else None
        if manifest is not None and manifest.is_file():
            files.append(manifest)
        policy = self.plan.recipe.champion
        if policy.line is not None and status == "finished" and made.final.step:
            self.journal.write("champion", run=self.run, policy=policy.model_dump(), row=asdict(made.final))
        self.journal.write("end-run", status=status, text=text, files=[str(path) for path in files])
        return made.as_json()

    def _page(self, status: str, text: str) -> list[Path]:
        """The report for a browser; one that cannot be drawn is a warning, for all figures are there without it."""
        from pipelines import html_report

        try:
            return [html_report.write_run(self.plan.home, self.folder, (status, text))]
        except Exception as error:
            why = f"{type(error).__name__}: {first_line(error)}"
            self.journal.write("warning", step=None, text=f"the page {html_report.FILE} was not written ({why})")
            return []

    def _who(self, step: Step) -> str:
        """How others that wait for a job of this run call it."""
        return f"run {self.run} ({step.label})"

    def _card(self) -> list[Path]:
        """The last model's card; one that cannot be written is a warning, for it can be had again by an export."""
        try:
            return save_card(self.plan.home, self.folder)
        except Exception as error:
            why = f"{type(error).__name__}: {first_line(error)}"
            self.journal.write("warning", step=None, text=f"the model card was not written ({why})")
            return []

    def _job(self, step: Step, what: str) -> Path:
        # What runs anew after a gate has changed the recipe is another job.
        turn = sum(decision.action in ("bisect", "insert") for decision in self.decisions)
        place = self.probe.replace(" ", "-") or ("" if not turn else f"again-{turn}")
        return self.folder / "jobs" / place / f"{step.index}-{step.name}-{what}"

    def _link(self, step: Step) -> Path:
        return self.folder / ("datasets" if step.dataset else "models") / step.label.replace(" ", "-")


def first_other(one: Plan, other: Plan) -> int:
    """The first step whose outcome differs between two plans of the same model."""
    pairs = zip(one.steps, other.steps, strict=False)
    shared = min(len(one.steps), len(other.steps))
    return next((a.index for a, b in pairs if a.made != b.made), shared)


def _write(recipe: Recipe, path: Path) -> None:
    path.write_text(yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True))


def _kind(spec: StageSpec | MeasureSpec) -> Kind:
    return stage_class(spec.settings["stage"]).makes if spec.do == "stage" else "evaluation"
