"""Shortages: the errors that full disks and memories really raise become one sentence with what to try."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError

from attar.errors import StageFailed
from attar.shortage import sentence

SETTINGS = {"stage": "distill.logit", "batch": 8, "length": 512, "learning_rate": 1e-4}


def test_a_full_disk_is_told() -> None:
    with pytest.raises(OSError) as told, open("/dev/full", "w") as file:
        file.write("x")
        file.flush()
    assert "the disk is full" in (sentence(told.value, SETTINGS) or "")


def test_a_full_disk_is_told_when_safetensors_notices_it() -> None:
    """Its errors carry no number. (Never let it save to a device: it renames a file of its own over the name.)"""
    error = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert "the disk is full" in (sentence(error, SETTINGS) or "")


@pytest.mark.parametrize("ask", [lambda: torch.empty(1 << 60, dtype=torch.uint8), lambda: np.empty(1 << 60, np.uint8)])
def test_memory_that_is_not_there_is_told_with_the_settings_to_lower(ask: object) -> None:
    assert callable(ask)
    with pytest.raises((RuntimeError, MemoryError)) as told:
        ask()
    text = sentence(told.value, SETTINGS) or ""
    assert "the process ran out of memory" in text and "lower batch (now 8) or length (now 512)" in text


def test_a_gpu_out_of_memory_is_told() -> None:
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of …")
    assert (sentence(error, {}) or "").startswith("the GPU ran out of memory when it asked for 2.00 GiB;")


def test_a_shortage_behind_another_error_is_told() -> None:
    with pytest.raises(ValueError) as told:
        try:
            raise MemoryError
        except MemoryError as error:
            raise ValueError("reading failed") from error
    assert "ran out of memory" in (sentence(told.value, {}) or "")


def test_other_errors_are_not_shortages(tmp_path: Path) -> None:
    with pytest.raises(OSError) as told:
        (tmp_path / "absent").read_text()
    assert sentence(told.value, SETTINGS) is None
    assert sentence(StageFailed("the loss is not finite"), SETTINGS) is None
