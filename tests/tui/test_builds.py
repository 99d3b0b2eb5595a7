"""Builds and steps as rows and lines: what is told late, twice or never again, and what is looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from fleet.builds import Account, BuildRecord, Outcome, Step, Steps, StepState, Written
from fleet.model.facts import Down, Stage
from fleet.parallel import Stop
from tests.support.values import NOW
from tests.tui.driving import build, records, step, written
from tui.builds import (
    DOUBT,
    Known,
    build_columns,
    build_lines,
    duration,
    last_lines,
    log_line,
    log_lines,
    step_columns,
    steps_in_order,
    telling,
)
from tui.cells import plain

RUNNING, FAILED = records("amd-1")
MORE = replace(RUNNING, steps=Steps(8, 19, 3))
ENDED = replace(RUNNING, completed=NOW, outcome=Outcome.DONE, steps=Steps(19, 19, 3))
SILENT = Down(Stage.TCP, "refused")

TOLD = {
    "it runs": ([RUNNING], [RUNNING]),
    "what runs comes first": ([FAILED, RUNNING], [RUNNING, FAILED]),
    "more of it is done": (
        [RUNNING, replace(RUNNING, steps=Steps(8, 19, 3))],
        [replace(RUNNING, steps=Steps(8, 19, 3))],
    ),
    "that it runs is told again": ([RUNNING, replace(RUNNING, steps=None)], [RUNNING]),
    "it ends": ([RUNNING, ENDED], [ENDED]),
    "what was done is told after the end": ([ENDED, RUNNING], [ENDED]),
}


@pytest.mark.parametrize(("told", "rows"), TOLD.values(), ids=TOLD)
def test_what_is_known_of_builds(told: Sequence[BuildRecord], rows: Sequence[BuildRecord]) -> None:
    known = Known()
    for record in told:
        known.add("amd-1", record, 0)
    assert known.rows(0, 10) == rows


def test_what_a_node_does_not_remember_when_it_answers_again_is_forgotten() -> None:
    known = Known()
    other = replace(RUNNING, ref="other")
    for said in (None, RUNNING, other, FAILED, SILENT):
        known.add("amd-1", said, 0)
    assert (known.silent, known.answering) == ({"amd-1": SILENT}, set())
    assert len(known.rows(100, 10)) == 3
    known.add("amd-1", None, 100)
    known.add("amd-1", RUNNING, 101)
    assert (known.silent, known.answering) == ({}, {"amd-1"})
    assert len(known.rows(100 + DOUBT, 10)) == 3
    assert known.rows(100.1 + DOUBT, 10) == [RUNNING, FAILED]


def test_of_what_ran_the_newest_are_kept() -> None:
    known = Known()
    for at in range(5):
        known.add("amd-1", replace(ENDED, ref=f"r{at}", created=NOW + timedelta(seconds=at)), 0)
    known.add("amd-1", RUNNING, 0)
    assert [record.ref for record in known.rows(0, 2)] == [RUNNING.ref, "r4", "r3"]
    assert len(known.rows(0, 10)) == 3


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (9.94, "9.9 s"), (42, "42 s"), (100, "1m 40s"), (7260, "2h 01m")]
)
def test_how_long_it_took(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_build_in_lines() -> None:
    assert [plain(line) for line in build_lines(replace(FAILED, asked_by="this machine"), NOW)] == [
        "acme/api  ✗ failed  on amd-1  linux/amd64, linux/arm64",
        "2030-05-01 11:30:00 UTC, 2m 00s, 11 of 12 steps, 11 cached, asked for by this machine, ref failed-amd-1",
        "process make did not complete successfully: exit code: 2",
    ]
    assert plain(build_lines(BuildRecord("amd-1", "r1", NOW), NOW)[0]) == "a build  ▸ running  on amd-1"


def cells_of(record: BuildRecord, now: datetime = NOW, since: datetime | None = None) -> dict[str, str]:
    return {column.title: plain(column.cell(record)) for column in build_columns(lambda: now, lambda _: since)}


def test_what_runs_on_a_node_that_does_not_answer_is_unknown_and_its_time_stands() -> None:
    since, later = NOW + timedelta(seconds=8), NOW + timedelta(hours=1)
    cells = cells_of(RUNNING, later, since)
    assert (cells["RESULT"], cells["TOOK"]) == ("? unknown", "50 s")
    tones = [tone for column in build_columns(lambda: later, lambda _: since) for _, tone in column.cell(RUNNING)]
    assert "accent" not in tones
    assert tones.count("stale") == 3
    assert cells_of(FAILED, later, since) == cells_of(FAILED)
    assert [plain(line) for line in build_lines(RUNNING, later, since)][:2] == [
        "acme/shop  ? unknown since 12:00:08 UTC  on amd-1  linux/amd64",
        "2030-05-01 11:59:18 UTC, 50 s, 7 of 19 steps, 3 cached, ref running-amd-1",
    ]
    steps = [
        [plain(column.cell(one)) for column in step_columns(lambda: later, lambda: since)]
        for one in account(RUNNING).steps.values()
    ]
    assert [(state, took) for state, _, took in steps[3:]] == [
        *(("✓ done", "7.0 s"), ("? unknown", "40 s"), ("? unknown", "30 s"), ("? unknown", ""))
    ]


def test_how_long_a_build_takes_whose_nodes_clock_is_ahead_is_not_known() -> None:
    ahead = replace(RUNNING, created=NOW + timedelta(seconds=5))
    assert cells_of(ahead)["TOOK"] == "–"
    assert "UTC, –, 7 of 19 steps" in plain(build_lines(ahead, NOW)[1])


def test_that_lines_of_a_step_are_not_kept_any_more_is_said() -> None:
    found = Account(RUNNING, most=2)
    told: list[Step | Written] = [step("a", "a", StepState.RUNNING, 1), step("b", "b", StepState.RUNNING, 1)]
    for one in (*told, *written("a", 1, "one"), *written("b", 1, "two", "three")):
        found.add(one)
    assert found.shortened == {"a"}
    assert [plain(line).partition("  ")[0] for line in log_lines(found, NOW, log_line)[0]] == [
        *("▸ a", "older lines of it are not kept", "▸ b", "11:59:19", "11:59:19")
    ]


def test_what_is_not_known_of_a_build_is_a_dash() -> None:
    cells = cells_of(BuildRecord("amd-1", "r1", NOW))
    assert (cells["PROJECT"], cells["STEPS"], cells["CACHED"], cells["PLATFORM"]) == ("–", "–", "–", "its own")


def account(record: BuildRecord) -> Account:
    stop, found = Stop(), Account(record)
    stop.set()
    for told in build("amd-1", record.ref, stop):
        found.add(told)
    return found


def test_steps_come_as_they_began_and_what_waits_last() -> None:
    assert [one.key for one in steps_in_order(account(RUNNING))] == [
        *("load", "base", "copy", "get", "make", "test", "last")
    ]
    shown = [
        [plain(column.cell(one)) for column in step_columns(lambda: NOW, lambda: None)]
        for one in account(RUNNING).steps.values()
    ]
    assert shown[1] == ["= cached", "[base 1/5] FROM docker.io/library/golang:1.25", ""]
    assert shown[4:] == [
        ["▸ running", "[base 4/5] RUN make VERSION=$VERSION all", "32 s"],
        ["▸ running", "[test 1/1] RUN go test ./...", "22 s"],
        ["· waiting", "[final 2/2] COPY --from=base /app /app", ""],
    ]


LOOKED_AT: dict[str, tuple[Sequence[Step | Written], str | None]] = {
    "what wrote last": (
        [step("a", "a", StepState.DONE, 1, 2), *written("a", 1, "x"), step("b", "b", StepState.DONE, 3, 4)],
        "a",
    ),
    "nothing runs": ([step("a", "a", StepState.DONE, 1, 2), step("b", "b", StepState.WAITING)], None),
    "the newest that runs": ([step("a", "a", StepState.RUNNING, 3), step("b", "b", StepState.RUNNING, 2)], "a"),
    "what failed": ([step("a", "a", StepState.FAILED, 1, 2), step("b", "b", StepState.RUNNING, 2)], "a"),
}


@pytest.mark.parametrize(("steps", "key"), LOOKED_AT.values(), ids=LOOKED_AT)
def test_the_step_to_look_at(steps: Sequence[Step | Written], key: str | None) -> None:
    found = Account(RUNNING)
    for one in steps:
        found.add(one)
    assert telling(found) == key


def test_the_log_goes_step_by_step() -> None:
    lines, begin = log_lines(account(FAILED), NOW, log_line)
    text = [plain(line) for line in lines]
    assert text[0] == "✓ [internal] load build definition from Dockerfile  0.0 s"
    assert text[begin["get"] :][:2] == [
        "✓ [base 3/5] RUN go mod download  7.0 s",
        "11:59:22  go: downloading github.com/acme/lib v1.2.3",
    ]
    assert text[begin["copy2"] - 1] == "process make did not complete: exit code: 2"
    assert "last" not in log_lines(account(RUNNING), NOW, log_line)[1]
    assert [plain(line) for line in last_lines(account(FAILED), "make", 1)] == ["make: *** Error 2"]


def test_what_is_written_moves_no_cursor() -> None:
    found = Account(RUNNING)
    found.add(step("a", "a", StepState.RUNNING, 1))
    for one in written("a", 1, "\x1b[2J"):
        assert isinstance(one, Written)
        found.add(one)
    assert all(plain(line).isprintable() for line in (*last_lines(found, "a", 9), *log_lines(found, NOW, log_line)[0]))
