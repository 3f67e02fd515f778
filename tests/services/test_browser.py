"""What a person does in a browser: changes the form, submits it, sees the run complete, finds its result in MLflow.

Pictures of it, for the README, are written to the folder that ``ATTAR_SCREENSHOTS`` names, else to pytest's own.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Locator, Page, Request, sync_playwright

if TYPE_CHECKING:
    from tests.services.conftest import Served

# Debian's, which `make test-services` installs (.ci/packages); playwright's own would be a download.
CHROMIUM = shutil.which("chromium")
NO_ASSISTANT = "localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')"  # it hides the result
WIDTH, HEIGHT = 1280, 900
ENDED = re.compile("^(Completed|Failed|Crashed|Cancelled)$")


class Pictures:
    """Screenshots of what the window shows."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def take(self, page: Page, name: str, height: int = HEIGHT) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        page.mouse.move(0, 0)
        page.set_viewport_size({"width": WIDTH, "height": height})
        page.screenshot(path=self.folder / f"{name}.png", animations="disabled")
        page.set_viewport_size({"width": WIDTH, "height": HEIGHT})


@pytest.fixture
def pictures(tmp_path: Path) -> Pictures:
    return Pictures(Path(os.environ.get("ATTAR_SCREENSHOTS") or tmp_path))


@pytest.fixture
def strangers() -> list[str]:
    """Requests for anything but this machine."""
    return []


@pytest.fixture
def page(strangers: list[str]) -> Iterator[Page]:
    """A window. It waits for elements as long as they need: pytest's timeout is the limit."""
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed; make test-services installs Debian's")

    def note(request: Request) -> None:
        if urlsplit(request.url).hostname not in ("127.0.0.1", None):  # None: data and blobs
            strangers.append(request.url)

    quiet = ["--no-sandbox", "--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as playwright, playwright.chromium.launch(executable_path=CHROMIUM, args=quiet) as browser:
        window = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        window.set_default_timeout(0)
        window.add_init_script(NO_ASSISTANT)
        window.on("request", note)
        yield window


def open_form(page: Page, served: "Served") -> Locator:
    """From the address that ``attar serve`` prints to the form of the stages; the stages in it."""
    page.goto(next(word for word in served.said().split() if word.endswith("/deployments")))
    page.get_by_role("link", name="stages", exact=True).click()
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_role("link", name="Custom run").click()
    page.get_by_role("button", name="Add item").first.wait_for()
    return page.get_by_role("button", name="Drag to reorder").locator("xpath=..")


def choose(page: Page, stage: Locator, does: str) -> None:
    """An entry of a stage's menu."""
    stage.get_by_role("button", name="Open menu").last.click()
    page.get_by_role("menuitem", name=does, exact=True).click()


def fill(stage: Locator, **settings: float) -> None:
    for name, value in settings.items():
        stage.get_by_label(f"{name} (Optional)").fill(str(value))


def submit(page: Page) -> str:
    """Press the button; the id of the run that was made."""
    with page.expect_response(lambda answer: answer.url.endswith("/create_flow_run")) as made:
        page.get_by_role("button", name="Submit").click()
    assert made.value.ok, made.value.text()
    return str(made.value.json()["id"])


def test_a_changed_form_becomes_a_run_whose_result_is_in_mlflow(
    served: "Served", page: Page, pictures: Pictures, strangers: list[str]
) -> None:
    entries = open_form(page, served)
    width, second = entries.nth(0), entries.nth(1)
    fill(width, ffn=0.5)
    second.get_by_role("tab", name="depth", exact=True).click()
    second.get_by_role("tabpanel").get_by_role("spinbutton").first.fill("1")  # one layer
    fill(second, windows=4, length=64)
    for _ in range(2):
        page.get_by_role("button", name="Add item").first.click()  # the others are of the gates and tasks
    entries.nth(3).wait_for()
    fill(entries.nth(2), group_size=16)
    choose(page, entries.nth(3), "Delete")
    entries.nth(3).wait_for(state="detached")
    choose(page, second, "Move up")
    entries.nth(1).get_by_label("ffn (Optional)").wait_for()
    page.get_by_role("main").get_by_text("stages", exact=True).last.evaluate("label => label.scrollIntoView()")
    pictures.take(page, "prefect-form", height=1200)

    run = submit(page)
    main = page.get_by_role("main")
    main.locator(f"a[href*='{run}']").first.click()
    ended = main.get_by_text(ENDED).first
    ended.wait_for()
    assert ended.inner_text() == "Completed", served.flow_run(run)["state"]["message"]
    as_sent(served, run)
    as_shown(served, page, run, pictures)
    assert strangers == []


def test_a_value_out_of_bounds_is_told_at_its_field(served: "Served", page: Page) -> None:
    width = open_form(page, served).first
    before = len(served.flow_runs())
    fill(width, ffn=1.5)
    page.get_by_role("button", name="Submit").click()
    width.get_by_text("1.5 is greater than or equal to the maximum of 1").wait_for()
    assert len(served.flow_runs()) == before


def as_sent(served: "Served", run: str) -> None:
    """Parameters and journal of the run hold what was changed in the form, and what was not."""
    flow_run = served.flow_run(run)
    sent = flow_run["parameters"]["stages"]
    stages = [record["settings"] for record in served.records(run, "step") if record["step"]]
    for given in (sent, stages):
        assert [stage["stage"] for stage in given] == ["prune.depth", "prune.width", "quantize.rtn"]
        depth, width, rtn = given
        assert (depth["layers"], depth["windows"], depth["length"]) == (1, 4, 64)
        assert "group_size" not in depth and "bits" not in depth
        assert (width["ffn"], width["multiple_of"]) == (0.5, 16)
        assert (rtn["bits"], rtn["group_size"]) == (4, 16)
    (end,) = served.records(run, "end-run")
    assert end["status"] == "finished"


def as_shown(served: "Served", page: Page, run: str, pictures: Pictures) -> None:
    """From the finished run's page by its table to its page in MLflow."""
    (folder,) = served.folders(run)
    final = final_row(folder)
    main = page.get_by_role("main")
    main.get_by_text(f"small · {folder.name}").first.wait_for()
    main.get_by_role("tab", name="Details").click()
    main.get_by_text(served.flow_run(run)["state"]["message"]).wait_for()
    main.get_by_role("tab", name="Artifacts").click()
    main.get_by_role("link", name=re.compile("report")).click()
    page.wait_for_url("**/artifacts/key/report")
    main.locator("a[href*='/artifacts/artifact/']").first.click()
    ratio = main.get_by_role("row", name=re.compile("^ratio"))
    ratio.wait_for()
    page.reload()  # a page of its own, as a link to it opens; and without what still pops up of the form
    ratio.wait_for()
    assert f"{final['compression_ratio']:.2f}×" in ratio.inner_text()
    pictures.take(page, "prefect-run")

    main.get_by_role("link", name="The run in MLflow").click()
    page.get_by_role("heading", name=folder.name).wait_for()
    page.get_by_text("Finished", exact=True).wait_for()
    measured = page.get_by_role("row", name=re.compile("^compression_ratio"))
    measured.wait_for()
    assert str(final["compression_ratio"]) in measured.inner_text()
    page.get_by_role("link", name=re.compile("quantize.rtn")).wait_for()  # the run of a stage
    page.get_by_role("row", name="quality/retained").first.scroll_into_view_if_needed()
    pictures.take(page, "mlflow-result")


def final_row(folder: Path) -> dict[str, Any]:
    rows: list[dict[str, Any]] = json.loads((folder / "report.json").read_text())["rows"]
    return rows[-1]
