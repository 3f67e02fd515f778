"""Asks the Prefect server that the environment names before anything is computed: is it there, does it know us?"""

import os

from attar.credentials import without_credentials
from attar.errors import BadInput, first_line
from pipelines.prefect_server import ASK_SECONDS, URL

REFUSED = (401, 403)


def check() -> None:
    """Return when the server answers.

    Raises:
        BadInput: one sentence; Prefect itself would ask again for minutes and then show its inside.
    """
    address = os.environ.get(URL)
    if not address:
        return
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_REQUEST_TIMEOUT, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    shown = without_credentials(address)
    try:
        with (
            temporary_settings({PREFECT_API_REQUEST_TIMEOUT: ASK_SECONDS, PREFECT_CLIENT_MAX_RETRIES: 0}),
            get_client(sync_client=True) as client,
        ):
            client.api_version()  # unlike its health this is told only to those it knows
    except Exception as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in REFUSED:
            raise BadInput(
                f"the Prefect server {shown} refuses this user; set PREFECT_API_AUTH_STRING=user:password, "
                "or PREFECT_API_KEY, to what it expects"
            ) from None
        why = f"it answers {status}" if status else without_credentials(first_line(error))
        raise BadInput(
            f"the Prefect server {shown} of {URL} does not answer as one ({why}); start it, correct the address, "
            "or unset the variable to run without a server"
        ) from None
