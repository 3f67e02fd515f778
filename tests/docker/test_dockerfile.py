"""The Dockerfile: clean to the linter, pinned, and for a user that is not root."""

import json
import re
import subprocess

import compose_services
from compose_services import BIN, ROOT

FILE = ROOT / "docker" / "Dockerfile"
LINES = FILE.read_text().replace("\\\n", " ").splitlines()
IMAGES = ("servers", "cpu", "cuda")


def _stages() -> dict[str, tuple[str, list[str]]]:
    """Name of every stage → what it is made from, and its lines."""
    stages: dict[str, tuple[str, list[str]]] = {}
    for line in LINES:
        if found := re.fullmatch(r"FROM (\S+) AS (\S+)", line):
            stages[found[2]] = (found[1], [])
        elif stages and line and not line.startswith("#"):
            stages[list(stages)[-1]][1].append(line)
    return stages


def test_the_linter_has_nothing_to_say() -> None:
    done = subprocess.run([str(BIN / "hadolint"), "--no-color", str(FILE)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_base_images_are_pinned_by_digest() -> None:
    stages = _stages()
    bases = [base for base, _ in stages.values() if base not in stages]
    assert bases
    assert all(re.fullmatch(r"[a-z/]+:[\w.-]+@sha256:[0-9a-f]{64}", base) for base in bases)


def test_the_compose_file_builds_what_there_is(passwords: dict[str, str]) -> None:
    stages = _stages()
    services = json.loads(compose_services.resolve(passwords, ROOT / "docker" / "compose.cuda.yaml").stdout)["services"]
    for service in services.values():
        if "build" in service:
            assert service["build"]["target"] in stages
        else:
            assert re.fullmatch(r"[a-z/]+:\d+\.\d+[\w.-]*", service["image"])


def test_images_run_as_a_fixed_user_without_compilers() -> None:
    stages = _stages()
    for name in IMAGES:
        base, lines = stages[name]
        assert base == "runtime"
        assert "USER 10001:10001" in lines
        assert not any(line.startswith("RUN") for line in lines)


def test_what_is_copied_is_there_and_let_in() -> None:
    ignored = (ROOT / "docker" / "Dockerfile.dockerignore").read_text().splitlines()
    for line in LINES:
        if line.startswith("COPY ") and "--from=" not in line:
            for source in line.split()[1:-1]:
                assert (ROOT / source).exists(), line
                assert f"!{source}" in ignored, line


def test_versions_are_those_that_the_tests_run_with() -> None:
    pinned = {line.partition("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines()}
    build = " ".join(_stages()["build"][1])
    assert "PIP_CONSTRAINT=/src/constraints.txt" in build
    assert {"torch", "prefect", "fastapi", "mlflow", "psycopg2-binary", "asyncpg", "sqlalchemy"} <= pinned
