"""Starts runs of deployments through Prefect's API as its form does, and waits for them."""

import time
from typing import Any

import httpx

ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
POLL_SECONDS = 1.0


class Form:
    """What somebody does in the UI: ``Form(url, (user, password)).submit("recipe", {…})``."""

    def __init__(self, url: str, auth: tuple[str, str]) -> None:
        self.client = httpx.Client(base_url=f"{url}/api", auth=auth, timeout=60, trust_env=False)

    def deployment(self, name: str) -> dict[str, Any]:
        """A deployment by its name alone."""
        found = self._post("deployments/filter", {"deployments": {"name": {"any_": [name]}}})
        if len(found) != 1:
            raise RuntimeError(f"{len(found)} deployments are called {name!r}")
        deployment: dict[str, Any] = found[0]
        return deployment

    def submit(self, name: str, parameters: dict[str, Any]) -> str:
        """Start a run with what the form holds; the id of the flow run."""
        deployment = self.deployment(name)
        chosen = {**deployment["parameters"], **parameters}
        made = self._post(f"deployments/{deployment['id']}/create_flow_run", {"parameters": chosen})
        return str(made["id"])

    def wait(self, run: str) -> dict[str, Any]:
        """The flow run once it has ended, however that was."""
        while True:
            answer = self.client.get(f"flow_runs/{run}")
            answer.raise_for_status()
            found: dict[str, Any] = answer.json()
            if found["state_type"] in ENDED:
                return found
            time.sleep(POLL_SECONDS)

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        answer = self.client.post(path, json=body)
        answer.raise_for_status()
        return answer.json()
