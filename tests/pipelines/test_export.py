"""Models handed out: what the store has, byte for byte, opened by the code on their cards in a foreign process."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from attar.errors import BadInput, StageFailed
from attar.model import Model
from attar.store import Store
from pipelines import export as exporting
from pipelines.export import Export, export
from pipelines.home import Home
from pipelines.lineage import find

from .conftest import Attar, Shelf

# Runs the code on each card as a reader would: in the folder, and knowing nothing of Attar.
READER = """
import os, re, sys
import torch
from safetensors.torch import save_file

assert not any(name.split(".")[0] in ("attar", "stages", "pipelines") for name in sys.modules)
ids = torch.arange(0, 512).view(4, 128)
for folder in sys.argv[1:]:
    os.chdir(folder)
    code = re.search(r"```python\\n(.*?)```", open("README.md", encoding="utf-8").read(), re.DOTALL)[1]
    found = {}
    exec(code, found)
    assert len(found["written"][0]) > 1
    with torch.no_grad():
        save_file({"logits": found["model"](ids).logits.float()}, f"{folder}.read.safetensors")
"""


@pytest.fixture(scope="module")
def quantized(attar: Attar, text: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Runs in the same home: one that puts an adapter beside INT4, one that gives some modules other bits."""
    lora = {"stage": "finetune.lora", "train_tokens": 1024, "batch": 4, "length": 32, "r": 4, "alpha": 0.5}
    chains: dict[str, list[dict[str, Any]]] = {
        "adapter": [{"stage": "quantize.rtn", "group_size": 16}, lora],
        "mixed": [{"stage": "quantize.rtn", "group_size": 16, "bits_of": {"*.down_proj": 8}}],
    }
    runs = {}
    for name, chain in chains.items():
        document = {"name": name, "model": "random:llama", "data": {"source": str(text)}, "stages": chain}
        file = tmp_path_factory.mktemp("recipe") / f"{name}.yaml"
        file.write_text(yaml.safe_dump(document | {"measure": {"windows": 4, "length": 64, "speed": False}}))
        command = [sys.executable, "-m", "pipelines.cli", "run", str(file), "--home", str(attar.home), "--json"]
        done = subprocess.run([*command, "--no-track"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        runs[name] = str(json.loads(done.stdout)["run"])
    return runs


@pytest.fixture(scope="module")
def folders(
    attar: Attar, finished: dict[str, Any], quantized: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Export, Path]]:
    """Every kind of model that stages make: what was handed out, and the folder in the store."""
    place, home = tmp_path_factory.mktemp("out"), Home(attar.home)
    asked = {
        "pruned": (finished["run"], 2),
        "gptq": (finished["run"], 3),
        "scales": (finished["run"], None),
        "rtn": (quantized["adapter"], 1),
        "adapter": (quantized["adapter"], None),
        "mixed": (quantized["mixed"], None),
    }
    made = {}
    for name, (run, step) in asked.items():
        made[name] = (export(home, run, place / name, step), find(home, run, step).artifact.folder)
    environment = {**os.environ, "GPTQMODEL_CPU_WORKERS": "2", "HF_HUB_OFFLINE": "1", "TORCHDYNAMO_DISABLE": "1"}
    environment.pop("PYTHONPATH", None)
    command = [sys.executable, "-c", READER, *(one.folder for one, _ in made.values())]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=place)
    assert done.returncode == 0, done.stderr[-2000:]
    return made


@pytest.mark.parametrize("kind", ["pruned", "gptq", "scales", "rtn", "adapter", "mixed"])
def test_the_code_on_the_card_opens_the_function_of_the_stores_model(
    folders: dict[str, tuple[Export, Path]], kind: str
) -> None:
    made, stored = folders[kind]
    found = load_file(f"{made.folder}.read.safetensors")["logits"].log_softmax(-1)
    with torch.no_grad():
        expected = Model(stored).materialize(torch.float32)(torch.arange(0, 512).view(4, 128)).logits.log_softmax(-1)
    assert float((expected.exp() * (expected - found)).sum(-1).mean()) < 0.002
    assert made.proof == {"same": True, "difference": 0.0, "greedy": 64, "tokens": 64, "tokenizer": True}


@pytest.mark.parametrize("kind", ["pruned", "scales", "adapter"])
def test_a_copy_has_the_stores_bytes_and_a_card_and_shares_nothing_with_it(
    folders: dict[str, tuple[Export, Path]], attar: Attar, kind: str
) -> None:
    made, stored = folders[kind]
    artifact = Store(attar.home / "store").open("model", made.fingerprint)
    assert set(made.files) == {*artifact.manifest["files"], "README.md"}
    for name in artifact.manifest["files"]:
        copy = Path(made.folder, name)
        assert copy.read_bytes() == (stored / name).read_bytes()
        assert not copy.is_symlink() and copy.stat().st_ino != (stored / name).stat().st_ino
    assert {path.name for path in stored.iterdir()} == {Path(name).parts[0] for name in artifact.manifest["files"]} | {
        "manifest.json"
    }
    assert not list(Path(made.folder).parent.glob(".*"))
    assert made.bytes == sum(path.stat().st_size for path in Path(made.folder).rglob("*") if path.is_file())


def test_a_fingerprint_names_the_same_model_and_the_command_says_where_it_lies(
    attar: Attar, folders: dict[str, tuple[Export, Path]], finished: dict[str, Any], tmp_path: Path
) -> None:
    made, _ = folders["pruned"]
    command = [sys.executable, "-m", "pipelines.cli", "export", made.fingerprint, "mine", "--home", str(attar.home)]
    (tmp_path / "mine").mkdir()  # empty: it gives way
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["folder"] == str(tmp_path / "mine") and (told["run"], told["step"]) == (finished["run"], 2)
    assert (tmp_path / "mine/README.md").read_bytes() == Path(made.folder, "README.md").read_bytes()
    again = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert again.returncode == 2 and "is not empty" in again.stderr


def test_the_beginning_of_a_fingerprint_names_the_one_model_that_has_it(shelf: Shelf, model: Path) -> None:
    """As pages print it; of several models, and of a run that is called so, nothing is guessed."""
    ones = ("abcdef0123" + "0" * 10, "abcdef0199" + "0" * 10)
    for fingerprint in ones:
        draft = shelf.home.store.draft("model", fingerprint)
        shutil.copytree(model, draft, dirs_exist_ok=True)
        shelf.home.store.commit("model", fingerprint, draft, {"inputs": {}, "settings": {"stage": "x"}})
    assert {find(shelf.home, one[:length]).artifact.fingerprint for one in ones for length in (9, 12, 20)} == set(ones)
    with pytest.raises(BadInput, match=f"of 2 models begin with abcdef; give more of {ones[0]} or {ones[1]}"):
        find(shelf.home, "abcdef")
    shelf.run("r1", "mine", ("m", 50_000_000, 0.1))
    for name in ("abcde", "abcdeg", "*bcdef0123", "abcdef01*"):
        with pytest.raises(BadInput, match="there is no run"):
            find(shelf.home, name)
    with pytest.raises(BadInput, match=r"neither a run is called 123456 in .* nor does a model's fingerprint begin so"):
        find(shelf.home, "123456")
    shelf.run("20261123", "dated", ("n", 50_000_000, 0.1))
    assert find(shelf.home, "20261123").run == "20261123"


@pytest.mark.parametrize(
    ("name", "step", "said"),
    [
        ("../../etc", None, "there is no run '../../etc'"),
        ("/etc", None, "there is no run '/etc'"),
        ("0" * 20, None, "there is no complete model"),
        ("RUN", 9, "made nothing in step 9; its models: 1 distill.logit"),
        ("RUN", 0, "the origin, which is its own model"),
        ("MODEL", 1, "--step chooses among those of a run"),
    ],
)
def test_what_names_no_model_is_a_sentence(
    attar: Attar, finished: dict[str, Any], tmp_path: Path, name: str, step: int | None, said: str
) -> None:
    asked = {"RUN": finished["run"], "MODEL": finished["rows"][-1]["fingerprint"]}.get(name, name)
    with pytest.raises(BadInput, match=said):
        export(Home(attar.home), asked, tmp_path / "deep" / "out", step)
    assert not list(tmp_path.iterdir())


def test_a_place_that_is_taken_or_the_stores_own_is_refused(
    attar: Attar, finished: dict[str, Any], tmp_path: Path
) -> None:
    home = Home(attar.home)
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full/theirs").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "inside").symlink_to(home.store.root)
    places = ["file", "full", "link", "inside/mine", "file/below"]
    deep = [tmp_path / "inside/a/b/mine", home.store.root / "a/b/mine", home.runs / "a/mine"]
    for place in [*(tmp_path / name for name in places), home.store.root / "mine", home.runs / "mine", *deep]:
        with pytest.raises(BadInput, match=r"name (a new|another)"):
            export(home, finished["run"], place)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "full", "inside", "link"]
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["theirs"]
    assert not (home.store.root / "a").exists() and not (home.runs / "a").exists()


def test_a_damaged_artifact_is_not_handed_out(shelf: Shelf, tmp_path: Path) -> None:
    row = shelf.run("1", "small", ("small", 1000, 0.1))[-1]
    stored = Path(row.folder, "model.safetensors")
    whole = stored.read_bytes()
    stored.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(StageFailed, match="is not what was stored"):
        export(shelf.home, row.fingerprint, tmp_path / "out" / "mine")
    assert not list((tmp_path / "out").iterdir())


def test_licence_template_and_notices_of_the_origin_go_along(shelf: Shelf, model: Path, tmp_path: Path) -> None:
    theirs = Path(shutil.copytree(model, tmp_path / "theirs"))
    (theirs / "chat_template.jinja").write_text("{{ messages[0].content }}")
    own = Shelf(shelf.home, theirs)
    row = own.run("1", "small", ("small", 1000, 0.1))[-1]
    (theirs / "README.md").write_text("---\nlicense: mit\n---\n# Theirs\n")
    for name in ("LICENSE", "NOTICE.txt", "secrets.txt", "LICENSE\n.md"):
        (theirs / name).write_text(name)
    made = export(shelf.home, row.fingerprint, tmp_path / "out")
    assert {"LICENSE", "NOTICE.txt", "chat_template.jinja"} < set(made.files) and made.licence == "mit"
    assert not {"secrets.txt", "LICENSE\n.md"} & set(made.files)
    card = (tmp_path / "out/README.md").read_text()
    assert "# Theirs" not in card and "apply_chat_template" in card


def test_a_disk_that_is_too_full_is_said_before_anything_is_written(
    attar: Attar, finished: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting.machine, "free_disk", lambda folder: 1000)
    with pytest.raises(BadInput, match="make room"):
        export(Home(attar.home), finished["run"], tmp_path / "out")
    assert not list(tmp_path.iterdir())
