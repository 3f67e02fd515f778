"""Prefect and MLflow without servers: everything in the home, quiet, and nothing sent anywhere.

Call :func:`configure` before either of them is imported: both read the environment once.
"""

import logging
import os
import sys

from pipelines.home import Home

SILENT = {  # nothing is sent anywhere
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
QUIET_LOGGERS = ("mlflow", "alembic", "prefect", "httpx", "matplotlib", "git")


def configure(home: Home) -> None:
    """Set what is not set in the environment already."""
    environment = SILENT | {
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_LOGGING_LEVEL": "ERROR",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "GIT_PYTHON_REFRESH": "quiet",
        # With the defaults one call to a server that is down blocks for over 200 s.
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
        # Prefect's console lines would cut through the progress bars; its database keeps them.
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_FLOW_RUNS_LEVEL": "CRITICAL",
        "PREFECT_CLI_PROMPT": "false",
        # Pauses double: a server may be away for eight minutes before Prefect gives up; with the default for one.
        "PREFECT_CLIENT_MAX_RETRIES": "8",
    }
    if not os.environ.get("PREFECT_API_URL"):
        environment |= {
            "PREFECT_HOME": str(home.prefect),
            "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
            "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
            "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
        }
    for name, value in environment.items():
        os.environ.setdefault(name, value)
    if not sys.warnoptions:
        import warnings

        warnings.simplefilter("ignore")
    for name in QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
