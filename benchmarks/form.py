"""Starts runs of deployments through Prefect's API as its form does, and waits for them."""

import time
from http import HTTPStatus
from typing import Any

import httpx

OPEN = ("PENDING", "RUNNING", "CANCELLING")
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

    def look(self, run: str) -> dict[str, Any]:
        """The flow run as it is."""
        found: dict[str, Any] = self._ask("GET", f"flow_runs/{run}")
        return found

    def wait(self, run: str) -> dict[str, Any]:
        """The flow run once it has ended, however that was."""
        while (found := self.look(run))["state_type"] not in ENDED:
            time.sleep(POLL_SECONDS)
        return found

    def open(self) -> list[str]:
        """Names of the flow runs that have begun and not ended."""
        wanted = {"flow_runs": {"state": {"type": {"any_": list(OPEN)}}}}
        return [f"{found['name']} is {found['state_type']}" for found in self._post("flow_runs/filter", wanted)]

    def retry(self, run: str) -> str:
        """What ``prefect flow-run retry`` does; the state in which the flow run was.

        One that is open is marked as crashed before, as the automation of ``attar deploy`` does after ten minutes.
        """
        was = str(self.look(run)["state_type"])
        if was in OPEN:
            self._set_state(run, "CRASHED")
        self._set_state(run, "SCHEDULED")
        return was

    def _set_state(self, run: str, kind: str) -> None:
        self._post(f"flow_runs/{run}/set_state", {"state": {"type": kind}, "force": True})

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        return self._ask("POST", path, body)

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        """The answer; a server whose SQLite is busy with others is asked again."""
        while (answer := self.client.request(method, path, json=body)).status_code == HTTPStatus.SERVICE_UNAVAILABLE:
            time.sleep(POLL_SECONDS)
        answer.raise_for_status()
        return answer.json()
