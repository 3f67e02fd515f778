"""The life of a stage: what its manifest says of time when it took more than one process."""

import json
import os
import time
from pathlib import Path

import pytest

from stages.run import earlier_seconds


def test_seconds_count_from_each_start_to_its_last_save(tmp_path: Path) -> None:
    assert earlier_seconds(tmp_path) == 0
    assert earlier_seconds(tmp_path) == 0  # the first process was killed before it saved anything
    started = time.time() - 100
    for earlier, total in ((0, 60), (60, 120)):  # two processes that saved 60 s after they began
        (tmp_path / "clock.json").write_text(json.dumps({"earlier": earlier, "started": started}))
        (tmp_path / "training.safetensors").touch()
        os.utime(tmp_path / "training.safetensors", (started + 60, started + 60))
        assert earlier_seconds(tmp_path) == pytest.approx(total)
