"""Registers the deployments file at a Prefect server, so that registering it again changes nothing.

Prefect replaces schedules when a deployment is created anew, and with them what people switched in the UI; so one that
is there is updated, whatever its pool, and only when the file wants something else than before. A deployment's version
says what the file wanted: a hash, and whether its schedule was to be on. What people changed in the UI is not compared:
it stays until the file changes its mind, except the clock, which is always the file's.

A deployment belongs to the home that its job variables name. That of another home is neither changed nor removed, and
what stands in another file of the same home is not removed.
"""

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from attar.errors import BadInput, first_line
from attar.fingerprint import hash_json
from pipelines import form_values, forms, lost_workers
from pipelines.deployments_yaml import Deployment, Offer, load, read
from pipelines.home import Home

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.responses import DeploymentResponse

API = "PREFECT_API_URL"
HOME, RECIPES = "ATTAR_DEPLOYED_HOME", "ATTAR_DEPLOYED_RECIPES"  # for runs whose worker's environment names none
FOLDER = "ATTAR_DEPLOYED_FOLDER"  # where it was registered: paths in recipes count from there, as for attar run
FILE = "ATTAR_DEPLOYED_FILE"  # what a deployment stands in, and who may remove it
FLOWS = {"recipe": "compress-recipe", "stages": "compress-stages"}  # form → flow
ENTRYPOINTS = {form: f"pipelines.deployed.{flow.replace('-', '_')}" for form, flow in FLOWS.items()}
TAG = SLUG = "attar"
ANSWER_SECONDS = 20.0


class Done(NamedTuple):
    """What became of one deployment."""

    name: str
    what: str  # created, changed, unchanged or removed


class Registered(NamedTuple):
    """What became of all, and what is to be known of them."""

    done: list[Done]
    remarks: list[str]


def deploy(file: Path, home: Home, take_over: bool = False) -> Registered:
    """Register everything in the file at the server of the environment, and remove what stood in it before.

    Args:
        file: the deployments file.
        home: where the runs of these deployments go.
        take_over: also change, or remove from the file's pool, what is registered for another home.

    Raises:
        BadInput: something in the file or one of its recipes is wrong, another home has a deployment of the same name,
            another file gives the pool another limit, or the server does not answer; nothing was registered then,
            unless the server refused or went away in the middle: deploying again goes on.
    """
    offer = load(file)
    url = _require_server()
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectHTTPStatusError

    try:
        with get_client(sync_client=True) as client:
            known = {deployment.name: _find(client, deployment) for deployment in offer.content.deployments}
            if not take_over:
                _require_own(offer.content.deployments, known, home)
            ours = {existing.id for existing in known.values() if existing is not None}
            beside = [left for left in _registered(client) if left.id not in ours and _shares_pool(left, offer)]
            staying = [left for left in beside if not take_over or _told(left, HOME) == str(home.root)]
            _require_same_limit(offer, {_told(left, FILE) for left in staying})
            _pool(client, offer)
            flows = {form: client.create_flow_from_name(flow) for form, flow in FLOWS.items()}
            done = []
            for deployment in offer.content.deployments:
                flow, existing = flows[deployment.form], known[deployment.name]
                done.append(Done(deployment.name, _register(client, flow, deployment, existing, offer, home)))
            wanted = {(flows[deployment.form], deployment.name) for deployment in offer.content.deployments}
            for left in _registered(client):
                if left.flow_id not in flows.values() or (left.flow_id, left.name) in wanted:
                    continue
                stood = (_told(left, HOME), _told(left, FILE)) == (str(home.root), str(offer.file))
                strange = _told(left, HOME) != str(home.root) and _shares_pool(left, offer)
                if stood or (take_over and strange):
                    client.delete_deployment(left.id)
                    done.append(Done(left.name, "removed"))
            lost_workers.watch(client, list(FLOWS.values()))
            remarks = _unserved(client, offer)
    except PrefectHTTPStatusError as error:
        if error.response.status_code in (401, 403):
            raise BadInput(f"the Prefect server at {url} wants a password: set PREFECT_API_AUTH_STRING") from None
        raise BadInput(
            f"the Prefect server at {url} refused: {first_line(error)}: {error.response.text[:300]}"
        ) from None
    except httpx.HTTPError as error:
        raise BadInput(
            f"the Prefect server at {url} went away ({first_line(error)}); what was registered stays, and attar deploy "
            "goes on from there"
        ) from None
    return Registered(done, remarks)


def _require_server() -> str:
    """The server's address without user and password, or a sentence."""
    import httpx

    url = os.environ.get(API, "").rstrip("/")
    if not url:
        raise BadInput(f"{API} is not set: deployments are registered at a Prefect server; start one with: attar serve")
    shown = httpx.URL(url).copy_with(userinfo=None)
    try:
        httpx.get(f"{url}/health", timeout=ANSWER_SECONDS).raise_for_status()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise BadInput(f"the Prefect server at {shown} does not answer ({first_line(error)}); see {API}") from None
    return str(shown)


def _find(client: "SyncPrefectClient", deployment: Deployment) -> "DeploymentResponse | None":
    """The deployment of this name, in whatever pool: Prefect knows one a flow and name, and would replace it."""
    from prefect.exceptions import ObjectNotFound

    try:
        return client.read_deployment_by_name(f"{FLOWS[deployment.form]}/{deployment.name}")
    except ObjectNotFound:
        return None


def _told(existing: "DeploymentResponse", name: str) -> str:
    """Which home a deployment belongs to, or which file; nothing for one that somebody made by hand."""
    environment = (existing.job_variables or {}).get("env") or {}
    return str(environment.get(name, ""))


def _require_own(wanted: list[Deployment], known: "dict[str, DeploymentResponse | None]", home: Home) -> None:
    for deployment in wanted:
        existing = known[deployment.name]
        if existing is not None and (whose := _told(existing, HOME)) != str(home.root):
            owner = f"for the home {whose}" if whose else "by somebody else"
            raise BadInput(
                f"the deployment {deployment.name!r} of the flow {FLOWS[deployment.form]} is registered {owner}, in "
                f"the pool {existing.work_pool_name!r}; give yours another name, or take it over for the home "
                f"{home.root} with --take-over"
            )


def _require_same_limit(offer: Offer, others: set[str]) -> None:
    """Files that share a pool agree about it: the last one that is deployed would change the limit of all."""
    pool = offer.content.pool
    for other in sorted(others - {"", str(offer.file)}):
        try:
            found = read(Path(other)).pool
        except BadInput:  # gone, on another machine, or none at all
            continue
        if found.name == pool.name and found.limit != pool.limit:
            raise BadInput(
                f"the work pool {pool.name!r} has two limits: {offer.file} says pool.limit={_limit(pool.limit)}, and "
                f"{other}, whose deployments are in it, says {_limit(found.limit)}; write the same in both, or name "
                "another pool"
            )


def _limit(limit: int | None) -> str:
    return "null" if limit is None else str(limit)


def _unserved(client: "SyncPrefectClient", offer: Offer) -> list[str]:
    """A sentence when no worker would take what is registered."""
    from prefect.client.schemas.objects import WorkerStatus

    pool = offer.content.pool.name
    if any(worker.status == WorkerStatus.ONLINE for worker in client.read_workers_for_work_pool(pool)):
        return []
    command = shlex.join(["attar", "worker", str(offer.file)])
    return [f"no worker serves the pool {pool!r}, and until one does, nothing in it runs; start one with: {command}"]


def _pool(client: "SyncPrefectClient", offer: Offer) -> None:
    """The pool of processes, with the file's limit."""
    from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
    from prefect.exceptions import ObjectNotFound
    from prefect.workers.process import ProcessWorker

    wanted = offer.content.pool
    try:
        pool = client.read_work_pool(wanted.name)
    except ObjectNotFound:
        template = ProcessWorker.get_default_base_job_template()
        client.create_work_pool(
            WorkPoolCreate(name=wanted.name, type="process", base_job_template=template, concurrency_limit=wanted.limit)
        )
        return
    if pool.type != "process":
        raise BadInput(f"the work pool {wanted.name!r} is of type {pool.type}; Attar runs in one of type process")
    if pool.concurrency_limit != wanted.limit:
        client.update_work_pool(wanted.name, WorkPoolUpdate(concurrency_limit=wanted.limit))


def _shares_pool(existing: "DeploymentResponse", offer: Offer) -> bool:
    return existing.work_pool_name == offer.content.pool.name


def _registered(client: "SyncPrefectClient") -> "list[DeploymentResponse]":
    """What registrations left at the server, in whatever pool: the file may have named another one before."""
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags

    ours = DeploymentFilter(tags=DeploymentFilterTags(all_=[TAG]))
    found: list[DeploymentResponse] = []
    while page := client.read_deployments(deployment_filter=ours, limit=100, offset=len(found)):
        found += page
    return found


def _register(
    client: "SyncPrefectClient",
    flow: Any,
    deployment: Deployment,
    existing: "DeploymentResponse | None",
    offer: Offer,
    home: Home,
) -> str:
    """Create one deployment, or change what differs; what became of it."""
    from prefect.client.schemas.actions import DeploymentScheduleCreate, DeploymentUpdate
    from prefect.client.schemas.schedules import CronSchedule

    wanted = definition(deployment, offer, home)
    when = deployment.schedule
    version = f"{hash_json(wanted)}.{'none' if when is None else 'on' if when.active else 'off'}"
    clock = CronSchedule(cron=when.cron, timezone=when.timezone) if when else None
    if existing is None:
        schedule = [DeploymentScheduleCreate(schedule=clock, active=when.active, slug=SLUG)] if when and clock else []
        client.create_deployment(flow, deployment.name, version=version, schedules=schedule, **wanted)
        return "created"
    before = str(existing.version)
    changed = before != version
    if changed:
        client.update_deployment(existing.id, DeploymentUpdate(version=version, **wanted))
    ours = next((found for found in client.read_deployment_schedules(existing.id) if found.slug == SLUG), None)
    if when is None or clock is None:
        if ours is not None:
            client.delete_deployment_schedule(existing.id, ours.id)
            changed = True
    elif ours is None:
        client.create_deployment_schedules(
            existing.id, [DeploymentScheduleCreate(schedule=clock, active=when.active, slug=SLUG)]
        )
        changed = True
    else:
        minded = before.rpartition(".")[2] != version.rpartition(".")[2]
        active = when.active if minded and ours.active != when.active else None
        moved = clock if ours.schedule != clock else None
        if moved or active is not None:
            client.update_deployment_schedule(existing.id, ours.id, active=active, schedule=moved)
            changed = True
    return "changed" if changed else "unchanged"


def definition(deployment: Deployment, offer: Offer, home: Home) -> dict[str, Any]:
    """All that Prefect is told of a deployment beside its name and its schedule."""
    chosen = offer.chosen[deployment.name]
    if deployment.form == "recipe":
        schema = forms.recipe_form(sorted(offer.recipes), deployment.recipe)
        parameters: dict[str, Any] = {
            "recipe": deployment.recipe,
            "seed": None,
            "overrides": list(deployment.overrides),
        }
    else:
        schema = forms.stages_form()
        parameters = chosen.model_dump(mode="json")
        parameters["stages"] = form_values.shown(parameters["stages"])
    limit = deployment.concurrency
    return {
        "description": deployment.description or None,
        "tags": [TAG],
        "parameters": parameters,
        "parameter_openapi_schema": schema,
        "enforce_parameter_schema": True,
        "entrypoint": ENTRYPOINTS[deployment.form],
        "work_pool_name": offer.content.pool.name,
        "job_variables": {
            "env": {
                HOME: str(home.root),
                RECIPES: str(offer.folder),
                FOLDER: str(Path.cwd()),
                FILE: str(offer.file),
                **lost_workers.ENVIRONMENT,
            },
        },
        "concurrency_limit": limit.limit if limit else None,
        "concurrency_options": {"collision_strategy": limit.collision_strategy} if limit else None,
    }
