"""Whatever is wrong with what is asked ends in one sentence and exit code 2, before anything is computed."""

import json
import pickle
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from attar.tiny import tiny_model
from pipelines.cli import main

Recipe = dict[str, Any]


class Case:
    """A valid recipe in a folder of its own, which a test spoils, and the command line that is run on it."""

    def __init__(self, folder: Path, recipe: Recipe, model: Path) -> None:
        self.folder = folder
        self.recipe = recipe
        self.model = model
        self.text: str | bytes | None = None  # instead of the recipe
        self.arguments: list[str] = []
        self.path = folder / "recipe.yaml"
        self.home = folder / "home"

    def copy_model(self) -> Path:
        copy = self.folder / "copy"
        shutil.copytree(self.model, copy)
        self.recipe["model"] = str(copy)
        return copy

    def data(self, name: str, text: str | bytes) -> Path:
        path = self.folder / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        self.recipe["data"] = {"source": str(path)}
        return path

    def command(self, verb: str) -> list[str]:
        if self.text is not None:
            self.path.write_bytes(self.text.encode() if isinstance(self.text, str) else self.text)
        elif not self.path.exists() and self.recipe:
            self.path.write_text(yaml.safe_dump(self.recipe, sort_keys=False))
        return [verb, str(self.path), *self.arguments, "--home", str(self.home)]


Spoil = Callable[[Case], object]
CASES: dict[str, tuple[Spoil, str]] = {}


def case(name: str, words: str) -> Callable[[Spoil], Spoil]:
    """Register what spoils a recipe and the words its sentence must hold."""

    def register(spoil: Spoil) -> Spoil:
        CASES[name] = (spoil, words)
        return spoil

    return register


def setting(index: int, **values: Any) -> Spoil:
    return lambda c: c.recipe["stages"][index].update(values)


def text(content: str | bytes) -> Spoil:
    return lambda c: setattr(c, "text", content)


def override(*arguments: str) -> Spoil:
    return lambda c: c.arguments.extend(arguments)


def top(**values: Any) -> Spoil:
    return lambda c: c.recipe.update(values)


# Stages and their settings.
CASES |= {
    "unknown stage": (setting(0, stage="prune.widht"), "did you mean 'prune.width'"),
    "stage that is no text": (setting(0, stage=7), "one of: generate.responses"),
    "typo in a setting": (setting(0, ffm=0.2), "did you mean 'ffn'"),
    "wrong type": (setting(0, ffn="much"), "ffn='much'"),
    "out of bounds": (setting(0, ffn=1.5), "less than 1"),
    "group size that does not divide": (setting(1, group_size=48), "group_size"),
    "bits not supported": (setting(1, bits=5), "bits=5: Input should be 2, 3, 4 or 8"),
    "pruning to nothing": (setting(0, ffn=0.99), "leaves none of 192 channels"),
    "no stages": (top(stages=[]), "stages"),
    "a number or a list that is neither": (
        top(stages=[{"stage": "distill.logit", "keep": "half"}]),
        "keep='half': Input should be a valid integer or a valid number or a valid list",
    ),
    "a share of more than all": (
        top(stages=[{"stage": "distill.logit", "keep": 1.5}]),
        "keep=1.5: Input should be less",
    ),
    "a list with a bad entry": (
        top(stages=[{"stage": "prune.depth", "layers": [0, -1]}]),
        "layers.1=-1: Input should be",
    ),
    "no layers at all": (
        top(stages=[{"stage": "prune.depth", "layers": []}]),
        "layers=[]: List should have at least 1",
    ),
    "repetition misspelt": (top(stages=[{"repeat": 3, "stgaes": [{}]}]), "did you mean 'stages'"),
    "repetition of nothing": (top(stages=[{"repeat": 3}]), "the setting 'stages' is missing"),
    "prune after quantize": (lambda c: c.recipe["stages"].reverse(), "quantized already"),
    "train integers as floats": (lambda c: c.recipe["stages"].append({"stage": "finetune.full"}), "finetune.scales"),
    "scales of a dense model": (top(stages=[{"stage": "finetune.scales"}]), "dense"),
    "distil a quantized model": (lambda c: c.recipe["stages"].append({"stage": "distill.logit"}), "distill.logit"),
    "quantize twice": (lambda c: c.recipe["stages"].append({"stage": "quantize.gptq"}), "quantized"),
}

CASES |= {
    f"{role} misspelt": (
        top(stages=[{"stage": "distill.logit", role: word, **({"keep": 3} if role == "teacher" else {})}]),
        f"stages.0: distill.logit: {role}: the model {word!r} does not exist",
    )
    for role, word in (("student", "frehs"), ("teacher", "orgin"))
}

# Responses.
ENDPOINT = {"url": "http://127.0.0.1:9/v1", "model": "m", "terms_accepted": True}  # port 9: nobody listens

RESPONSE = {"stage": "distill.response", "keep": 3}


def asking(**values: Any) -> Spoil:
    return top(stages=[{"stage": "generate.responses", **values}, RESPONSE])


CASES |= {
    "no responses to learn from": (top(stages=[RESPONSE]), "put generate.responses before it"),
    "prompts missing": (asking(prompts="absent.jsonl"), "absent.jsonl does not exist"),
    "prompts of an unknown kind": (asking(prompts=__file__), "possible: .txt, .jsonl, .parquet"),
    "pairs missing": (top(stages=[RESPONSE | {"responses": "absent.jsonl"}]), "absent.jsonl"),
    "terms not accepted": (asking(endpoint=ENDPOINT | {"terms_accepted": False}), "terms_accepted to true"),
    "key not in the environment": (asking(endpoint=ENDPOINT | {"key_variable": "NO_SUCH_KEY"}), "NO_SUCH_KEY"),
    "endpoint that nobody answers at": (asking(endpoint=ENDPOINT), "cannot be reached"),
    "endpoint at a port that cannot be": (
        asking(endpoint=ENDPOINT | {"url": "http://x:99999/v1"}),
        "cannot be reached",
    ),
    "endpoint without a model": (asking(endpoint={"url": "http://x/v1"}), "the setting 'endpoint.model' is missing"),
    "endpoint by no web address": (asking(endpoint=ENDPOINT | {"url": "ftp://x"}), "possible: base address, such as"),
    "endpoint that is a text": (asking(endpoint="http://x/v1"), "Input should be a mapping of its own settings"),
    "endpoint with a typo": (asking(endpoint=ENDPOINT | {"modle": "x"}), "did you mean 'model'"),
    "people without a share": (
        top(stages=[{"stage": "distill.response", "responses": "x.jsonl", "human": "y.jsonl"}]),
        "go together",
    ),
}

# Recipe files.
CASES |= {
    "recipe missing": (lambda c: setattr(c, "path", c.folder / "absent.yaml") or c.recipe.clear(), "does not exist"),
    "recipe is a folder": (lambda c: c.path.mkdir(), "is a folder"),
    "recipe empty": (text(""), "is empty"),
    "recipe of comments": (text("# nothing\n"), "is empty"),
    "not YAML": (text("name: [unclosed\nmodel: {"), "is not YAML"),
    "a list": (text("- name: x\n- model: y\n"), "holds a list"),
    "a text": (text("just words"), "holds a text"),
    "not UTF-8": (text(b"name: \xff\xfe\x00"), "not UTF-8"),
    "control characters": (text("name: \x00x"), "is not YAML"),
    "cycle of anchors": (text("name: &a [*a]\nmodel: x\nstages: []\n"), "contains itself"),
    "cycle of merges": (text("a: &a\n  <<: *a\n"), "recipe"),
    "explosion of aliases": (
        text(
            "a: &a [x,x,x,x,x,x,x,x,x]\n"
            + "".join(f"{b}: &{b} [{','.join(['*' + a] * 9)}]\n" for a, b in zip("abcdef", "bcdefg", strict=True))
        ),
        "too large",
    ),
    "nested without end": (text("a: " + "[" * 5000), "recipe"),
    "key that is no text": (text("1: x\n"), "is not a string"),
    "key twice": (text("name: a\nname: b\n"), "is there twice"),
    "number without end": (text("seed: " + "9" * 5000), "recipe"),
    "unknown key": (top(modle="x"), "did you mean 'model'"),
    "key in the wrong place": (top(measure={"seed": 1}), "'seed' is a key of the top level"),
    "yes where a number is asked": (top(measure={"choices": True}), "it means: questions which of four functions"),
    "key missing": (lambda c: c.recipe.pop("model"), "'model' is missing"),
    "name that leaves the folder": (top(name="../evil"), "name='../evil'"),
    "experiment that leaves the folder": (top(track={"experiment": "../x"}), "track.experiment"),
    "task not supported": (top(task="translation"), "causal-lm"),
    "seed negative": (top(seed=-1), "seed=-1"),
    "device that is not there": (top(device="cuda:7"), "does not exist"),
    "device unknown": (top(device="tpu"), "auto, cpu, cuda"),
    "dtype unknown": (top(dtype="float16"), "dtype='float16'"),
}

# Overrides.
CASES |= {
    "override of an unknown key": (override("sead=1"), "did you mean 'seed'"),
    "override of an unknown part": (override("data.sauce=x"), "did you mean 'source'"),
    "override of an unknown setting": (override("stages.0.fnn=0.1"), "did you mean 'ffn'"),
    "override of a stage that is not there": (override("stages.9.ffn=0.1"), "counted from 0"),
    "override of a key in a text": (override("name.x=1"), "single value"),
    "override without a value": (override("stages.0.ffn"), "KEY=VALUE"),
    "override that is not YAML": (override("seed=[1"), "is not YAML"),
}


@case("python tag", "python")
def _(c: Case) -> None:
    c.text = f"name: !!python/object/apply:os.system ['touch {c.folder}/ran']\n"


@case("recipe too large", "at most")
def _(c: Case) -> None:
    c.text = "# " + "x" * 1_100_000


# Models.
@case("model missing", "does not exist")
def _(c: Case) -> None:
    c.recipe["model"] = str(c.folder / "absent")


@case("model without config", "no config.json")
def _(c: Case) -> None:
    (c.copy_model() / "config.json").unlink()


@case("model with a broken config", "config.json")
def _(c: Case) -> None:
    (c.copy_model() / "config.json").write_text("{")


@case("model of an unknown family", "is not supported")
def _(c: Case) -> None:
    config = c.copy_model() / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model_type": "lama"}))


@case("safetensors truncated", "safetensors")
def _(c: Case) -> None:
    weights = c.copy_model() / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


@case("safetensors corrupt", "safetensors")
def _(c: Case) -> None:
    weights = c.copy_model() / "model.safetensors"
    weights.write_bytes(b"\xff" * 64 + weights.read_bytes()[64:])


@case("weights of another shape", "config.json asks for")
def _(c: Case) -> None:
    config = c.copy_model() / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"intermediate_size": 128}))


@case("pickle only", "pickle")
def _(c: Case) -> None:
    folder = c.copy_model()
    (folder / "model.safetensors").unlink()

    class Touch:
        def __reduce__(self) -> Any:
            return Path.touch, (c.folder / "ran",)

    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Touch()))


@case("model without a tokenizer", "no tokenizer.json")
def _(c: Case) -> None:
    (c.copy_model() / "tokenizer.json").unlink()


@case("file that is no GGUF", "GGUF")
def _(c: Case) -> None:
    path = c.folder / "x.gguf"
    path.write_bytes(b"nothing")
    c.recipe["model"] = str(path)


@case("model package not installed", "is not installed")
def _(c: Case) -> None:
    c.recipe["model"] = "package:no-such-model-anywhere"


@case("teacher with another tokenizer", "tokenizer")
def _(c: Case) -> None:
    teacher = tiny_model(c.folder / "teacher")
    tokenizer = json.loads((teacher / "tokenizer.json").read_text())
    tokenizer["added_tokens"].append(tokenizer["added_tokens"][0] | {"id": 511, "content": "<other>"})
    (teacher / "tokenizer.json").write_text(json.dumps(tokenizer))
    c.recipe["stages"] = [{"stage": "distill.logit", "keep": 2, "teacher": str(teacher), "length": 64}]


@case("teacher missing", "does not exist")
def _(c: Case) -> None:
    c.recipe["stages"] = [{"stage": "distill.logit", "keep": 2, "teacher": str(c.folder / "absent"), "length": 64}]


# Data.
@case("data file missing", "absent.txt")
def _(c: Case) -> None:
    c.recipe["data"] = {"source": str(c.folder / "absent.txt")}


@case("data file empty", "empty.txt")
def _(c: Case) -> None:
    c.data("empty.txt", "")


@case("data without the column", "column")
def _(c: Case) -> None:
    c.data("rows.jsonl", '{"title": "x"}\n' * 5)


@case("data with one short line", "too short")
def _(c: Case) -> None:
    c.data("short.txt", "one line\n")


@case("data too short for the windows", "too short")
def _(c: Case) -> None:
    c.data("some.txt", "a sentence of some words, again and again\n" * 20)


@case("data not UTF-8", "UTF-8")
def _(c: Case) -> None:
    c.data("bytes.txt", b"\xff\xfe" * 500)


@case("data of an unknown kind", ".docx")
def _(c: Case) -> None:
    c.data("text.docx", "words " * 500)


@case("home that cannot be written", "cannot be written")
def _(c: Case) -> None:
    (c.folder / "file").write_text("")
    c.home = c.folder / "file" / "home"


@pytest.fixture
def spoiled(tmp_path: Path, document: Recipe, model: Path, request: pytest.FixtureRequest) -> tuple[Case, str]:
    spoil, words = CASES[request.param]
    made = Case(tmp_path, document, model)
    spoil(made)
    return made, words


@pytest.mark.parametrize("verb", ["plan", "run"])
@pytest.mark.parametrize("spoiled", CASES, indirect=True)
def test_bad_input_is_one_sentence(spoiled: tuple[Case, str], verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    made, words = spoiled
    with pytest.raises(SystemExit) as end:
        main(made.command(verb))
    output = capsys.readouterr()
    assert end.value.code == 2, output.err
    assert output.out == ""
    assert output.err.startswith("error: ") and output.err.count("\n") == 1
    assert words in output.err
    assert len(output.err) < 1000
    assert not (made.folder / "ran").exists(), "code of the input was run"
    assert not list(made.home.glob("runs/*")) and not list(made.home.glob("store/model/*")), "something was computed"


def test_disk_too_small(
    document: Recipe, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file system with next to no room, as the operating system would report it."""
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**6, 10**6 - 1000, 1000))
    with pytest.raises(SystemExit) as end:
        main(Case(tmp_path, document, model).command("plan"))
    assert end.value.code == 2
    assert "make room" in capsys.readouterr().err


def test_the_unspoiled_recipe_is_planned(
    document: Recipe, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(Case(tmp_path, document, model).command("plan"))
    assert end.value.code == 0
    assert "will run" in capsys.readouterr().out
