"""Builds that begin at once take turns, none waits long, and none for one that is dead."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from fleet.adapters import turns
from fleet.adapters.turns import Turn

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(turns, "PATIENCE", 60.0)


def waited() -> float:
    began = time.monotonic()
    with Turn():
        return time.monotonic() - began


def test_as_many_as_there_are_processors_begin_and_the_next_when_one_has_begun(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked: list[float] = []

    def look_again(seconds: float) -> None:
        looked.append(seconds)
        first.end()

    monkeypatch.setattr(time, "sleep", look_again)
    with Turn() as first, Turn(), Turn():
        assert looked == [turns.LOOK_EVERY]


def test_a_turn_is_a_courtesy(monkeypatch: pytest.MonkeyPatch) -> None:
    with Turn(), Turn():
        monkeypatch.setattr(turns, "PATIENCE", 0.1)
        assert 0.1 <= waited() < 30


def test_nobody_waits_for_one_who_was_killed() -> None:
    code = "import os; os.cpu_count = lambda: 2; from fleet.adapters.turns import Turn; held = Turn(), Turn(); "
    hold = subprocess.Popen((sys.executable, "-c", code + "print(flush=True); input()"), stdin=-1, stdout=-1)
    assert hold.stdout
    assert hold.stdout.readline()
    hold.kill()
    hold.communicate()
    assert waited() < 30


def test_without_a_place_for_turns_nobody_waits(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    assert waited() < 30
