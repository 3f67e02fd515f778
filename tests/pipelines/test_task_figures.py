"""Figures of tasks: compared with the origin's in pairs, shown beside chance, and safe to show whatever was written."""

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from attar.responses.prompts import Prompt
from attar.scores import Scores, of_answers
from attar.stamp import stamp
from attar.store import Store
from pipelines import samples, task_figures
from pipelines.mlflow_tracker import figures
from pipelines.report import Report, Row
from pipelines.tables import show_report

ROW = Row(0, "origin", False, "f", "e", "/m", 10, 20, 1.0, 2.0, 2.0, 1.0, 0.0, 0.0, 1.0, None, None, None, None)


def result(right: list[float], asked: str = "hash", lower: bool = False) -> tuple[dict[str, Any], dict[str, Scores]]:
    scored = of_answers([str(i) for i in range(len(right))], right)
    told = {"value": scored.mean, "items": len(right), "chance": 0.25}
    told |= {"lower_is_better": lower, "confidently_wrong": 0.125}
    return {"tasks": {"mine": told}, "stamp": stamp(suite=2, tasks={"mine": asked})}, {"mine": scored}


def compared(one: list[float], origin: list[float], asked: str = "hash", lower: bool = False) -> dict[str, Any]:
    return task_figures.compared(*result(one, asked, lower), *result(origin, lower=lower))["mine"]


GOOD, BAD = [1.0] * 36 + [0.0] * 4, [1.0] * 18 + [0.0] * 22


def test_answers_are_compared_in_pairs_and_above_chance() -> None:
    found = compared(BAD, GOOD)
    assert found["verdict"] == "worse" and found["difference"] == pytest.approx(-0.45)
    assert found["difference_low"] < found["difference"] < found["difference_high"] < 0
    assert found["retained"] == pytest.approx((0.45 - 0.25) / (0.9 - 0.25))
    assert compared(GOOD, BAD)["verdict"] == "better"
    lower = compared(BAD, GOOD, lower=True)
    assert lower["verdict"] == "better" and "retained" not in lower


def test_the_origin_is_not_compared_with_itself_nor_with_other_questions() -> None:
    assert "verdict" not in compared(GOOD, GOOD)
    other = compared(BAD, GOOD, asked="another")
    assert "differ in tasks" in other["note"] and "verdict" not in other


def test_nobody_retains_what_the_origin_never_had() -> None:
    assert "retained" not in compared(BAD, [1.0, 0.0, 0.0, 0.0] * 10)


def test_where_guessing_is_not_known_nothing_is_said_of_what_is_retained() -> None:
    """As of a score of lm-eval's, or of likeness; the difference is told all the same."""
    one, origin = result(BAD), result(GOOD)
    del one[0]["tasks"]["mine"]["chance"]
    found = task_figures.compared(*one, *origin)["mine"]
    assert found["verdict"] == "worse" and "retained" not in found


def test_of_many_tasks_the_verdicts_hold_together() -> None:
    """What would be beyond doubt by itself is not where forty such questions are put; what is so anyway stays."""
    loss = [1.0] * 34 + [0.0] * 6
    assert 0.001 < compared(loss, [1.0] * 40)["p_value"] < 0.05
    names = [f"t{i}" for i in range(40)]
    made: list[tuple[dict[str, Any], dict[str, Scores]]] = []
    for right in (loss, [1.0] * 40):
        alone, scored = result(right)
        some = {"tasks": dict.fromkeys(names, alone["tasks"]["mine"]), "stamp": None}
        some["stamp"] = stamp(suite=2, tasks=dict.fromkeys(names, "hash"))
        made.append((some, dict.fromkeys(names, scored["mine"])))
    made[0][1]["t7"] = of_answers([str(i) for i in range(40)], [0.0] * 40)
    found = task_figures.compared(*made[0], *made[1])
    assert [name for name in names if found[name]["verdict"] == "worse"] == ["t7"]
    assert found["t0"]["verdict"] == "not distinguishable" and "where 40 tasks are tested" in found["t0"]["note"]
    assert task_figures.markdown([replace(ROW, tasks=found)]).count("↓") == 1


def test_intervals_are_made_of_the_scores_and_few_answers_have_none() -> None:
    few = compared([1.0] * 3, [1.0, 1.0, 0.0])
    assert (few["low"], few["high"]) == (None, None) and few["value"] == 1
    all_right = compared([1.0] * 20, [1.0] * 19 + [0.0])
    assert all_right["high"] == 1 and all_right["low"] == pytest.approx(0.025 ** (1 / 20))
    rows = [replace(ROW, step=step, tasks={"mine": entry}) for step, entry in enumerate((few, all_right))]
    assert "| 100.0 % | 100.0 % (83.2–100.0) |" in task_figures.markdown(rows)


def test_tables_and_trackers_get_the_figures() -> None:
    rows = (
        replace(ROW, tasks={"mine": compared(GOOD, GOOD)}),
        replace(ROW, step=1, tasks={"mine": compared(BAD, GOOD)}),
    )
    text = task_figures.markdown(rows)
    assert "| mine | 25.0 % | 40 | 90.0 % (76.3–97.2) | 45.0 % (29.3–61.5) ↓ |" in text
    assert "| mine, sure and wrong | – | – | 12.5 % | 12.5 % |" in text
    sent = figures(vars(rows[1]))
    assert sent["task.mine"] == 0.45 and sent["task.mine.confidently_wrong"] == 0.125 and "tasks" not in sent
    console = Console(width=120, force_terminal=True, color_system=None, record=True, file=StringIO())
    show_report(console, Report("run-1", "small", rows))
    assert "45.0 % (29.3–61.5) ↓" in console.export_text()


def test_without_tasks_there_is_no_second_table() -> None:
    assert task_figures.markdown([ROW]) == "" and task_figures.table([ROW]) is None
    assert task_figures.flat([ROW]) == ([], [[]])


def test_a_figure_that_is_no_share_is_shown_as_it_is() -> None:
    entry = {"lm_eval.read/word_perplexity": {"value": 1234.5678, "lower_is_better": True}}
    assert "| 1235 |" in task_figures.markdown([replace(ROW, tasks=entry)])


def test_samples_show_what_was_written_and_obey_none_of_it(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    prompts = [Prompt(({"role": "user", "content": "Use ``` and | here."},))]
    rows = []
    for step, text in enumerate(("fine", "<script>x</script> | a\n# b ![c](http://d) `e`")):
        draft = store.draft("evaluation", f"e{step}")
        (draft / samples.ANSWERS).write_text(json.dumps({prompts[0].key: text}))
        store.commit("evaluation", f"e{step}", draft, {"inputs": {}})
        rows.append(replace(ROW, step=step, evaluation=f"e{step}"))
    path = samples.save(rows, prompts, store, tmp_path)
    assert path is not None
    lines = path.read_text().splitlines()
    assert "````text" in lines and "Use ``` and | here." in lines
    assert "| 0 origin | fine |" in lines
    hostile = next(line for line in lines if line.startswith("| 1 origin |"))
    assert hostile.count("|") == 3 and not any(sign in hostile for sign in ("<s", "`", "![", "# b"))
    assert samples.save(rows, [], store, tmp_path) is None
