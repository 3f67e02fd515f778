"""A run in MLflow names its page in Prefect, to everybody: without what opens doors."""

import pytest

from pipelines import prefect_server

RUN = "0d3a8c5e-3f0e-4a39-9a5e-1a2b3c4d5e6f"


@pytest.mark.parametrize(
    ("flow_run", "own_server", "shown"),
    [(RUN, False, f"https://prefect.example/runs/flow-run/{RUN}"), (RUN, True, None), (None, False, None)],
    ids=["served", "embedded", "no flow"],
)
def test_the_page_of_a_flow_run(
    monkeypatch: pytest.MonkeyPatch, flow_run: str | None, own_server: bool, shown: str | None
) -> None:
    from prefect.settings import PREFECT_UI_URL, temporary_settings

    from pipelines.prefect_link import flow_run_url

    if flow_run is not None:
        monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__ID", flow_run)  # Prefect's own way to play a run
    monkeypatch.setattr(prefect_server, "embedded", lambda: own_server)
    with temporary_settings({PREFECT_UI_URL: "https://me:secret@prefect.example"}):
        assert flow_run_url() == shown
