"""Who changed what: what a run leaves on its hosts, and what is read of it whoever has written it."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.applying.apply import Applier
from fleet.applying.history import LONGEST, Entry, History, merged, parse
from fleet.applying.record import histories
from fleet.applying.report import Event, Result
from fleet.cli.history import _show, history_json
from fleet.model.facts import Down, Stage
from fleet.model.spec import FleetSpec
from fleet.observing.observe import Connections
from tests.support.fakes import Machine
from tests.support.runs import down, up
from tests.support.values import NOW, fleet, host
from tests.support.world import FakeWorld

HOSTS = (host("amd-1"), host("arm-1"))
SPEC = fleet(*HOSTS)
ENTRY = Entry("amd-1", NOW, "anna@desk", "up", ("pull x", "start y"), Result.FAILED, "start y", "0.1.0")


# ------------------------------------------------------------------------------------------------ a line

texts = st.text(st.characters(codec="utf-8").filter(str.isprintable), max_size=30)


@given(
    st.builds(
        Entry,
        node=texts,
        at=st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=5))])),
        by=texts,
        command=texts,
        actions=st.lists(texts, max_size=5).map(tuple),
        result=st.sampled_from(Result),
        where=texts,
        version=texts,
    )
)
def test_what_is_written_is_what_is_read(entry: Entry) -> None:
    line = entry.line()
    assert "\n" not in line
    assert parse(line + "\n") == History((entry,))


@given(st.lists(st.text(max_size=600), max_size=60))
def test_a_line_is_never_too_long_and_keeps_all_but_some_actions(actions: list[str]) -> None:
    line = Entry("amd-1", NOW, "anna@desk", "up", tuple(actions), Result.DONE).line()
    assert len(line.encode()) <= LONGEST
    [read] = parse(line).entries
    assert (read.node, read.at, read.by, read.command, read.result) == ("amd-1", NOW, "anna@desk", "up", Result.DONE)
    if sum(map(len, actions)) < 500:
        assert len(read.actions) == len(actions)


def altered(**changed: Any) -> str:
    return json.dumps(json.loads(ENTRY.line()) | changed)


SKIPPED = {
    "torn": ENTRY.line()[:-20],
    "no JSON": "hello",
    "another shape": "[]",
    "a deep one": "[" * 3000,
    "overlong": altered(where="x" * LONGEST),
    "without a time": altered(at="yesterday"),
    "in no zone": altered(at="2030-05-01T12:00:00"),
    "before all time": altered(at="0001-01-01T00:00:00+14:00"),
    "no such result": altered(result="pwned"),
    "one text for actions": altered(actions="rm"),
    "a number for a name": altered(by=7),
}


@pytest.mark.parametrize("line", SKIPPED.values(), ids=SKIPPED)
def test_a_line_that_is_none_is_skipped_and_counted(line: str) -> None:
    assert parse(f"{ENTRY.line()}\n{line}\n{ENTRY.line()}\n") == History((ENTRY, ENTRY), 1)


def test_what_a_later_fleet_adds_does_not_make_a_line_unreadable() -> None:
    assert parse(altered(mood="good")) == History((ENTRY,))


def test_nothing_that_a_terminal_would_obey_is_read() -> None:
    hostile = "\x1b[2J\x07a\u202eb\r\nc\x9b"
    [read] = parse(
        altered(node=hostile, by=hostile, command=hostile, where=hostile, version=hostile, actions=[hostile])
    ).entries
    assert (read.node, read.by, read.command, read.where, read.version, *read.actions) == ("[2Jabc",) * 6


OUTCOMES = {
    "done": (Result.DONE, "", "done"),
    "failed": (Result.FAILED, "start y", "failed at: start y"),
    "stopped": (Result.STOPPED, "start y", "stopped before: start y"),
    "killed": (Result.UNFINISHED, "", "did not finish, unless it is still at work"),
}


@pytest.mark.parametrize(("result", "where", "words"), OUTCOMES.values(), ids=OUTCOMES)
def test_an_outcome_in_words(result: Result, where: str, words: str) -> None:
    assert Entry("amd-1", NOW, "anna@desk", "up", (), result, where).outcome == words


def test_two_nodes_that_are_one_machine_are_told_once_and_all_by_time() -> None:
    later = Entry("arm-1", NOW + timedelta(seconds=1), "bob@desk", "down", (), Result.DONE)
    assert merged([History((later, ENTRY)), History((ENTRY,))]) == (ENTRY, later)


LATER = replace(ENTRY, at=NOW + timedelta(seconds=1))
BEGUN = replace(ENTRY, result=Result.UNFINISHED, where="")
FOLDED = {
    "an end takes the place of its beginning": ([BEGUN, ENTRY], [ENTRY]),
    "a run that was killed": ([ENTRY, replace(BEGUN, at=LATER.at)], [ENTRY, replace(BEGUN, at=LATER.at)]),
    "one that was killed before another one": ([BEGUN, LATER], [BEGUN, LATER]),
    "two nodes of one machine": (
        [BEGUN, replace(BEGUN, node="amd-2"), replace(ENTRY, node="amd-2")],
        [BEGUN, replace(ENTRY, node="amd-2")],
    ),
    "two operators at the same moment": (
        [BEGUN, replace(ENTRY, by="bob@desk")],
        [BEGUN, replace(ENTRY, by="bob@desk")],
    ),
    "a beginning that came late": ([ENTRY, BEGUN], [ENTRY]),
    "a beginning that is not kept any more": ([ENTRY], [ENTRY]),
}


@pytest.mark.parametrize(("written", "read"), FOLDED.values(), ids=FOLDED)
def test_the_lines_of_a_run_are_one_entry(written: list[Entry], read: list[Entry]) -> None:
    assert parse("".join(f"{entry.line()}\n" for entry in written)) == History(tuple(read))


# ------------------------------------------------------------------------------------------------- a run


def world() -> FakeWorld:
    return FakeWorld.of(Machine("amd-1.example"), Machine("arm-1.example", "aarch64"))


def kept(world: FakeWorld) -> dict[str, list[tuple[str, str]]]:
    """Node -> (command, outcome) of all that its host has noted."""
    return {
        known.name: [
            (entry.command, entry.outcome)
            for entry in parse(world.machines[known.address].histories.get("acme", "")).entries
        ]
        for known in HOSTS
    }


def test_a_run_is_noted_on_the_hosts_that_it_changed_with_what_it_did() -> None:
    here = world()
    _, events = up(here, SPEC)
    assert kept(here) == {"amd-1": [("up", "done")], "arm-1": [("up", "done")]}
    [entry] = parse(here.machines["amd-1.example"].histories["acme"]).entries
    assert (entry.node, entry.at, entry.by) == ("amd-1", NOW, "anna@desk")
    assert list(entry.actions) == [event.text for event in events if (event.subject, event.state) == ("amd-1", "begun")]


def test_a_run_that_finds_nothing_to_do_notes_nothing() -> None:
    here = world()
    up(here, SPEC)
    before = kept(here)
    up(here, SPEC)
    assert kept(here) == before


def test_a_run_is_noted_before_its_second_step_with_what_it_is_to_do() -> None:
    here, seen = world(), dict[str, str]()

    def look(event: Event, _: Applier) -> None:
        if event.subject == "amd-1" and event.state == "begun":
            seen[event.text.partition(" ")[0]] = here.machines["amd-1.example"].histories.get("acme", "")

    _, events = up(here, SPEC, only=["amd-1"], on=look)
    [begun] = parse(seen["create"]).entries
    assert begun.result is Result.UNFINISHED
    assert list(begun.actions) == [event.text for event in events if (event.subject, event.state) == ("amd-1", "begun")]
    assert kept(here)["amd-1"] == [("up", "done")]


@pytest.mark.parametrize("after", range(3))
def test_a_run_that_is_killed_has_left_word_on_the_hosts_that_it_began_to_change(after: int) -> None:
    here = world()
    here.apply(SPEC, stop={"amd-1": after, "arm-1": 0})
    assert kept(here)["amd-1"] == [("up", "did not finish, unless it is still at work")]
    here.now += timedelta(minutes=1)
    here.apply(SPEC)
    assert kept(here)["amd-1"] == [("up", "did not finish, unless it is still at work"), ("up", "done")]


def test_a_failure_is_noted_with_the_action_and_what_put_things_back() -> None:
    here = world()
    up(here, SPEC)
    here.machines["amd-1.example"].crashes = True
    up(here, fleet(*HOSTS, image="moby/buildkit:v0.33.0"), only=["amd-1"])
    entry = parse(here.machines["amd-1.example"].histories["acme"]).entries[-1]
    assert entry.outcome == "failed at: wait until it answers over mutual TLS"
    assert "put the former fleet.acme.amd-1 back" in entry.actions


def test_a_run_that_is_stopped_notes_where_and_only_where_it_has_begun() -> None:
    here = world()

    def stop(event: Event, applier: Applier) -> None:
        if event.subject == "amd-1" and event.text.startswith("pull"):
            applier.stop.set()

    up(here, SPEC, only=["amd-1"], on=stop)
    assert kept(here) == {
        "amd-1": [("up", "stopped before: create fleet.acme.amd-1 with a new certificate")],
        "arm-1": [],
    }


def test_a_host_that_cannot_note_it_is_told_and_is_no_failure() -> None:
    here = world()
    here.machines["amd-1.example"].home = False
    report, _ = up(here, SPEC)
    assert report.exit_code == 0
    warnings = {outcome.subject: outcome.warning for outcome in report.nodes}
    assert warnings["arm-1"] is None
    assert warnings["amd-1"]
    assert "not in its history: sh: 1: cannot create" in warnings["amd-1"].reason


def test_down_is_noted_and_with_the_caches_all_of_it_goes() -> None:
    here = world()
    up(here, SPEC)
    down(here, SPEC)
    assert [entries[-1] for entries in kept(here).values()] == [("down", "done")] * 2
    down(here, SPEC, volumes=True)
    assert [machine.histories for machine in here.machines.values()] == [{}, {}]


def test_hosts_are_asked_and_one_that_does_not_answer_is_named() -> None:
    here = world()
    up(here, SPEC)
    here.machines["arm-1.example"].login = False
    here.machines["amd-1.example"].histories["acme"] += "torn"
    found = asked(here, SPEC)
    assert isinstance(found["amd-1"], History)
    assert (len(found["amd-1"].entries), found["amd-1"].unreadable) == (1, 1)
    assert isinstance(found["arm-1"], Down)
    assert found["arm-1"].stage is Stage.SSH


def asked(here: FakeWorld, spec: FleetSpec) -> dict[str, History | Down]:
    with Connections(here.ports().connect) as connections:
        return histories(spec.name, spec.hosts, connections)


# ------------------------------------------------------------------------------------------------ command


def test_what_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    done = Entry("arm-1", NOW + timedelta(minutes=1), "bob@laptop", "down", ("remove z",), Result.DONE)
    _show((ENTRY, done), verbose=False)
    assert capsys.readouterr().out.splitlines() == [
        "when (UTC)           node   who         what  outcome",
        "2030-05-01 12:00:00  amd-1  anna@desk   up    failed at: start y",
        "2030-05-01 12:01:00  arm-1  bob@laptop  down  done",
    ]
    _show((done,), verbose=True)
    assert capsys.readouterr().out.splitlines()[-1] == "  + remove z"


def test_the_shape_of_its_json() -> None:
    silent = Down(Stage.SSH, "no answer", "is it up?")
    assert history_json("acme", (ENTRY,), {"amd-1": History((ENTRY,), 2), "arm-1": silent}) == {
        "fleet": "acme",
        "entries": [
            {
                "node": "amd-1",
                "at": datetime(2030, 5, 1, 12, tzinfo=UTC).isoformat(),
                "by": "anna@desk",
                "command": "up",
                "actions": ["pull x", "start y"],
                "result": "failed",
                "where": "start y",
                "version": "0.1.0",
            }
        ],
        "nodes": [
            {"name": "amd-1", "unreadable": 2, "failure": None},
            {
                "name": "arm-1",
                "unreadable": None,
                "failure": {"stage": "SSH", "reason": "no answer", "remedy": "is it up?"},
            },
        ],
    }
