"""The services of the compose file, started once: on loopback, against a PostgreSQL of their own, with passwords."""

from collections.abc import Iterator
from pathlib import Path

import compose_services
import pytest
from compose_services import Services
from side_by_side import library_text, new_secrets

BROWSED = {"ATTAR_MLFLOW_URL": "https://mlflow.team.example"}  # what a proxy of theirs is called


@pytest.fixture(scope="session")
def passwords() -> dict[str, str]:
    return new_secrets()


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return library_text(tmp_path_factory.mktemp("text") / "library.txt")


@pytest.fixture(scope="session")
def services(tmp_path_factory: pytest.TempPathFactory, passwords: dict[str, str]) -> Iterator[Services]:
    if compose_services.postgres_folder() is None:
        pytest.skip("PostgreSQL is not installed; make test-services installs Debian's")
    with compose_services.running(tmp_path_factory.mktemp("compose"), passwords | BROWSED) as services:
        yield services
