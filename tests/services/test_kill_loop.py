"""Three rounds of the kill loop: a stage and a run are killed, MLflow's server goes away; nothing is lost."""

import json
import subprocess
import sys
from pathlib import Path

from aftermath import COUNTED

from tests.services.conftest import environment

LOOP = Path(__file__).parents[2] / "benchmarks" / "kill_loop.py"


def test_nothing_is_lost_by_what_is_killed(tmp_path: Path) -> None:
    slots = {"ATTAR_SLOTS": str(tmp_path / "slots")}  # the other tests' jobs hold theirs for long
    command = [sys.executable, str(LOOP), "--rounds", "3", "--folder", str(tmp_path / "loop")]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment() | slots)
    assert done.returncode == 0, done.stdout
    counts = json.loads(done.stdout[done.stdout.index("{") :])
    assert counts.pop("rounds") == counts.pop("struck") == 3 and counts.pop("seed") == 0
    assert counts == dict.fromkeys(COUNTED, 0) | {"notes": []}
    assert done.stdout.count("nothing lost") == 3
