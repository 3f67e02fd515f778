"""``attar gc`` on real homes: what it shows, what it deletes, beside a live run, and what it never touches."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from attar.errors import BadInput, StageFailed
from attar.store import COLLECTING
from pipelines import collection, embedded, inventory, mlflow_registry
from pipelines.home import Home
from pipelines.journal import Journal, NullTracker, read
from pipelines.plan import make_plan
from pipelines.process import LOCK
from pipelines.recipe import validate
from pipelines.retention import Pins, Rule

if TYPE_CHECKING:
    from tests.pipelines.conftest import Attar

ALL = Rule(keep_runs=0, older_than=0)
NOWHERE = "http://127.0.0.1:9"  # the discard port: nothing listens
LONG_AGO = time.time() - 90 * 86400


@pytest.fixture
def place(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """A home of its own, with the quiet environment of a run, for this test only."""
    with monkeypatch.context() as patch:
        for name in ("PREFECT_HOME", "MLFLOW_HTTP_REQUEST_MAX_RETRIES"):
            patch.setenv(name, "0")
        home.mkdir()
        embedded.configure(Home(home))
        yield Home(home)


def fingerprint(letter: str) -> str:
    return letter * 20


def store(home: Home, kind: Any, letter: str, **inputs: str) -> Path:
    """An old artifact."""
    draft = home.store.draft(kind, fingerprint(letter))
    (draft / "weights").write_bytes(b"w" * 100)
    folder = home.store.commit(kind, fingerprint(letter), draft, {"inputs": inputs}).folder
    age(folder)
    return folder


def age(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        os.utime(path, (LONG_AGO, LONG_AGO), follow_symlinks=False)


def ran(home: Home, run: str, *needs: str, end: bool = True, begun: float = LONG_AGO) -> Path:
    """A run whose plan names these fingerprints."""
    folder = home.runs / run
    folder.mkdir(parents=True)
    journal = Journal(folder, NullTracker())
    journal.write("run", run=run, name="r", plan=[{"fingerprint": need} for need in needs], recipe={"track": {}})
    if end:
        journal.write("end-run", status="finished", text="", files=[])
    journal.close()
    lines = [json.loads(line) | {"time": begun} for line in (folder / "journal.jsonl").read_text().splitlines()]
    (folder / "journal.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    age(folder)
    return folder


def left(home: Home) -> set[str]:
    return {item.name[0] for item in inventory.read_items(home) if item.sort != "run"}


def test_without_yes_nothing_changes(place: Home) -> None:
    store(place, "model", "a")
    ran(place, "r1", fingerprint("a"))
    before = sorted(place.root.rglob("*"))
    shown = collection.collect(place, ALL, delete=False).as_json()
    assert sorted(place.root.rglob("*")) == before
    assert shown["kinds"]["model"]["count"] == shown["kinds"]["run"]["count"] == 1 and not shown["deleted"]
    assert shown["bytes"] == sum(path.stat().st_size for path in before if path.is_file() and "locks" not in str(path))
    done = collection.collect(place, ALL, delete=True).as_json()
    assert done["deleted"] and done["kinds"] == shown["kinds"]
    assert not any(place.runs.iterdir()) and not any((place.root / "store" / "tmp").iterdir())
    assert left(place) == set()


def test_a_live_run_keeps_what_its_plan_names_and_a_later_run_finds_whole_or_nothing(place: Home) -> None:
    for letter in "abc":
        store(place, "model", letter, **({"source": fingerprint("a")} if letter == "b" else {}))
    ran(place, "r1", fingerprint("b"), end=False, begun=time.time() - 10)
    result = collection.collect(place, ALL, delete=True)
    assert [item.name for item in result.items] == [fingerprint("c")]
    assert left(place) == {"a", "b"} and (place.runs / "r1").is_dir()
    assert place.store.find("model", fingerprint("c")) is None
    place.store.open("model", fingerprint("b"))


def test_what_is_locked_is_left_alone(place: Home) -> None:
    store(place, "model", "a")
    (place.store.state(fingerprint("b"))).mkdir(parents=True)
    age(place.store.state(fingerprint("b")))
    with place.store.lock(fingerprint("a")), place.store.lock(fingerprint("b")):
        result = collection.collect(place, ALL, delete=True)
        assert {item.name[0] for item in result.busy} == {"a", "b"} == left(place)
    collection.collect(place, ALL, delete=True)
    assert left(place) == set()


def test_while_a_run_is_planned_nothing_is_deleted(place: Home) -> None:
    store(place, "model", "a")
    with place.store.lock(COLLECTING, shared=True), place.store.lock(COLLECTING, shared=True):
        with pytest.raises(BadInput, match=r"is being planned, .* try again"):
            collection.collect(place, ALL, delete=True)
    assert left(place) == {"a"}


def test_the_registry_is_read_after_the_runs_and_while_none_can_begin(
    place: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a run registered until it was found ended is pinned."""
    kept, asked, pins = store(place, "model", "a"), [], mlflow_registry.pins

    def late(home: Home) -> Pins:
        with home.store.lock(COLLECTING, shared=True, wait=False) as free:
            asked.append(free)
        return replace(pins(home), fingerprints=frozenset({kept.name}))

    monkeypatch.setattr(mlflow_registry, "pins", late)
    collection.collect(place, ALL, delete=True)
    assert asked == [False] and kept.is_dir()


def test_links_and_strangers_are_left_alone(place: Home, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / fingerprint("d")).mkdir(parents=True)
    (outside / "precious").write_text("x")
    folder = store(place, "model", "a")
    (folder / "link").symlink_to(outside)
    (folder.parent / fingerprint("e")).symlink_to(outside)
    (folder.parent / "my own notes").mkdir()
    (place.root / "store" / "evaluation").symlink_to(outside)
    (place.root / "store" / "tmp" / "notes").mkdir(parents=True)
    run = ran(place, "r1")
    (run / "models").mkdir()
    (run / "models" / "1").symlink_to(outside, target_is_directory=True)
    for path in (place.root, outside):
        age(path)
    collection.collect(place, ALL, delete=True)
    assert not folder.exists() and not run.exists()
    assert (outside / "precious").read_text() == "x" and (outside / fingerprint("d")).is_dir()
    assert (folder.parent / "my own notes").is_dir() and (folder.parent / fingerprint("e")).is_symlink()
    assert (place.root / "store" / "tmp" / "notes").is_dir()


def test_a_damaged_journal_stops_everything(place: Home) -> None:
    store(place, "model", "a")
    with open(ran(place, "r1") / "journal.jsonl", "a") as file:
        file.write("{half a record\n")
    with pytest.raises(BadInput, match=r"journal of the run r1 is damaged .* nothing is deleted"):
        collection.collect(place, ALL, delete=True)
    assert left(place) == {"a"}


def test_names_by_path_count_as_names(place: Home, tmp_path: Path) -> None:
    folder = store(place, "model", "a")
    link = tmp_path / "link"
    link.symlink_to(folder)
    for text in (str(folder), str(folder / "weights"), folder.as_uri(), str(link), fingerprint("a")):
        assert inventory.named(place, [{"x": (text,)}]) == {fingerprint("a")}, text
    assert inventory.named(place, ["/etc/passwd", "a" * 19, "runs:/abc/weights", None, 3, f"\n{folder}"]) == set()


def test_registered_models_keep_their_weights(place: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.tracking import MlflowClient

    folders = {letter: store(place, "model", letter) for letter in "abcd"}
    client = MlflowClient(tracking_uri=place.mlflow_uri)
    experiment = client.create_experiment("attar", artifact_location=place.mlflow_artifacts.as_uri())
    run = client.create_run(experiment, tags={"weights.folder": str(folders["a"]), "attar.run": "r1"}).info.run_id
    folder = ran(place, "r1")
    (folder / mlflow_registry.RUNS).write_text(json.dumps({"experiment": experiment, "runs": {"parent": run}}))
    client.create_registered_model("line")
    client.create_model_version("line", f"runs:/{run}/weights", run_id=run)
    client.create_model_version("line", "elsewhere", tags={"weights.folder": str(folders["b"])})
    external = client.create_logged_model(experiment, tags={"fingerprint": fingerprint("c")})
    with monkeypatch.context() as patch:  # MLflow looks for the logged model where the environment says
        patch.setenv("MLFLOW_TRACKING_URI", place.mlflow_uri)
        client.create_model_version("line", f"models:/{external.model_id}", model_id=external.model_id)
    assert mlflow_registry.pins(place) == Pins(frozenset(map(fingerprint, "abc")), frozenset({"r1"}))
    collection.collect(place, ALL, delete=True)
    assert left(place) == {"a", "b", "c"} and folder.is_dir()

    store(place, "model", "d")
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{place.root / 'another.db'}")
        with pytest.raises(BadInput, match=r"run r1 was tracked by an MLflow that is not .*set MLFLOW_TRACKING_URI"):
            collection.collect(place, ALL, delete=True)
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", NOWHERE.replace("//", "//user:word@"))
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        with pytest.raises(StageFailed, match=r"cannot be asked .* nothing is deleted") as error:
            collection.collect(place, ALL, delete=True)
        assert "word" not in str(error.value)
    assert left(place) == {"a", "b", "c", "d"}


def test_a_dead_run_is_closed_in_mlflow_before_its_folder_goes(place: Home) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=place.mlflow_uri)
    experiment = client.create_experiment("attar", artifact_location=place.mlflow_artifacts.as_uri())
    ids = {name: client.create_run(experiment).info.run_id for name in ("died", "lives")}
    for name, run in ids.items():
        folder = ran(place, name, end=False)
        (folder / mlflow_registry.RUNS).write_text(json.dumps({"experiment": experiment, "runs": {"parent": run}}))
    (place.runs / "died" / LOCK).unlink()
    assert [item.name for item in collection.collect(place, ALL, delete=True).items] == ["died"]
    assert {name: client.get_run(run).info.status for name, run in ids.items()} == {
        "died": "KILLED",
        "lives": "RUNNING",
    }


def test_beside_a_run(attar: "Attar", finished: dict[str, Any], text: Path, tmp_path: Path) -> None:
    """An old home, a run in its last stage, everything collected that can be: the run is not disturbed."""
    beside = type(attar)(tmp_path / "home", text)
    shutil.copytree(attar.home / "store", beside.home / "store", symlinks=True)
    home = Home(beside.home)
    age(beside.home)
    store(home, "model", "a")
    needed = [row["fingerprint"] for row in finished["rows"]]
    last = needed.pop()
    ran(home, "old", last)
    process = subprocess.Popen(
        beside.command("run", "stages.3.train_tokens=1_000_000", "--no-track"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while not (found := list(beside.home.glob("runs/*/jobs/4-*-stage/events.jsonl"))):
        assert process.poll() is None
        time.sleep(0.05)
    folder = found[0].parents[2]
    everything = ("--keep-runs", "0", "--older-than", "0d")
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.cli", "gc", "--home", str(beside.home), "--yes", "--json", *everything],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    gone = {item["name"] for item in json.loads(done.stdout)["items"]}
    assert process.poll() is None
    process.terminate()
    assert process.wait() == 130
    assert {fingerprint("a"), last, "old"} <= gone and not gone & set(needed)
    ends = [(r["step"], r["status"]) for r in beside.records(folder.name, "end-step")]
    assert ends == [(0, "finished"), (1, "finished"), (2, "finished"), (3, "finished"), (4, "cancelled")]
    for artifact in needed:
        home.store.open("model", artifact)
    steps = beside("plan")["steps"]
    assert all(step["cached"] and step["measured"] for step in steps[:4])
    assert not steps[4]["cached"] and not steps[4]["measured"]  # the next run makes it again


def test_beside_a_gate_that_tries_values(
    document: dict[str, Any], home: Path, tmp_path: Path, write: Callable[[Any], Path]
) -> None:
    """A probe waits for its last stage; the old model that it goes on from is needed by nothing else."""
    prune, rtn = document["stages"]
    document["stages"] = [prune | {"ffn": 0.5}, rtn]
    elsewhere, place = Home(tmp_path / "planned"), Home(home)
    limit = make_plan(validate(document), elsewhere, complete=True).steps[-1].facts.parameters
    bisect = {"setting": "stages.0.ffn", "within": [0.7, 0.1], "probes": 3}
    gated = document | {
        "stages": [prune | {"ffn": 0.1}, rtn],
        "gates": [{"measure": "parameters", "max": limit, "breach": {"bisect": bisect}}],
    }
    document["stages"] = [prune | {"ffn": 0.6}, rtn]  # the first value that is tried
    _, cut, rounded = make_plan(validate(document), elsewhere, complete=True).steps

    def attar(verb: str, *more: str) -> list[str]:
        return [sys.executable, "-m", "pipelines.cli", verb, *more, "--home", str(home)]

    early = write(document | {"stages": document["stages"][:1]})
    subprocess.run(attar("run", str(early), "--no-track"), check=True, capture_output=True)
    (old,) = place.runs.iterdir()
    records = [record | {"time": LONG_AGO} for record in read(old)]
    (old / "journal.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    age(home)
    store(place, "model", "a")
    with place.store.lock(rounded.made.fingerprint):
        process = subprocess.Popen(attar("run", str(write(gated)), "--no-track"), stdout=-1, stderr=-1)
        while not (waiting := list(place.runs.glob("*/jobs/gate-0-probe-1/2-*/events.jsonl"))):
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        done = subprocess.run(
            attar("gc", "--yes", "--json", "--keep-runs", "0", "--older-than", "0d"), capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    gone = {item["name"] for item in json.loads(done.stdout)["items"]}
    assert {fingerprint("a"), old.name} <= gone and cut.made.fingerprint not in gone
    _, complaints = process.communicate()
    assert process.returncode == 0, complaints
    jobs = [record["label"] for record in read(waiting[0].parents[3]) if record["kind"] == "child"]
    assert "gate 0 probe 1 · 2 quantize.rtn" in jobs and "gate 0 probe 1 · 1 prune.width" not in jobs
