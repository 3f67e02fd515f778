"""The command line: what it prints, where, and with which exit code."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import stages
from attar import slots
from pipelines.cli import main

if TYPE_CHECKING:
    from tests.pipelines.conftest import Attar


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    return int(end.value.code or 0)


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--help") == 0
    output = capsys.readouterr().out
    assert all(command in output for command in ("run", "plan", "show", "stages", "doctor"))
    assert call("run", "--help") == 0
    assert "counted from 0" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("arguments", [("fly",), ("plan",), ("plan", "x", "--colour"), ("show", "--home")])
def test_a_wrong_command_line_is_a_sentence(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert call(*arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1


def test_stages_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("stages", "--json") == 0
    listed = json.loads(capsys.readouterr().out)
    assert [entry["name"] for entry in listed] == stages.names()
    assert call("stages") == 0  # not into a terminal
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == stages.names()
    assert len({len(line) - len(line.partition("  ")[2].lstrip()) for line in lines}) == 1  # one below the other
    assert all(entry["summary"] for entry in listed)


@pytest.mark.parametrize("name", stages.names())
def test_every_setting_of_every_stage_is_described(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("stages", name, "--json") == 0
    described = json.loads(capsys.readouterr().out)
    assert described["settings"]
    for setting in described["settings"]:
        assert setting["description"] and setting["type"] != "any", setting
    assert call("stages", name) == 0
    assert described["settings"][0]["name"] in capsys.readouterr().out


def test_an_unknown_stage_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("stages", "quantise.gptq") == 2
    assert "did you mean 'quantize.gptq'" in capsys.readouterr().err


def test_doctor_examines(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("doctor", "--home", str(home), "--json") == 0
    findings = {finding["name"]: finding for finding in json.loads(capsys.readouterr().out)}
    assert findings["python"]["state"] == "ok" and findings["home"]["state"] == "ok"
    assert str(slots.folder()) in findings["slots"]["text"]
    (home.parent / "file").touch()
    assert call("doctor", "--home", str(home.parent / "file")) == 2


def test_a_worker_serves_one_pool(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    assert call("worker", "conf/deployments.yaml", "--pool", "attar") == 2
    assert "give one of them" in capsys.readouterr().err


def test_show_without_runs_is_a_sentence(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("show", "--home", str(home)) == 2
    assert "there is no run" in capsys.readouterr().err


def test_show_tells_of_a_run(attar: "Attar", finished: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert call("show", finished["run"], "--home", str(attar.home)) == 0
    shown = capsys.readouterr().out
    assert "4 finetune.scales" in shown and "pareto.png" in shown and "mlflow server" in shown
    assert call("show", finished["run"], "--home", str(attar.home), "--json") == 0
    assert json.loads(capsys.readouterr().out) == finished
    assert call("show", "no-such-run", "--home", str(attar.home)) == 2
    assert finished["run"] in capsys.readouterr().err
