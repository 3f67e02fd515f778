"""Takes the picture of MLflow's page that compares a home's runs: ``pictures.py HOME docs/images/mlflow-compare.png``.

It serves the home's own database on a free port, and opens the view that ``attar run`` and ``attar sweep`` print: of
the newest sweep, if there is one, else of the newest run's experiment. Needs Debian's Chromium and playwright.
"""

import argparse
import json
import os
import shutil
import socket
import subprocess
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from pipelines import mlflow_link, mlflow_server, mlflow_view, prefect_server
from pipelines.embedded import configure
from pipelines.home import Home
from pipelines.mlflow_words import RUNS

WIDTH, HEIGHT = 1600, 1000
QUIET = ["--no-sandbox", "--disable-background-networking", "--disable-component-update"]
NO_ASSISTANT = "localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')"
CHARTS = ".js-plotly-plot .main-svg, canvas"
PATIENCE_MS = 300_000  # a machine that does other things needs a minute until the first chart is there
SETTLE_MS = 5000  # charts are drawn one after the other, and nothing tells when the last one is


def take(home: Home, path: Path, height: int = HEIGHT) -> str:
    """Serve, open, wait for the charts, save; the address that was opened."""
    configure(home)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    server = subprocess.Popen(mlflow_server.command(home, port), env=os.environ | mlflow_server.ENVIRONMENT)
    try:
        if not prefect_server.wait(server, port, "/health"):
            raise SystemExit("mlflow server did not start; its own words are above")
        address = _address(home, f"http://127.0.0.1:{port}")
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=QUIET)
            page = browser.new_page(viewport={"width": WIDTH, "height": height})
            page.set_default_timeout(PATIENCE_MS)
            page.add_init_script(NO_ASSISTANT)
            _open(page, address)
            page.screenshot(path=path, animations="disabled")
            browser.close()
        return address
    finally:
        server.terminate()
        server.wait()


def _address(home: Home, url: str) -> str:
    sweeps = sorted((home.root / "sweeps").glob("*/sweep.json"), key=lambda path: path.stat().st_mtime)
    found = mlflow_link.newest_comparison(home, url)
    if found is None:
        raise SystemExit(f"no run of {home.root} is in MLflow")
    if not sweeps:
        return found
    newest = next(path for path in sorted(home.runs.glob(f"*/{RUNS}"), reverse=True))
    experiment = json.loads(newest.read_text())["experiment"]
    return f"{url}{mlflow_view.place(experiment, sweeps[-1].parent.name)}"


def _open(page: Page, address: str) -> None:
    page.goto(address)
    page.locator(CHARTS).first.wait_for()
    page.wait_for_timeout(SETTLE_MS)
    page.mouse.move(0, 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("home", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--height", type=int, default=HEIGHT)
    given = parser.parse_args()
    print(take(Home.open(given.home), given.picture, given.height))  # noqa: T201


if __name__ == "__main__":
    main()
