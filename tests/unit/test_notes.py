"""Notes that others leave: read as they were meant, and harmless whatever they are."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet import notes
from fleet.model.facts import ApiFacts
from tests.support.values import NOW


def noted(text: str) -> ApiFacts:
    return ApiFacts("v0.32.2", "worker", (), 1.0, notes={notes.DRAIN: text})


@pytest.mark.parametrize("passing", [False, True])
def test_a_drain_is_read_as_it_was_noted(passing: bool) -> None:
    drain = notes.Drain("anna@laptop", NOW, passing)
    assert notes.drain(noted(drain.text())) == drain


def test_without_a_note_a_node_is_not_drained() -> None:
    assert notes.drain(ApiFacts("v0.32.2", "worker", (), 1.0, notes={"client/ci": "5e"})) is None


@pytest.mark.parametrize("text", ["", "[" * 200_000, "{}", "null", '{"by": 1}', "\x00"])
def test_what_nobody_can_read_is_a_drain_by_somebody(text: str) -> None:
    drain = notes.drain(noted(text))
    assert drain
    assert (drain.by, drain.passing) == ("somebody", False)


def test_what_a_terminal_would_obey_is_taken_out_and_times_are_utc() -> None:
    there = datetime(2026, 1, 1, 12, tzinfo=timezone(timedelta(hours=5)))
    drain = notes.drain(noted(notes.Drain("eve\x1b[31m\r\n", there).text()))
    assert drain
    assert drain.by == "eve[31m"
    assert (drain.since.tzinfo, drain.since.hour) == (UTC, 7)


@given(st.text())
def test_any_text_is_harmless(text: str) -> None:
    drain = notes.drain(noted(text))
    assert drain
    assert drain.by.isprintable()


def test_clients_that_have_joined() -> None:
    left = {notes.client_key("ci"): "5e", notes.DRAIN: "x"}
    assert notes.joined(left) == {"ci": "5e"}
