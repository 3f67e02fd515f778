"""The watch over deployed runs: one whose heartbeat stays away is marked crashed, so that it can be retried.

A worker that lives marks its dead runs itself; only an automation of the server notices that a worker died with them.
Runs of the command line are flows of another name and are left alone.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from attar.fingerprint import hash_json

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.events.schemas.automations import AutomationCore

NAME = "attar: runs whose worker died"
HEARTBEAT_SECONDS = 30  # the least that Prefect takes
SILENCE_SECONDS = 600  # an outage silences heartbeats too: longer than a run bears with one
ENVIRONMENT = {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS)}


def watch(client: "SyncPrefectClient", flows: Sequence[str], silence: int = SILENCE_SECONDS) -> None:
    """Install the automation; the same one stays untouched, since an update forgets whom it watches.

    Args:
        flows: names of the flows that are watched.
        silence: seconds without a heartbeat after which a run is taken for dead.
    """
    wanted = _automation(flows, silence)
    found = client.read_automations_by_name(NAME)
    for double in found[1:]:
        client.delete_automation(double.id)
    if not found:
        client.create_automation(wanted)
    elif found[0].description != wanted.description:
        client.update_automation(found[0].id, wanted.model_copy(update={"enabled": found[0].enabled}))


def _automation(flows: Sequence[str], silence: int) -> "AutomationCore":
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
    from prefect.events.schemas.events import ResourceSpecification

    heartbeat = "prefect.flow-run.heartbeat"
    ends = {f"prefect.flow-run.{name}" for name in ("Completed", "Failed", "Cancelled", "Crashed")}
    message = (
        f"no heartbeat for {silence} s: its worker or its machine died, or could not reach the server; "
        "prefect flow-run retry goes on from here"
    )
    what = {"flows": list(flows), "ends": sorted(ends), "silence": silence, "message": message}
    return AutomationCore(
        name=NAME,
        description=f"installed by attar deploy ({hash_json(what)})",
        enabled=True,
        trigger=EventTrigger(
            after={heartbeat},
            expect={heartbeat, *ends},
            match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
            match_related=ResourceSpecification(
                {"prefect.resource.role": "flow", "prefect.resource.name": list(flows)}
            ),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=silence),
        ),
        actions=[ChangeFlowRunState(state=StateType.CRASHED, name="Crashed", message=message)],
    )
