"""lm-eval: what is wrong is told without it, and with it the figures are those of its own command line."""

import json
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from attar import lm_eval_folder
from attar.errors import BadInput
from attar.suite import Suite

INSTALLED = find_spec("lm_eval") is not None
needed = pytest.mark.skipif(not INSTALLED, reason="lm-eval is an extra: pip install 'attar[lm-eval]'")


def test_nothing_is_asked_and_nothing_needed_by_default() -> None:
    assert lm_eval_folder.require(Suite().lm_eval, Suite().lm_eval_folder) is None


def test_a_folder_without_a_task_named_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no task named"):
        lm_eval_folder.require([], str(tmp_path))


@pytest.mark.skipif(INSTALLED, reason="lm-eval is installed")
def test_a_missing_lm_eval_is_a_sentence() -> None:
    with pytest.raises(PackageNotFoundError):
        version("lm_eval")
    with pytest.raises(BadInput, match=r"pip install 'attar\[lm-eval\]'"):
        lm_eval_folder.require(["arc_easy"], "")


@pytest.mark.parametrize(
    "template",
    [
        r"{{ lipsum|attr('\x5f\x5fglobals\x5f\x5f') }}",
        "{{ lipsum['_' ~ '_globals_' ~ '_'].os.name }}",
        "{{ (['_', '_class_', '_']|join) | regex_replace('a', 'a') and text[['_', '_class_', '_']|join] }}",
        "{{ ('{0._' ~ '_class_' ~ '_}').format(text) }}",
        "{{ [text]|map(attribute='_' ~ '_class_' ~ '_')|first }}",
    ],
)
def test_a_template_reaches_no_python(template: str) -> None:
    """None of these has two underscores side by side; lm-eval's own environment carries all of them out."""
    from jinja2 import BaseLoader, Environment, StrictUndefined
    from jinja2.exceptions import SecurityError, UndefinedError

    from attar.lm_eval_tasks import sandboxed

    theirs = Environment(loader=BaseLoader(), undefined=StrictUndefined, keep_trailing_newline=True)
    theirs.filters["regex_replace"] = lambda text, pattern, new: text.replace(pattern, new)
    assert theirs.from_string(template).render(text="a")
    with pytest.raises((SecurityError, UndefinedError)):
        sandboxed(theirs).from_string(template).render(text="a")
    plain = "{{ text|regex_replace('a', 'b') }}: {{ [1, 2]|join(', ') }}\n"
    assert sandboxed(theirs).from_string(plain).render(text="a") == "b: 1, 2\n"


@needed
def test_wrong_folders_and_names_are_sentences(tmp_path: Path) -> None:
    from attar.lm_eval_tasks import load

    with pytest.raises(BadInput, match="is no folder"):
        lm_eval_folder.require(["mine"], str(tmp_path / "absent"))
    with pytest.raises(BadInput, match="holds no task"):
        lm_eval_folder.require(["mine"], str(tmp_path))
    with pytest.raises(BadInput, match="names a task twice"):
        lm_eval_folder.require(["mine", "mine"], "")
    task = tmp_path / "mine.yaml"
    task.write_text("task: mine\nprocess_docs: !function code.run\n")
    with pytest.raises(BadInput, match="calls Python code"):
        lm_eval_folder.require(["mine"], str(tmp_path))
    task.write_text("task: mine\n")
    assert lm_eval_folder.require(["mine"], str(tmp_path)) == tmp_path
    before = lm_eval_folder.content(tmp_path)
    task.write_text("task: mine\ndescription: else\n")
    assert lm_eval_folder.content(tmp_path) != before
    with pytest.raises(BadInput, match="no task 'mein'; did you mean 'mine'"):
        load(["mein"], tmp_path)
    from jinja2.exceptions import SecurityError
    from lm_eval.utils import apply_template  # as its tasks do

    assert apply_template("{{ text|regex_replace('a', 'b') }}\n", {"text": "a"}) == "b\n"
    with pytest.raises(SecurityError):
        apply_template("{{ lipsum['_' ~ '_globals_' ~ '_'] }}", {})


@needed
def test_figures_are_those_of_its_own_command_line(tmp_path: Path) -> None:
    import lm_eval_same

    from attar.tiny import tiny_model

    folder = tiny_model(tmp_path / "model")
    lm_eval_same.write_tasks(tmp_path / "tasks", 12, tmp_path / "store" / "dataset")
    _, here = lm_eval_same.ours(str(folder), tmp_path / "tasks", tmp_path)
    there = lm_eval_same.own(folder, tmp_path / "tasks", tmp_path / "lm-eval")
    assert {"attar_pick/acc", "attar_pick/acc_norm", "attar_write/exact_match", "attar_read/bits_per_byte"} <= set(
        there
    )
    assert here == there


def told(lm_eval_folder: Path, model: Path, *names: str) -> dict[str, float | None]:
    """What guessing gives, by task and metric, as a measurement tells it."""
    import torch

    from attar.lm_eval_tasks import answer, load
    from attar.model import Model

    asked = load(names, lm_eval_folder)
    found = answer(asked, Model(model).materialize(torch.float32), model, lambda done, total, what: None)
    return {name.removeprefix("lm_eval."): figures.get("chance") for name, _, figures in found}


@needed
def test_what_guessing_gives_is_told_where_lm_eval_tells_it(tmp_path: Path) -> None:
    """A mean over questions of two and of four choices, of which one is right, or two."""
    from attar.tiny import tiny_model

    rows = [{"text": f"Pick {i}:", "choices": ["a", "b", "c", "d"][: 4 if i % 4 else 2], "right": 1} for i in range(8)]
    rows = [{**row, "rights": [0, 1]} for row in rows]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.jsonl")}}}
    picked = {"output_type": "multiple_choice", "doc_to_choice": "{{choices}}", "doc_to_target": "{{right}}"}
    word = {"output_type": "loglikelihood", "doc_to_target": " {{choices[right]}}"}
    written = {"output_type": "generate_until", "doc_to_target": " {{choices[right]}}"}
    written |= {"generation_kwargs": {"until": ["\n"], "max_gen_toks": 4, "do_sample": False}}
    tasks: dict[str, tuple[dict[str, Any], list[str]]] = {
        "one": (picked, ["acc", "acc_norm", "f1", "exact_match"]),
        "informed": (picked, ["acc", "acc_mutual_info"]),
        "several": (picked | {"doc_to_target": "{{rights}}"}, ["acc"]),
        "word": (word, ["acc", "perplexity"]),
        "written": (written, ["exact_match"]),
    }
    for name, (task, metrics) in tasks.items():
        told_of = [{"metric": metric} for metric in metrics]
        described = {"task": name, **data, "test_split": "test", "doc_to_text": "{{text}}", **task}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(described | {"metric_list": told_of}))
    found = told(tmp_path, tiny_model(tmp_path / "model"), *tasks)
    guessed = (2 * 1 / 2 + 6 * 1 / 4) / 8
    assert found == {
        "one/acc": guessed,
        "one/acc_norm": guessed,
        "one/exact_match": 0,
        "one/f1": None,
        "informed/acc": guessed,
        "informed/acc_mutual_info": None,
        "several/acc": 2 * guessed,
        "word/acc": 0,
        "word/perplexity": None,
        "written/exact_match": 0,
    }


def test_code_of_a_task_leaves_what_guessing_gives_unknown() -> None:
    """As truthfulqa_mc2 calls acc the probability of what is true."""
    from attar.lm_eval_tasks import _chance

    rows = [{"resps": [1, 2], "metrics": ["acc"], "target": 0}]
    kind: dict[str, Any] = {"output_type": "multiple_choice"}
    assert _chance(kind, rows, "acc") == 0.5
    assert _chance(kind | {"process_results": "def found(doc, results): ..."}, rows, "acc") is None
    assert _chance({}, [], "acc") is None  # of a group
