"""A folder of lm-eval tasks leads to nothing that is not hashed, and to no code, however it tries."""

from pathlib import Path

import pytest

from attar import lm_eval_folder
from attar.errors import BadInput

GOOD = """
task: mine
include: _shared
dataset_path: json
dataset_kwargs: {data_files: {test: %s/rows.jsonl}}
doc_to_text: "{{text}}"
metric_list: [{metric: acc}, {metric: exact_match}]
metadata: {version: 1}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Tasks that read their own data and share a file; beside the folder lie what it may not reach."""
    found = tmp_path / "tasks"
    found.mkdir()
    (found / "mine.yaml").write_text(GOOD % found)
    (found / "_shared").write_text("test_split: test\n")
    (found / "rows.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "outside").write_text("process_docs: !function os.system\n")
    (tmp_path / "outside.jsonl").write_text('{"text": "b"}\n')
    return found


def test_a_folder_of_its_own_files_is_fit_and_every_file_counts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lm_eval_folder.check(folder)
    monkeypatch.setattr(lm_eval_folder, "version", lambda name: "0.4.13")
    before = lm_eval_folder.content(folder)
    assert set(before["files"]) == {"mine.yaml", "_shared", "rows.jsonl"}
    (folder / "rows.jsonl").write_text('{"text": "c"}\n')
    assert lm_eval_folder.content(folder) != before
    (folder / "hub.yaml").write_text(f"task: hub\ndataset_path: a/b\ndataset_kwargs: {{revision: {'0' * 40}}}\n")
    lm_eval_folder.check(folder)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("process_docs: !function code.run", "line 2: !function calls Python code"),
        ("x: !!python/object/apply:os.system [ls]", "python/object/apply:os.system calls Python code"),
        ("? !function code.run\n: 1", "calls Python code"),
        ("x: [{{y: !mine z}}]", "!mine is a tag, which is not run"),
        ("class: code.Task", "class reaches code"),
        ("include: ../outside", r"include: \.\./outside leads to no file of the folder"),
        ("include: {up}/outside", "leads to no file of the folder"),
        ("include: [_shared, ../outside]", "leads to no file of the folder"),
        ("task_list: [{{task: a, include: ../outside}}]", "leads to no file of the folder"),
        ("include: __pycache__/x.yaml", "leads to no file of the folder"),
        ("include: linked/outside", "leads to no file of the folder"),
        ("include: tagged", "tagged, line 1: !function calls Python code"),
        ("x: &a ../outside\ninclude: *a", "include holds an alias"),
        ("x: &a {{include: ../outside}}\n<<: *a", "leads to no file of the folder"),
        ("dataset_kwargs: {{data_files: {up}/outside.jsonl}}", "leads to files that are not in the folder"),
        ("dataset_kwargs: {{data_files: {{test: ['{up}/*.jsonl']}}}}", "leads to files that are not in the folder"),
        ("dataset_kwargs: {{data_files: 'https://example.org/rows.jsonl'}}", "leads to no file; write the full path"),
        ("dataset_kwargs: {{data_dir: {up}}}", "data_dir does not say which files are read"),
        ("dataset_kwargs: {{data_files: {up}/tasks/rows.jsonl, trust_remote_code: true}}", "trust_remote_code reaches"),
        ("dataset_path: pandas", "dataset_path: pandas is not possible; possible: json, csv"),
        ("dataset_path: {up}/tasks/load.py", "dataset_path: .* is not possible"),
        ("dataset_path: ../outside.jsonl", "dataset_path: .* is not possible"),
        ("dataset_path: some/hub", "some/hub may change; name its commit"),
        ("dataset_path: some/hub\ndataset_kwargs: {{revision: main}}", "revision: main may change"),
        ("dataset_kwargs: {{}}", "names neither data_files nor a revision"),
        ("metric_list: [{{metric: some/space}}]", "metric: some/space is none of lm-eval's own, which are acc,"),
        ("metric_list: [{{metric: acc, hf_evaluate: true}}]", "hf_evaluate reaches code"),
        ("use_prompt: promptsource:x", "use_prompt reaches code or files"),
        ("doc_to_text: '{{{{ text.__class__ }}}}'", "a template reaches for a name between double underscores"),
        ("x: [", "is not YAML"),
        ("x: " + "[" * 5000, "is nested too deeply|is not YAML"),
    ],
)
def test_what_leads_out_or_to_code_is_refused(folder: Path, text: str, sentence: str) -> None:
    (folder / "tagged").write_text("process_docs: !function code.run\n")
    (folder / "linked").symlink_to(folder.parent)
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "x.yaml").write_text("doc_to_text: x\n")
    filled = text.format(up=folder.parent) if "{" in text else text
    (folder / "tries.yaml").write_text(f"task: tries\n{filled}\n")
    with pytest.raises(BadInput, match=sentence):
        lm_eval_folder.check(folder)


def test_a_link_to_a_file_outside_is_hashed_as_the_file_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lm_eval_folder, "version", lambda name: "0.4.13")
    (folder.parent / "more").write_text("description: x\n")
    (folder / "more").symlink_to(folder.parent / "more")
    (folder / "mine.yaml").write_text(GOOD % folder + "fewshot_config: {sampler: default}\n")
    (folder / "second.yaml").write_text("task: second\ninclude: more\n")
    lm_eval_folder.check(folder)
    before = lm_eval_folder.content(folder)
    (folder.parent / "more").write_text("description: y\n")
    assert lm_eval_folder.content(folder) != before


def test_what_lies_where_the_run_starts_is_no_data_set_of_the_hub(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "hub.yaml").write_text(f"task: hub\ndataset_path: some/data\ndataset_kwargs: {{revision: {'0' * 40}}}\n")
    lm_eval_folder.check(folder)
    (tmp_path / "some" / "data").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match="dataset_path: some/data is a folder here"):
        lm_eval_folder.check(folder)
