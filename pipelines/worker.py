"""A Prefect process worker that outlasts its server's outages, and ends its flows before itself.

    python -m pipelines.worker POOL

Prefect's own gives up on a server after some minutes, and kills what it runs when it goes: MLflow would never hear
of it. Here a signal stops the polling, asks the flows to end, and waits for them.
"""

import asyncio
import os
import platform
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx
import psutil
from anyio.abc import TaskStatus
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.logging import get_logger
from prefect.workers.process import ProcessJobConfiguration, ProcessWorker, ProcessWorkerResult

from attar.errors import BadInput, Cancelled
from pipelines import deployments, tracking
from pipelines.home import Home
from pipelines.lost_runs import OPEN, untold

FLOW_SECONDS = 30.0  # for the flows: longer than what they give their stages
ASK_SECONDS = 2.0
POLL_SECONDS = 0.2
LATER = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)


class Configuration(ProcessJobConfiguration):
    """What a flow run starts with: a process of ours, which knows its worker."""

    def prepare_for_flow_run(self, *arguments: Any, **more: Any) -> None:
        if self.command is None:
            command = [sys.executable, "-P", "-m", "pipelines.flow_process", str(os.getpid())]
            self.command = shlex.join(command)
        super().prepare_for_flow_run(*arguments, **more)


class Worker(ProcessWorker):
    """Polls for ever: an outage of the server is no error of the worker."""

    job_configuration = Configuration
    _stopping = False
    _away = False
    _untold = 0  # flow runs whose process has perhaps ended, but not their state

    @classmethod
    def __dispatch_key__(cls) -> str | None:
        return "attar"  # beside Prefect's own, whose pools it serves

    def stop(self) -> None:
        """Take no more flow runs."""
        self._stopping = True

    async def get_and_submit_flow_runs(self) -> list[FlowRun]:
        if self._stopping:
            return []
        try:
            found = await super().get_and_submit_flow_runs()
        except httpx.HTTPError as error:
            self._outage(error)
            return []
        self._back()
        return found

    async def _submit_run_and_capture_errors(self, *arguments: Any, **more: Any) -> Any:
        """From the start of a flow run's process to the word about how it ended."""
        self._untold += 1
        try:
            return await super()._submit_run_and_capture_errors(*arguments, **more)
        finally:
            self._untold -= 1

    async def run(
        self,
        flow_run: FlowRun,
        configuration: ProcessJobConfiguration,
        task_status: TaskStatus[int] | None = None,
    ) -> ProcessWorkerResult:
        result = await super().run(flow_run, configuration, task_status)
        with suppress(Exception):  # the next start of anything in that home does it, too
            await self._tell_rest(str(flow_run.id), configuration.env)
        return result

    async def _tell_rest(self, flow_run: str, variables: Mapping[str, str | None]) -> None:
        """Let MLflow know of a run that was killed: by Prefect after its grace, or for its memory.

        Prefect calls a run that was cancelled well ended, however it ended.
        """
        home = variables.get("ATTAR_HOME") or variables.get(deployments.HOME)
        if not home or self._stopping or not await asyncio.to_thread(untold, Home.open(Path(home)), flow_run):
            return
        await send_rest(home, {name: value for name, value in variables.items() if value is not None})

    async def _propose_crashed_state(
        self, flow_run: FlowRun, message: str, client: PrefectClient | None = None
    ) -> None:
        """Prefect's executor has said so before; said once more, it would undo a retry that was asked for since."""
        with suppress(Exception):  # not known: then it is said
            known = await self.client.read_flow_run(flow_run.id)
            if known.state is not None and known.state.type not in OPEN:
                return
        await super()._propose_crashed_state(flow_run, message, client)

    def idle(self) -> bool:
        """Whether no flow run is being started, and the server knows of the end of all that were."""
        return not self._submitting_flow_run_ids and not self._untold

    async def sync_with_backend(self) -> None:
        try:
            await super().sync_with_backend()
        except httpx.HTTPError as error:
            self._outage(error)

    def _outage(self, error: httpx.HTTPError) -> None:
        if isinstance(error, httpx.HTTPStatusError) and not _means_wait(error.response.status_code):
            raise error  # it is there, and does not want us
        if not self._away:
            self._logger.warning("the Prefect server is away (%s); asking again until it is back", type(error).__name__)
        self._away = True

    def _back(self) -> None:
        if self._away:
            self._logger.warning("the Prefect server is back")
        self._away = False


async def send_rest(home: str, variables: Mapping[str, str]) -> None:
    """Let MLflow know what it was not told of; what it does not take is a line, and the next start tries again.

    In a process of its own: MLflow takes half a gigabyte.
    """
    command = [sys.executable, "-P", "-m", "pipelines.cli", "sync", "--home", home]
    process = await asyncio.create_subprocess_exec(
        *command, env=dict(variables), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    _, said = await process.communicate()
    for line in said.decode(errors="replace").splitlines() if process.returncode != Cancelled.exit_code else ():
        get_logger("worker").warning("attar sync: %s", line)


async def send_what_waits() -> None:
    """The same for the home that this worker was given, if a run there was cut off or not sent to its end."""
    home = os.environ.get("ATTAR_HOME")
    if not home:  # then runs go where their deployments say
        return
    with suppress(Exception):  # the work is not worth less for it
        if await asyncio.to_thread(tracking.waits, Home.open(Path(home))):
            await send_rest(home, os.environ)


async def wait_for_server() -> None:
    """Until Prefect's API answers, however long that takes; a refusal is a sentence."""
    logger = get_logger("worker")
    told = False
    while True:
        async with get_client() as client:
            if await _answers(client):
                return
            if not told:
                logger.warning("waiting for the Prefect server at %s", client.api_url)
            told = True
        await asyncio.sleep(ASK_SECONDS)


async def _answers(client: PrefectClient) -> bool:
    """Whether the server serves; one that is overloaded, starting, or lost behind a proxy does not yet."""
    if await client.api_healthcheck() is not None:
        return False
    try:
        await client.read_work_pools(limit=1)
    except httpx.HTTPStatusError as error:
        code = error.response.status_code
        if _means_wait(code):
            return False
        advice = (
            "give it the server's password in PREFECT_API_AUTH_STRING"
            if code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
            else "PREFECT_API_URL has to be the address of its API, such as http://127.0.0.1:4200/api"
        )
        raise BadInput(f"the Prefect server refuses this worker with status {code}; {advice}") from None
    except httpx.TransportError:
        return False
    return True


def _means_wait(status: int) -> bool:
    return status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in LATER


async def end_flows(worker: Worker) -> None:
    """Ask the processes of all flow runs to end, as Ctrl-C would, and wait for them; also those about to be started.

    One that is asked before it listens just dies: then the worker says that it crashed, and is given time for that.
    """
    asked: set[int] = set()
    deadline = time.monotonic() + FLOW_SECONDS
    while time.monotonic() < deadline:
        running = [child for child in psutil.Process().children() if not _ended(child)]
        if not running and worker.idle():
            return
        for child in running:
            if child.pid not in asked:
                asked.add(child.pid)
                with suppress(psutil.NoSuchProcess):
                    child.terminate()
        await asyncio.sleep(POLL_SECONDS)


def _ended(child: psutil.Process) -> bool:
    try:
        return bool(child.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:  # buried since
        return True


async def work(pool: str) -> None:
    """Serve the pool until a signal comes."""
    asked_to_stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked_to_stop.set)
    stop = asyncio.create_task(asked_to_stop.wait())
    waiting = asyncio.create_task(wait_for_server())
    await asyncio.wait({stop, waiting}, return_when=asyncio.FIRST_COMPLETED)
    if not waiting.done():
        waiting.cancel()
        return
    waiting.result()
    rest = asyncio.create_task(send_what_waits())
    worker = Worker(work_pool_name=pool, name=platform.node())
    serving = asyncio.create_task(worker.start())
    await asyncio.wait({stop, serving}, return_when=asyncio.FIRST_COMPLETED)
    if serving.done():
        serving.result()
        return
    worker.stop()
    await end_flows(worker)
    rest.cancel()
    serving.cancel()
    with suppress(asyncio.CancelledError):
        await serving


def main(pool: str) -> int:
    """Exit code of the worker."""
    try:
        asyncio.run(work(pool))
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
