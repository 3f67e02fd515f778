"""The address of a run's page in Prefect."""

from prefect import runtime
from prefect.utilities.urls import url_for

from attar.credentials import without_credentials
from pipelines import prefect_server


def flow_run_url() -> str | None:
    """Where a person sees the flow run that this is called in; None for the embedded server, which has no pages."""
    if runtime.flow_run.id is None or prefect_server.embedded():
        return None
    address = url_for("flow-run", runtime.flow_run.id)
    return without_credentials(address) if address else None
