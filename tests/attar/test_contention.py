"""A timing that shared its CPU says so."""

import subprocess
import sys

import pytest

from attar.contention import Account

SHARED = """
import os, subprocess, sys, time
from attar.contention import Account

os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
try:
    account, begun = Account.read(), time.process_time()
    while time.process_time() < begun + 0.5:
        pass
    print(account.lost_since())
finally:
    other.kill()
    other.wait()
"""


def test_of_one_cpu_that_two_want_some_half_is_lost() -> None:
    told = subprocess.run([sys.executable, "-c", SHARED], check=True, capture_output=True, text=True).stdout
    assert 0.3 < float(told) < 1


def test_nothing_is_lost_by_waiting_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    account = Account(ran=0, waited=0)
    monkeypatch.setattr(Account, "read", classmethod(lambda cls: cls(ran=99, waited=1)))
    assert account.lost_since() == pytest.approx(0.01)
    monkeypatch.setattr(Account, "read", classmethod(lambda cls: cls(ran=0, waited=0)))
    assert account.lost_since() is None
