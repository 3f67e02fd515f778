"""The MLflow server of one machine: its command, and the settings that keep it small and to itself."""

import sys

from pipelines.home import Home

# With job execution the idle server takes over 2 GB.
ENVIRONMENT = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}


def command(home: Home, port: int) -> list[str]:
    """``mlflow server`` over the database in the home: on loopback, found by the names of this machine only."""
    return [
        sys.executable,
        "-P",
        "-m",
        "mlflow",
        "server",
        "--host=127.0.0.1",
        f"--port={port}",
        "--workers=1",
        f"--backend-store-uri={home.mlflow_uri}",
        f"--default-artifact-root={home.mlflow_artifacts}",
        f"--allowed-hosts=127.0.0.1:{port},localhost:{port}",
        f"--cors-allowed-origins=http://127.0.0.1:{port},http://localhost:{port}",
        "--uvicorn-opts=--log-level=warning",
    ]
