"""The saved view on which an experiment opens in MLflow: pipeline runs that may be ranked, the best one first.

MLflow keeps such views in tags of the experiment and opens the one that an address names; it documents neither. So
nothing depends on them: where another MLflow cannot read the view, its page opens on the list of the runs. A view
shows parents only, for stages would fill the charts, and those params that differ between its runs. Runs of another
model, other texts or windows, or other versions of libraries are none of a ranking: the view of an experiment shows
what is comparable with the newest run, and its filter is there for who wants to see others.
"""

import base64
import json
import time
import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipelines.mlflow_words import name_of

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

KEY = "attar"  # of the view of a whole experiment; that of a sweep goes by the name of the sweep's folder
SWEEP = "attar.sweep"  # tag of a sweep's runs
CHOICE = "attar.choice"  # tag of its variants: what may be said of each, see mlflow_choice
PLACE = "attar.place"  # likewise: where each comes in the list, 01 is the one to ship
COMPARABLE = "attar.comparable"  # tag of runs; those in which its last word is the same may be ranked together
FINISHED = "attributes.status = 'FINISHED'"  # what failed, was cancelled, or a gate has stopped is none of a ranking
DIGITS = 8  # of the hash of what they have in common
PARENTS = "tags.`pipeline.role` = 'pipeline'"
TAG = "mlflow.sharedViewState."
KIND, MODELS = "mlflow.experimentKind", "custom_model_development"  # else MLflow shows its pages for GenAI
PACKED = "deflate;"
QUALITY, RATIO, LOSS = "quality/retained", "compression_ratio", "quality/kl"
LOW, HIGH = f"{QUALITY}_low", f"{QUALITY}_high"  # of the 95 % interval
MOST_RUNS = 200  # of which the view is made, the newest
MOST_PARAMS = 6  # in the parallel coordinates
MOST_LETTERS = 24  # of a value that an axis can name
# What names a run, or says where and how it was done, and not what was done.
ASIDE = (
    "name",
    "machine",
    "task",
    "seed",
    "device",
    "dtype",
    "data",
    "measure",
    "gates",
    "progress_timeout",
    "champion",
)

State = dict[str, Any]


def place(experiment: str, key: str = KEY) -> str:
    """Where MLflow's pages show the view."""
    asked = f"workflowType=machine_learning&compareRunsMode=CHART&viewStateShareKey={key}"
    return f"/#/experiments/{experiment}/runs?{asked}"


def keep(client: "MlflowClient", experiment: str, sweep: str | None = None, params: Sequence[str] = ()) -> None:
    """Write a view, unless the one that is there says the same.

    Args:
        client: of the tracking server.
        experiment: its id.
        sweep: whose runs alone are shown; None for those of the experiment that are comparable with the newest.
        params: that are compared; without them those that differ between the runs.
    """
    newest = ["attributes.start_time DESC"]
    if sweep:
        asked = f"{PARENTS} and tags.`{SWEEP}` = '{sweep}'"
    else:
        marked = f"{PARENTS} and tags.`{COMPARABLE}` IS NOT NULL"
        told = client.search_runs([experiment], marked, max_results=1, order_by=newest)
        group = told[0].data.tags[COMPARABLE].rpartition(" ")[2] if told else None
        asked = f"{PARENTS} and {FINISHED}" + (f" and tags.`{COMPARABLE}` LIKE '% {group}'" if group else "")
    runs = client.search_runs([experiment], asked, max_results=MOST_RUNS, order_by=newest)
    found = [run.data.params for run in runs]
    ratios = {run.data.metrics.get(RATIO) for run in runs} - {None}
    named = {name for run in runs for name in run.data.tags}
    tags = [name for name in ((CHOICE,) if sweep else (CHOICE, SWEEP)) if name in named]
    shown = list(params) or varied(found)
    made = state(found, shown, asked, len(ratios) < 2, tags, placed=sweep is not None and PLACE in named)
    there = client.get_experiment(experiment).tags
    if KIND not in there:
        client.set_experiment_tag(experiment, KIND, MODELS)
    key = sweep or KEY
    before = _opened(there.get(TAG + key, ""))
    if before.get("state") == made:
        return
    now = round(1000 * time.time())
    packed = base64.b64encode(zlib.compress(json.dumps(made).encode())).decode()
    name = f"compare {sweep or 'the runs that are comparable with the newest'}"
    times = {"createdAt": before.get("createdAt", now), "updatedAt": now}
    client.set_experiment_tag(experiment, TAG + key, json.dumps({"name": name, **times, "state": PACKED + packed}))


def comparable(model: str, group: str) -> str:
    """What runs that may be ranked together are called: ``SmolLM2-135M 1a2b3c4d``; the digits tell, the name is for us.

    Args:
        model: that they start from, by a name that may differ: a folder, or a repository.
        group: the hash of what their figures have in common, see :func:`attar.stamp.group`.
    """
    return f"{name_of(model or 'model')} {group[:DIGITS]}"


def _opened(tag: str) -> dict[str, Any]:
    """A view as it was written, its state unpacked; nothing if there is none, or if it is somebody else's."""
    try:
        found: dict[str, Any] = json.loads(tag)
        packed = base64.b64decode(found["state"].removeprefix(PACKED))
        return {"createdAt": int(found["createdAt"]), "state": json.loads(zlib.decompress(packed))}
    except (ValueError, KeyError, TypeError, AttributeError, zlib.error):
        return {}


def varied(runs: Sequence[Mapping[str, str]]) -> list[str]:
    """Params of stages, and their order, that differ between runs: first those that the most runs have."""
    values: dict[str, list[str]] = {}
    for params in runs:
        for name, value in params.items():
            if name.split(".")[0] not in ASIDE:
                values.setdefault(name, []).append(value)
    differ = [name for name, found in values.items() if len(set(found)) > 1]
    return sorted(differ, key=lambda name: (-len(values[name]), name))[:MOST_PARAMS]


def state(
    runs: Sequence[Mapping[str, str]],
    params: Sequence[str],
    asked: str,
    same_ratio: bool,
    tags: Sequence[str] = (),
    placed: bool = False,
) -> State:
    """What MLflow's page of an experiment remembers of itself: filter, order, columns and charts.

    Args:
        runs: params of each.
        params: that are compared.
        asked: the filter.
        same_ratio: whether all are equally small.
        tags: that stand beside the name.
        placed: whether the runs have places, by which they are sorted then.
    """
    short = [name for name in params if all(len(run.get(name, "")) <= MOST_LETTERS for run in runs)]
    front = [_scatter(_metric(RATIO), "front")]
    charts = [
        _bar(QUALITY),
        *([] if same_ratio else front),
        _parallel(params, [QUALITY] if same_ratio else [RATIO, QUALITY]),
        *(_scatter({"key": name, "type": "PARAM"}, name) for name in short[:2]),
        _bar(LOW),
        _bar(HIGH),
        _bar(LOSS),
        *(front if same_ratio else []),  # one above the other it tells less than the others
    ]
    columns = [f"tags.`{name}`" for name in tags]
    columns += [f"metrics.`{name}`" for name in (QUALITY, LOW, HIGH, RATIO, "quality/bytes", LOSS)]
    columns += [f"params.`{name}`" for name in params] + [f"tags.`{COMPARABLE}`"]
    # MLflow adds a chart for every metric, in sections by the beginnings of their names: these are there, but closed.
    sections = [
        _section("Which one to ship"),
        *(_section(name, False) for name in ("quality", "origin", "Model metrics")),
    ]
    return {
        "searchFilter": asked,
        "orderByKey": f"tags.`{PLACE}`" if placed else f"metrics.`{QUALITY}`",
        "orderByAsc": placed,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": columns,
        "runsHiddenMode": "SHOW_ALL",
        "compareRunCharts": [chart | {"metricSectionId": sections[0]["uuid"]} for chart in charts],
        "compareRunSections": sections,
        "isAccordionReordered": True,  # else the sections are sorted by name
        "viewMaximized": True,
        "runListHidden": False,
        "hideEmptyCharts": True,
        "groupBy": None,
        "chartsSearchFilter": "",
    }


def _section(name: str, shown: bool = True) -> State:
    return {"uuid": f"attar {name}", "name": name, "display": shown, "isReordered": False} | _OURS


def _bar(metric: str) -> State:
    return {"type": "BAR", "uuid": f"attar bar {metric}", "metricKey": metric, "runsCountToCompare": 100} | _OURS


def _scatter(across: State, name: str) -> State:
    up = _metric(QUALITY)
    return {"type": "SCATTER", "uuid": f"attar {name}", "xaxis": across, "yaxis": up, "runsCountToCompare": 100} | _OURS


def _parallel(params: Sequence[str], metrics: list[str]) -> State:
    chosen = {"selectedParams": list(params), "selectedMetrics": metrics, "showAllRuns": False}
    return {"type": "PARALLEL", "uuid": "attar parallel", "runsCountToCompare": 100} | chosen | _OURS


def _metric(name: str) -> State:
    return {"key": name, "type": "METRIC"}


_OURS = {"deleted": False, "isGenerated": False}
