"""lm-eval: what is wrong is told without it, and with it the figures are those of its own command line."""

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import pytest

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
