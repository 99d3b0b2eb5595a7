"""What tests rely on: a missing lab is a reason to skip, and a failure where the lab has to be."""

from __future__ import annotations

import pytest
from _pytest.outcomes import Failed, Skipped

from tests.support.lab import eventually, unavailable


def test_without_the_lab_a_test_is_skipped_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(Skipped, match="amd-1 not healthy"):
        unavailable("amd-1 not healthy")


def test_without_the_lab_a_test_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(Failed, match="make lab"):
        unavailable("amd-1 not healthy")


def test_waiting_ends_with_what_is_found_or_an_error() -> None:
    found = iter([None, None, "x"])
    assert eventually(lambda: next(found), seconds=5) == "x"
    with pytest.raises(AssertionError, match="not within"):
        eventually(lambda: None, seconds=0)
