"""``attar deploy``: what is wrong is a sentence before anything is registered; twice the same changes nothing."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import yaml

from attar.errors import BadInput
from pipelines import deployments_yaml, prefect_server
from pipelines.home import Home
from pipelines.journal import read

Content = dict[str, Any]
Ask = Callable[..., Any]


@pytest.fixture
def content() -> Content:
    return {
        "deployments": [
            {"name": "recipe", "recipe": "small"},
            {"name": "stages", "form": "stages", "recipe": "small"},
            {
                "name": "nightly",
                "recipe": "small",
                "overrides": ["stages.0.ffn=0.5"],
                "schedule": {"cron": "0 3 * * *", "timezone": "Europe/Berlin", "active": True},
                "concurrency": {"limit": 1, "collision_strategy": "ENQUEUE"},
            },
        ]
    }


@pytest.fixture
def folder(tmp_path: Path, document: Content) -> Path:
    """A folder of one recipe and the deployments file; the recipe's text is given as seen from here."""
    document["data"]["source"] = os.path.relpath(document["data"]["source"])
    made = tmp_path / "conf"
    made.mkdir()
    (made / "small.yaml").write_text(yaml.safe_dump(document))
    return made


def save(folder: Path, content: Content) -> Path:
    file = folder / "deployments.yaml"
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    return file


def test_the_file_of_this_repository_is_right() -> None:
    offer = deployments_yaml.load(Path(__file__).parents[2] / "conf" / "deployments.yaml")
    assert {"quickstart", "smoke"} <= set(offer.recipes) and "deployments" not in offer.recipes
    assert [found.schedule.active for found in offer.content.deployments if found.schedule] == [False]


@pytest.mark.parametrize(
    ("place", "value", "sentence"),
    [
        ((), {"deploymets": []}, "'deploymets'; did you mean 'deployments'"),
        (("deployments", 2, "shedule"), {}, "deployments.2.shedule'; did you mean 'schedule'"),
        (("deployments", 2, "schedule", "timezon"), "UTC", "deployments.2.schedule.timezon'; did you mean 'timezone'"),
        (("deployments", 2, "schedule", "timezone"), "Europe/Atlantis", "timezone='Europe/Atlantis' is none of"),
        (("deployments", 2, "schedule", "timezone"), "../etc/passwd", "is none of the IANA time zones"),
        (("deployments", 2, "schedule", "cron"), "0 3 * *", "cron='0 3 \\* \\*' is no cron line"),
        (("deployments", 2, "schedule", "cron"), "61 3 * * *", "is no cron line"),
        (("deployments", 2, "schedule", "cron"), "0 0 31 2 *", "cron='0 0 31 2 \\*' never comes"),
        (("deployments", 2, "concurrency", "limit"), 0, "deployments.2.concurrency.limit=0"),
        (("deployments", 2, "concurrency", "collision_strategy"), "WAIT", "'ENQUEUE' or 'CANCEL_NEW'"),
        (("deployments", 2, "overrides"), ["stages.0.fnn=1"], "unknown setting 'fnn'; did you mean 'ffn'"),
        (("deployments", 0, "recipe"), "smal", "there is no recipe 'smal' in .*; did you mean 'small'"),
        (("deployments", 0, "recipe"), "../small", "is not possible"),
        (("deployments", 1, "name"), "recipe", "the name 'recipe' is there twice"),
        (("recipes",), "nowhere", "there is no recipe in"),
    ],
)
def test_a_fault_is_one_sentence(folder: Path, content: Content, place: Any, value: Any, sentence: str) -> None:
    target: Any = content
    for part in place[:-1]:
        target = target[part]
    if place:
        target[place[-1]] = value
    else:
        content |= value
    with pytest.raises(BadInput, match=sentence) as told:
        deployments_yaml.load(save(folder, content))
    assert "\n" not in str(told.value)


def test_a_wrong_recipe_is_told_before_anything_is_registered(folder: Path, content: Content) -> None:
    (folder / "other.yaml").write_text("name: other\nmodel: random:llama\nstages: [{stage: prune.widht}]\n")
    with pytest.raises(BadInput, match=r"did you mean 'prune\.width'"):
        deployments_yaml.load(save(folder, content))


def test_a_run_needs_its_own_recipe_only(folder: Path, content: Content) -> None:
    save(folder, content)
    (folder / "half.yaml").write_text("name: half\nstages: [")
    (folder / "other.yaml").mkdir()
    assert deployments_yaml.recipe_file(folder, "small") == folder / "small.yaml"
    with pytest.raises(BadInput, match=r"half\.yaml is not YAML"):
        deployments_yaml.recipe_file(folder, "half")
    for absent in ("deployments", "../conf/small", "", 7, ["small"], None):
        with pytest.raises(BadInput, match=r"there is no recipe .* in .*; (possible: small|did you mean 'small'\?)$"):
            deployments_yaml.recipe_file(folder, absent)
    with pytest.raises(BadInput, match=r"half\.yaml is not YAML"):  # who registers is told
        deployments_yaml.load(folder / "deployments.yaml")


def test_paths_of_a_deployed_recipe_count_from_where_it_was_registered(
    monkeypatch: pytest.MonkeyPatch, folder: Path, content: Content, home: Path
) -> None:
    from pipelines import deployed, deployments

    offer = deployments_yaml.load(save(folder, content))
    asked = [deployments.definition(one, offer, Home.open(home))["job_variables"] for one in offer.content.deployments]
    assert {variables["env"][deployments.FOLDER] for variables in asked} == {str(Path.cwd())}
    monkeypatch.chdir(folder.parent)
    for there, then in ((folder / "another machine's", folder.parent), (folder, folder)):
        monkeypatch.setenv(deployments.FOLDER, str(there))
        deployed._enter_folder()
        assert Path.cwd() == then


class Server:
    """A Prefect server in a process of its own; :meth:`attar` and :meth:`ask` speak to it as a user does."""

    def __init__(self, url: str, home: Path, folder: Path) -> None:
        self.environment = {**os.environ, "PREFECT_API_URL": url, "PREFECT_HOME": str(home / "client")}
        self.environment |= {"PREFECT_LOGGING_LEVEL": "INFO", "ATTAR_HOME": str(home), "ATTAR_RECIPES": str(folder)}
        self.environment["PYTHONPATH"] = str(Path(__file__).parents[2])  # for who starts elsewhere
        self.folder = folder
        self.url = url

    def attar(self, *arguments: str) -> Any:
        done = self.called(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def refused(self, *arguments: str) -> str:
        done = self.called(*arguments)
        assert done.returncode == 2, done.stderr
        return done.stderr

    def called(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "pipelines.cli", *arguments]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True)

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        import httpx

        answer = httpx.request(method, f"{self.url}{path}", json=body, timeout=60)
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None

    def execute(self, deployment: str, parameters: Content) -> Content:
        """A run as the form starts it, carried out as a worker does, in some folder; the run when it has ended."""
        body = {"parameters": parameters, "enforce_parameter_schema": False}
        run = self.ask("POST", f"/deployments/{deployment}/create_flow_run", body)["id"]
        command = [sys.executable, "-m", "prefect", "flow-run", "execute", run]
        environment = self.environment | self.ask("GET", f"/deployments/{deployment}")["job_variables"]["env"]
        done = subprocess.run(command, env=environment, cwd=self.folder, capture_output=True, text=True)
        found = dict(self.ask("GET", f"/flow_runs/{run}"))
        assert found["state"]["type"] in ("COMPLETED", "FAILED"), done.stdout + done.stderr
        return found


@pytest.fixture
def server(tmp_path: Path, home: Path, folder: Path) -> Iterator[Server]:
    """The embedded server, started by a process that ends with the test."""
    code = (
        "import os, sys; from pathlib import Path; from pipelines import embedded, prefect_server\n"
        "from pipelines.home import Home\n"
        "home = Home.open(Path(sys.argv[1])); embedded.configure(home); prefect_server.start(home)\n"
        "print(os.environ['PREFECT_API_URL'], flush=True); sys.stdin.read()"
    )
    environment = {name: value for name, value in os.environ.items() if name != prefect_server.URL}
    with subprocess.Popen(
        [sys.executable, "-c", code, str(home)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            yield Server(process.stdout.readline().strip(), home, folder)
        finally:
            process.send_signal(signal.SIGTERM)


def test_registering_and_running(server: Server, folder: Path, content: Content, home: Path) -> None:
    """One server for all that needs one: its start takes longer than the rest."""
    file = save(folder, content)
    names = ("recipe", "stages", "nightly")
    assert server.attar("deploy", str(file)) == dict.fromkeys(names, "created")
    first = registered(server)
    assert server.attar("deploy", str(file)) == dict.fromkeys(names, "unchanged")
    assert registered(server) == first

    # who pauses a schedule in the UI has the last word, until the file changes its mind
    nightly = first["nightly"]
    schedule = nightly["schedules"][0]["id"]
    server.ask("PATCH", f"/deployments/{nightly['id']}/schedules/{schedule}", {"active": False})
    assert server.attar("deploy", str(file))["nightly"] == "unchanged"
    content["deployments"][2]["overrides"] = []
    content["deployments"][2]["schedule"]["cron"] = "30 4 * * *"
    assert server.attar("deploy", str(save(folder, content)))["nightly"] == "changed"
    changed = registered(server)["nightly"]["schedules"][0]
    assert (changed["id"], changed["active"], changed["schedule"]["cron"]) == (schedule, False, "30 4 * * *")
    assert registered(server)["nightly"]["parameters"]["overrides"] == []

    # with another pool they are the same still; those of another home are not touched
    content["pool"] = {"name": "another"}
    assert server.attar("deploy", str(save(folder, content)))["nightly"] == "changed"
    moved = registered(server)["nightly"]
    assert (moved["id"], moved["work_pool_name"]) == (nightly["id"], "another")
    assert [(found["id"], found["active"]) for found in moved["schedules"]] == [(schedule, False)]
    others = ("--home", str(home.parent / "others"))
    before = registered(server)
    refusal = server.refused("deploy", str(save(folder, content | {"pool": {"name": "third"}})), *others)
    assert "'recipe'" in refusal and str(home) in refusal and "--take-over" in refusal
    save(folder, content | {"deployments": [{"name": "theirs", "recipe": "small"}]})
    assert server.attar("deploy", str(file), *others) == {"theirs": "created"}
    assert server.attar("deploy", str(save(folder, content))) == dict.fromkeys(names, "unchanged")
    assert registered(server).items() >= before.items() and "theirs" in registered(server)
    assert not any(pool["name"] == "third" for pool in server.ask("POST", "/work_pools/filter", {}))
    taken = server.attar("deploy", str(file), "--take-over")
    assert taken == dict.fromkeys(names, "unchanged") | {"theirs": "removed"}

    # what left the file is removed, also when the pool was renamed with it; what people registered themselves stays
    del content["deployments"][2]
    content["pool"] = {"name": "moved"}
    own = {"name": "own", "flow_id": first["recipe"]["flow_id"], "tags": []}
    server.ask("POST", "/deployments/", own)
    assert server.attar("deploy", str(save(folder, content)))["nightly"] == "removed"
    assert set(registered(server)) == {"recipe", "stages", "own"}

    # what stands in another file is that one's, also for who takes over what is another home's
    more = folder / "more.yaml"
    more.write_text(yaml.safe_dump(content | {"deployments": [{"name": "more", "recipe": "small"}]}))
    assert server.attar("deploy", str(more)) == {"more": "created"}
    assert server.attar("deploy", str(file), "--take-over") == dict.fromkeys(("recipe", "stages"), "unchanged")
    assert set(registered(server)) == {"recipe", "stages", "own", "more"}

    # two files that share a pool agree about its limit, and who deploys hears that nobody serves it
    narrow = {"pool": {"name": "moved", "limit": 2}}
    more.write_text(yaml.safe_dump(content | narrow | {"deployments": [{"name": "more", "recipe": "small"}]}))
    refusal = server.refused("deploy", str(more))
    assert f"{file}, whose deployments are in it, says null" in refusal and "pool.limit=2" in refusal
    assert server.refused("deploy", str(more), "--take-over") == refusal
    assert server.attar("deploy", str(save(folder, content | narrow))) == dict.fromkeys(
        ("recipe", "stages"), "unchanged"
    )
    told = server.called("deploy", str(more))
    assert told.stdout == "more: unchanged\n"
    assert told.stderr.startswith("warning: no worker serves the pool 'moved'")
    assert told.stderr.endswith(f"start one with: attar worker {more}\n")
    automations = server.ask("POST", "/automations/filter", {})
    assert len(automations) == 1 and automations[0]["enabled"]

    # the same run from the form and from the command line: the second computes nothing
    recipe, stages = first["recipe"], first["stages"]
    run = server.execute(recipe["id"], {"recipe": "small", "overrides": ["stages.0.ffn=0.5"], "seed": 3})
    assert run["state"]["type"] == "COMPLETED", run["state"]["message"]
    assert "2 of 2 stages to compute: the first run of this recipe in this home" in run["state"]["message"]
    folders = sorted((home / "runs").iterdir())
    assert run["name"] == f"small · {folders[0].name}"
    values = {**stages["parameters"], "seed": "3"}
    values["stages"][0]["ffn"] = "0.5"
    again = server.execute(stages["id"], values)
    assert f"nothing to compute: nothing changed since {folders[0].name}" in again["state"]["message"]
    assert [record for record in read(sorted((home / "runs").iterdir())[1]) if record["kind"] == "child"] == []
    plan = server.attar("plan", str(folder / "small.yaml"), "stages.0.ffn=0.5", "seed=3")
    assert all(step["cached"] and step["measured"] for step in plan["steps"])
    explained = server.attar("explain", str(folder / "small.yaml"), "stages.0.ffn=0.5", "seed=3")
    assert explained["line"].startswith("nothing to compute: nothing changed since ")

    shown_in_the_ui(server, run["id"])
    failed = server.execute(recipe["id"], {"recipe": "smal", "overrides": ["stages.0.ffn=0.5"], "seed": 3})
    typo = failed["state"]
    assert typo["type"] == "FAILED" and "there is no recipe 'smal'" in typo["message"]
    assert failed["name"] == "smal stages.0.ffn=0.5 seed=3"
    assert "did you mean 'small'?" in typo["message"]


def shown_in_the_ui(server: Server, run: str) -> None:
    """Names, artifacts and log of a run say what ran."""
    tasks = server.ask("POST", "/task_runs/filter", {"flow_runs": {"id": {"any_": [run]}}})
    names = sorted(task["name"] for task in tasks)
    assert [name.partition(" · ")[2] for name in names] == [
        "0 origin · measure",
        "1 prune.width",
        "1 prune.width · measure",
        "2 quantize.rtn",
        "2 quantize.rtn · measure",
    ]
    assert all(name.startswith("tiny-") for name in names)
    artifacts = server.ask("POST", "/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run]}}})
    table = next(found for found in artifacts if found["key"] == "report")
    assert "| step | 0 origin | 1 prune.width | 2 quantize.rtn |" in table["data"]
    assert any(found["type"] == "progress" for found in artifacts)
    logs = server.ask("POST", "/logs/filter", {"logs": {"flow_run_id": {"any_": [run]}}})
    assert any("2 of 2 stages to compute" in line["message"] for line in logs)
    assert not any(line["message"] == "Finished in state Completed()" for line in logs)


def registered(server: Server) -> dict[str, Content]:
    """Every deployment of the server, without what changes by itself."""
    found = server.ask("POST", "/deployments/filter", {})
    moving = ("updated", "last_polled", "status", "concurrency_limit")
    assert all(UUID(deployment["id"]) for deployment in found)
    return {one["name"]: {key: value for key, value in one.items() if key not in moving} for one in found}


def test_without_a_server_it_says_what_is_missing(folder: Path, content: Content, home: Path) -> None:
    from pipelines.deployments import deploy

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PREFECT_API_URL", raising=False)
        with pytest.raises(BadInput, match="PREFECT_API_URL is not set"):
            deploy(save(folder, content), Home.open(home))
        patch.setenv("PREFECT_API_URL", "http://me:secret@127.0.0.1:9/api")
        with pytest.raises(BadInput, match=r"server at http://127\.0\.0\.1:9/api does not answer") as told:
            deploy(save(folder, content), Home.open(home))
        assert "secret" not in str(told.value)
