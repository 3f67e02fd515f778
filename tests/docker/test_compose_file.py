"""The compose file: valid, closed to the outside, and without a secret of its own."""

import json
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import compose_services
import pytest

from pipelines import guard

DOCKER = compose_services.FILE.parent
SERVICES = {"postgres", "prefect", "mlflow", "deploy", "worker"}


@pytest.fixture(scope="module")
def services(passwords: dict[str, str]) -> dict[str, Any]:
    done = compose_services.resolve(passwords)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)["services"]
    return found


def test_it_describes_the_services(services: dict[str, Any]) -> None:
    assert set(services) == SERVICES


def test_with_gpus_only_the_worker_differs(services: dict[str, Any], passwords: dict[str, str]) -> None:
    done = compose_services.resolve(passwords, DOCKER / "compose.cuda.yaml")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["services"]
    assert [name for name in found if found[name] != services[name]] == ["worker"]
    assert found["worker"]["build"]["target"] == "cuda"
    assert found["worker"]["command"] == services["worker"]["command"]


def test_every_secret_is_demanded_with_a_sentence(passwords: dict[str, str]) -> None:
    assert len(passwords) == 6
    for missing in passwords:
        done = compose_services.resolve({name: value for name, value in passwords.items() if name != missing})
        assert done.returncode != 0
        assert missing in done.stderr
        assert re.search(r"set the (password|key)", done.stderr)


def test_nothing_that_looks_like_a_secret_is_written_down() -> None:
    text = compose_services.FILE.read_text()
    for line in text.splitlines():
        if found := re.search(r"(PASSWORD|SECRET_KEY|AUTH_STRING):\s*(\S.*)", line):
            assert re.fullmatch(r"(attar:)?\$\{ATTAR_[A-Z_]+:\?[^}]+\}", found[2]), line


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_service_is_closed(services: dict[str, Any], name: str) -> None:
    service = services[name]
    assert all(port["host_ip"] == "127.0.0.1" for port in service.get("ports", []))
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service.get("privileged") and not service.get("cap_add")
    written = [mount for mount in service.get("volumes", []) if mount["type"] == "bind" and not mount.get("read_only")]
    assert not written


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_service_is_watched_or_ends(services: dict[str, Any], name: str) -> None:
    service = services[name]
    assert ("healthcheck" in service) != (name == "deploy")
    assert service["restart"] == ("on-failure:3" if name == "deploy" else "unless-stopped")
    conditions = {need["condition"] for need in service.get("depends_on", {}).values()}
    assert conditions <= {"service_healthy", "service_completed_successfully"}


def test_only_the_servers_reach_the_database_and_it_reaches_nothing(services: dict[str, Any]) -> None:
    assert {name for name in services if "databases" in services[name]["networks"]} == {"postgres", "prefect", "mlflow"}
    assert set(services["postgres"]["networks"]) == {"databases"}
    assert "ports" not in services["postgres"]
    assert re.search(r"databases:\s*\{internal: true\}", compose_services.FILE.read_text())


def test_a_worker_is_given_the_time_that_its_guard_needs(services: dict[str, Any]) -> None:
    needed = guard.GRACE_SECONDS + guard.REST_SECONDS
    found = re.fullmatch(r"(?:(\d+)m)?(\d+)s", services["worker"]["stop_grace_period"])
    assert found is not None
    minutes, seconds = found.groups("0")
    assert int(minutes) * 60 + int(seconds) > needed


def test_deploy_and_worker_read_the_same_pool(services: dict[str, Any]) -> None:
    file = services["deploy"]["command"][-1]
    assert services["worker"]["command"] == ["attar", "worker", file]


def test_new_secrets_fill_the_compose_file_once(tmp_path: Path) -> None:
    for file in ("new_secrets.py", "compose.yaml"):
        (tmp_path / file).write_text((DOCKER / file).read_text())
    command = [sys.executable, str(tmp_path / "new_secrets.py")]
    assert subprocess.run(command, capture_output=True).returncode == 0
    written = tmp_path / ".env"
    assert stat.S_IMODE(written.stat().st_mode) == 0o600
    secrets = dict(line.split("=", 1) for line in written.read_text().splitlines())
    assert len(set(secrets.values())) == len(secrets) == 6
    assert compose_services.resolve(secrets).returncode == 0
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 2
    assert "exists" in again.stderr
    assert dict(line.split("=", 1) for line in written.read_text().splitlines()) == secrets
