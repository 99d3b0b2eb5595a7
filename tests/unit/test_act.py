"""Replacing daemons at work: by turns, with another node taking over, and put back when the successor fails."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import pytest

from fleet import notes
from fleet.applying import act
from fleet.applying.apply import Applier
from fleet.applying.report import Event, Result
from fleet.model.facts import Stage
from fleet.model.platforms import Platform
from fleet.planning.actions import GRACE, LEAST_GRACE
from tests.support.fakes import Container, Machine
from tests.support.runs import failure, of, results, up
from tests.support.values import NOW, fleet, host
from tests.support.world import FakeWorld

HOSTS = (host("amd-1"), host("amd-2"), host("arm-1"))
OLD, NEWER = fleet(*HOSTS), fleet(*HOSTS, image="moby/buildkit:v0.33.0")
BY_BOB = notes.Drain("bob@desk", NOW).text()

DRAIN, WAIT, STOP = "keep new builds away", "wait until its builds have ended", "stop fleet.acme.amd-1 and set it aside"
CREATE, START, PUT_BACK = "create fleet.acme.amd-1", "start fleet.acme.amd-1", "put the former fleet.acme.amd-1 back"


def three(*others: Machine) -> FakeWorld:
    """Three nodes at work."""
    world = FakeWorld.of(
        Machine("amd-1.example"), Machine("amd-2.example"), Machine("arm-1.example", "aarch64"), *others
    )
    assert world.apply(OLD) == {}
    return world


def amd_1(world: FakeWorld) -> Machine:
    return world.machines["amd-1.example"]


def ids(world: FakeWorld) -> list[list[tuple[str, str, str]]]:
    return [[(c.id, c.name, c.state) for c in machine.containers] for machine in world.machines.values()]


def drains(world: FakeWorld) -> list[str]:
    return [text for m in world.machines.values() for kept in m.notes.values() for text in kept.values()]


def owner(world: FakeWorld, platform: str) -> str:
    nodes = world.builder.read("acme").nodes
    [name] = [node.name for node in nodes if Platform.parse(platform) in node.platforms]
    return name


def when(subject: str, text: str, do: Callable[[], object]) -> Callable[[Event, Applier], None]:
    """Does something when this step begins."""

    def on(event: Event, _: Applier) -> None:
        if event.subject == subject and event.text.startswith(text):
            do()

    return on


# --------------------------------------------------------------------------------------------- what happens when


def test_a_daemon_at_work_is_replaced_step_by_step() -> None:
    world = three()
    _, events = up(world, NEWER)
    assert [text.partition(" (")[0] for text, _ in of(events, "amd-1")] == [
        "pull moby/buildkit:v0.33.0",
        "downloading layer",
        "keep new builds away",
        "wait until its builds have ended",
        "stop fleet.acme.amd-1 and set it aside",
        "create fleet.acme.amd-1 with a new certificate",
        "start fleet.acme.amd-1",
        "wait until it answers over mutual TLS",
        "let builds come again",
        "stop and remove fleet.acme.amd-1.aside",
        "remove the image moby/buildkit:v0.32.2, if fleet pulled it and nothing else uses it",
        "done",
    ]
    assert drains(world) == []
    assert world.plan(NEWER).empty


@pytest.mark.parametrize(
    ("nodes", "parallel", "most"),
    [(2, 2, 1), (3, 2, 2), (4, 2, 2), (4, 9, 3)],
    ids=["of two one stays", "two at a time", "two of four at a time", "never all of them"],
)
def test_several_of_an_architecture_at_a_time_and_one_stays_at_work(nodes: int, parallel: int, most: int) -> None:
    names = [f"amd-{n}" for n in range(1, nodes + 1)]
    world = FakeWorld.of(*(Machine(f"{name}.example") for name in names))
    world.apply(fleet(*map(host, names)))
    away: set[str] = set()
    together: set[frozenset[str]] = set()
    guard, meeting = threading.Lock(), threading.Barrier(most, timeout=20)
    # Whoever is in the first turns after the canary's.
    first = names[1 : most + 1]

    def on(event: Event, _: Applier) -> None:
        with guard:
            if "set it aside" in event.text:
                away.add(event.subject)
                together.add(frozenset(away))
                assert owner(world, "linux/amd64") not in away
            elif event.text == "let builds come again":
                away.discard(event.subject)
        if "set it aside" in event.text and event.subject in first:
            meeting.wait()

    report, _ = up(world, fleet(*map(host, names), image="moby/buildkit:v0.33.0"), parallel=parallel, on=on)
    assert report.exit_code == 0
    assert max(map(len, together)) == most
    assert frozenset({"amd-1"}) in together


def test_the_only_node_of_an_architecture_is_said_to_be_alone() -> None:
    _, events = up(three(), NEWER)
    assert ("wait until its builds have ended, it is the only one of its architecture", "begun") in of(events, "arm-1")


def test_one_of_an_architecture_at_a_time_and_the_first_alone() -> None:
    four = fleet(*HOSTS, host("amd-3"))
    world = FakeWorld.of(*(Machine(f"amd-{n}.example") for n in (1, 2, 3)), Machine("arm-1.example", "aarch64"))
    world.apply(four)
    away: set[str] = set()
    together: set[frozenset[str]] = set()
    guard, both = threading.Lock(), threading.Barrier(2, timeout=20)

    def on(event: Event, _: Applier) -> None:
        with guard:
            if "set it aside" in event.text:
                away.add(event.subject)
                together.add(frozenset(away))
            elif event.text == "let builds come again":
                away.discard(event.subject)
        if "set it aside" in event.text and event.subject in {"amd-2", "arm-1"}:
            both.wait()

    report, events = up(world, fleet(*four.hosts, image="moby/buildkit:v0.33.0"), on=on)
    assert report.exit_code == 0
    assert frozenset({"amd-2", "arm-1"}) in together
    assert all(len(names - {"arm-1"}) <= 1 for names in together)
    begun = [event.subject for event in events if event.text.startswith("pull ")]
    assert begun[0] == "amd-1"
    first_over = events.index(Event("amd-1", "done", "done"))
    assert {event.subject for event in events[:first_over]} == {"amd-1"}


def test_while_a_node_is_replaced_the_builder_has_another_one() -> None:
    world, seen = three(), dict[str, str]()
    assert owner(world, "linux/amd64") == "amd-1"

    def on(event: Event, _: Applier) -> None:
        if "set it aside" in event.text:
            seen[event.subject] = owner(world, "linux/arm64" if event.subject == "arm-1" else "linux/amd64")

    assert up(world, NEWER, on=on)[0].exit_code == 0
    assert seen == {"amd-1": "amd-2", "amd-2": "amd-1", "arm-1": "arm-1"}


def test_a_node_that_only_stands_by_takes_over_for_a_chosen_host_and_gives_back() -> None:
    world, seen = three(), list[str]()
    report, _ = up(
        world, NEWER, only=["amd-1"], on=when("amd-1", STOP, lambda: seen.append(owner(world, "linux/amd64")))
    )
    assert report.exit_code == 0
    assert (seen, owner(world, "linux/amd64")) == (["amd-2"], "amd-1")


def test_a_host_that_is_new_is_there_before_another_is_replaced() -> None:
    world, seen = FakeWorld.of(Machine("amd-1.example"), Machine("amd-2.example")), list[str]()
    world.apply(fleet(host("amd-1")))
    newer = fleet(host("amd-1"), host("amd-2"), image="moby/buildkit:v0.33.0")
    report, _ = up(world, newer, on=when("amd-1", STOP, lambda: seen.append(owner(world, "linux/amd64"))))
    assert report.exit_code == 0
    assert seen == ["amd-2"]


# ------------------------------------------------------------------------------------------------------ waiting


def test_running_builds_are_waited_for_and_told_of() -> None:
    world, left = three(), list[int]()
    machine = amd_1(world)
    machine.builds = 2

    def on(event: Event, _: Applier) -> None:
        if event.state == "note" and "to end" in event.text:
            machine.builds -= 1
        if event.text.startswith(STOP):
            left.append(machine.builds)

    report, events = up(world, NEWER, on=on)
    assert report.exit_code == 0
    told = [text for text, state in of(events, "amd-1") if state == "note"]
    assert told == ["downloading layer", "waiting for 2 builds to end", "waiting for 1 build to end"]
    assert left == [0]


def test_builds_that_do_not_end_are_not_waited_for_for_ever() -> None:
    world = three()
    amd_1(world).builds = 1
    assert up(world, NEWER, only=["amd-1"], patience=1)[0].exit_code == 0


@pytest.mark.parametrize(("connected", "grace"), [(0, 0), (1, LEAST_GRACE)], ids=["idle", "building"])
def test_without_patience_another_node_takes_over_and_builds_have_a_short_grace(connected: int, grace: int) -> None:
    world = three()
    machine, owners = amd_1(world), list[str]()
    machine.builds = machine.connected = connected
    watch = when("amd-1", STOP, lambda: owners.append(owner(world, "linux/amd64")))
    report, events = up(world, NEWER, only=["amd-1"], patience=0, on=watch)
    assert report.exit_code == 0
    assert owners == ["amd-2"]
    assert machine.stopped == [("fleet.acme.amd-1", grace)]
    assert ("do not wait until its builds have ended", "begun") in of(events, "amd-1")
    assert not [text for text, state in of(events, "amd-1") if state == "note" and "waiting" in text]
    assert world.plan(NEWER, only=["amd-1"]).empty


def test_a_build_that_comes_at_the_last_moment_is_waited_for() -> None:
    world = three()
    machine, stopped = amd_1(world), list[int]()
    machine.connected = True

    def on(event: Event, _: Applier) -> None:
        if event.text.startswith(STOP):
            machine.builds = 1
        if event.text == "waiting for 1 build to end":
            stopped.append(len(machine.stopped))
            machine.builds, machine.connected = 0, False

    assert up(world, NEWER, only=["amd-1"], on=on)[0].exit_code == 0
    assert (stopped, machine.stopped) == ([0], [("fleet.acme.amd-1", 0)])


def test_a_daemon_that_cannot_be_frozen_at_all_is_asked_to_end() -> None:
    world = three()
    amd_1(world).freezes = False
    assert up(world, NEWER, only=["amd-1"])[0].exit_code == 0
    assert amd_1(world).stopped == [("fleet.acme.amd-1", GRACE)]


# ----------------------------------------------------------------------------------------------------- put back


@dataclass(frozen=True, slots=True)
class Trouble:
    """What goes wrong on amd-1 at a step, until its former daemon is put back, and what is said of it."""

    step: str
    begin: Callable[[Machine], object]
    end: Callable[[Machine], object]
    stage: Stage
    reason: str


def take_port(machine: Machine) -> None:
    machine.containers.append(Container("thief", "thief", state="running", port=1234))


def set_network(machine: Machine, *, up: bool) -> None:
    machine.network = up


def report_platforms(machine: Machine, *reported: str) -> None:
    machine.reported = reported


def nothing(_: Machine) -> None:
    pass


TROUBLES = {
    "it cannot be created": Trouble(
        CREATE, Machine.prune_images, nothing, Stage.CONTAINER, "Docker said: No such image: moby/buildkit:v0.33.0"
    ),
    "it cannot be started": Trouble(
        START,
        take_port,
        lambda machine: machine.containers.pop(),
        Stage.CONTAINER,
        "Docker said: port 1234 is already allocated",
    ),
    "it does not stay up": Trouble(
        START,
        lambda machine: setattr(machine, "crashes", True),
        lambda machine: setattr(machine, "crashes", False),
        Stage.CONTAINER,
        "fleet.acme.amd-1 does not stay up (is restarting); its last lines:\n"
        "toml: incomplete number\nfailed to parse config",
    ),
    "it does not answer": Trouble(
        START,
        lambda machine: set_network(machine, up=False),
        lambda machine: set_network(machine, up=True),
        Stage.TCP,
        "no answer from amd-1.example:1234 within 5 s",
    ),
    "it is not native": Trouble(
        START,
        lambda machine: report_platforms(machine, "linux/arm64"),
        report_platforms,
        Stage.NATIVE,
        "the host is x86_64, but its daemon runs as linux/arm64",
    ),
}


@pytest.mark.parametrize("trouble", TROUBLES.values(), ids=TROUBLES)
def test_a_daemon_whose_successor_fails_is_put_back_and_no_other_is_touched(
    trouble: Trouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(act, "READY_TIMEOUT", 0.05)
    world = three()
    before, machine = ids(world), amd_1(world)

    def on(event: Event, _: Applier) -> None:
        if event.subject == "amd-1" and event.text.startswith(trouble.step):
            trouble.begin(machine)
        if event.text == PUT_BACK:
            trouble.end(machine)

    report, _ = up(world, NEWER, on=on)
    assert results(report) == {
        "amd-1": Result.FAILED,
        "amd-2": Result.BLOCKED,
        "arm-1": Result.BLOCKED,
        "builder": Result.UNCHANGED,
    }
    assert report.exit_code == 1
    told = failure(report, "amd-1")
    assert (told.stage, told.reason) == (trouble.stage, f"{trouble.reason}; the former daemon is back")
    assert failure(report, "amd-2").reason == "not begun, as amd-1 failed"
    assert ids(world) == before
    assert drains(world) == []
    assert all(lane.why for lane in world.plan(NEWER).lanes.values())
    assert up(world, NEWER)[0].exit_code == 0
    assert world.plan(NEWER).empty


def test_a_former_daemon_that_does_not_come_back_either_is_said_beside_the_cause() -> None:
    world = three()
    machine = amd_1(world)
    report, _ = up(world, NEWER, on=when("amd-1", START, lambda: take_port(machine)))
    port_is_taken = "Docker said: port 1234 is already allocated"
    assert failure(report, "amd-1").reason == (
        f"{port_is_taken}; and the former daemon does not come back (container: {port_is_taken})"
    )
    assert owner(world, "linux/amd64") == "amd-2"
    machine.containers = [container for container in machine.containers if container.fleet]
    assert up(world, NEWER)[0].exit_code == 0
    assert world.plan(NEWER).empty


def test_a_stranger_in_the_daemons_place_is_not_removed_to_put_it_back() -> None:
    world = three()
    machine = amd_1(world)
    thief = Container("thief", "fleet.acme.amd-1", state="running")
    report, _ = up(world, NEWER, on=when("amd-1", CREATE, lambda: machine.containers.append(thief)))
    assert "the former daemon does not come back" in failure(report, "amd-1").reason
    assert thief in machine.containers


def test_a_daemon_that_was_stopped_but_not_set_aside_is_started_again() -> None:
    world = three()
    before, machine = ids(world), amd_1(world)
    stranger = Container("stranger", "fleet.acme.amd-1.aside")
    report, _ = up(world, NEWER, on=when("amd-1", STOP, lambda: machine.containers.append(stranger)))
    assert failure(report, "amd-1").reason == (
        "Docker said: the name fleet.acme.amd-1.aside is in use; the former daemon is back"
    )
    machine.containers.remove(stranger)
    assert (ids(world), drains(world)) == (before, [])


def test_what_fails_before_a_daemon_is_touched_lets_builds_come_again() -> None:
    world = three()
    before = ids(world)

    def break_buildx() -> None:
        world.builder.broken = "no space left on device"

    report, _ = up(world, NEWER, on=when("amd-1", DRAIN, break_buildx))
    assert failure(report, "amd-1").stage is Stage.BUILDER
    assert "no space left on device" in failure(report, "amd-1").reason
    assert (ids(world), drains(world)) == (before, [])


def test_a_drain_that_cannot_be_withdrawn_is_said() -> None:
    world = three()
    machine = amd_1(world)

    def break_both() -> None:
        world.builder.broken, machine.network = "no space left on device", False

    report, _ = up(world, NEWER, on=when("amd-1", WAIT, break_both))
    assert "; and builds are still kept away (TCP: no answer from" in failure(report, "amd-1").reason
    world.builder.broken, machine.network = None, True
    assert up(world, NEWER)[0].exit_code == 0
    assert drains(world) == []


def test_a_successor_that_fails_on_a_host_where_nothing_worked_stops_the_turns() -> None:
    world = three()
    amd_1(world).containers[0].state = "exited"
    report, _ = up(world, fleet(*HOSTS, image="broken/buildkit:v1"))
    assert results(report)["amd-1"] is Result.FAILED
    assert failure(report, "amd-2").reason == "not begun, as amd-1 failed"


def test_a_new_host_that_fails_stops_nobody() -> None:
    world = three(Machine("amd-3.example", pulls=False))
    report, _ = up(world, fleet(*HOSTS, host("amd-3"), image="moby/buildkit:v0.33.0"))
    assert results(report) == {
        **dict.fromkeys(("amd-1", "amd-2", "arm-1"), Result.DONE),
        "amd-3": Result.FAILED,
        "builder": Result.UNCHANGED,
    }


# ------------------------------------------------------------------------------------------- an operator's own drain


def test_an_operators_drain_stays_while_its_daemon_is_replaced() -> None:
    world = three()
    amd_1(world).notes["fleet.acme.amd-1"] = {notes.DRAIN: BY_BOB}
    report, events = up(world, NEWER)
    assert report.exit_code == 0
    assert drains(world) == [BY_BOB]
    assert not {"keep new builds away", "let builds come again"} & {text for text, _ in of(events, "amd-1")}
    assert owner(world, "linux/amd64") == "amd-2"


@pytest.mark.parametrize("step", [DRAIN, WAIT, "let builds come again"])
def test_an_operator_who_drains_a_node_meanwhile_is_heeded(step: str) -> None:
    world = three()

    def drain() -> None:
        amd_1(world).notes.setdefault("fleet.acme.amd-1", {})[notes.DRAIN] = BY_BOB

    assert up(world, NEWER, on=when("amd-1", step, drain))[0].exit_code == 0
    assert drains(world) == [BY_BOB]


def test_a_drain_that_is_passing_says_who_replaces_the_daemon() -> None:
    world, seen = three(), list[notes.Drain | None]()
    amd = world.prober()
    up(world, NEWER, on=when("amd-1", STOP, lambda: seen.append(notes.drain(amd.probe(HOSTS[0], timeout=1)))))
    assert seen == [notes.Drain("anna@desk", NOW, passing=True)]


# ----------------------------------------------------------------------------------------------------- stopping


def stop_at(subject: str, text: str) -> Callable[[Event, Applier], None]:
    def on(event: Event, applier: Applier) -> None:
        if event.subject == subject and event.text.startswith(text):
            applier.stop.set()

    return on


def test_a_run_that_is_stopped_while_it_waits_for_builds_lets_builds_come_again() -> None:
    world = three()
    before, machine = ids(world), amd_1(world)
    machine.builds = 1
    report, _ = up(world, NEWER, on=stop_at("amd-1", "waiting for 1 build"))
    assert results(report) == {
        **dict.fromkeys(("amd-1", "amd-2", "arm-1"), Result.STOPPED),
        "builder": Result.UNCHANGED,
    }
    assert report.exit_code == 130
    assert failure(report, "amd-1").reason == "stopped before: its daemon is replaced"
    assert failure(report, "amd-2").reason == "stopped before: pull moby/buildkit:v0.33.0"
    assert (ids(world), drains(world)) == (before, [])
    machine.builds = 0
    assert up(world, NEWER)[0].exit_code == 0
    assert world.plan(NEWER).empty


@pytest.mark.parametrize("step", [STOP, CREATE, START, "wait until it answers", "let builds come again"])
def test_a_run_that_is_stopped_while_a_daemon_is_set_aside_finishes_that_host_first(step: str) -> None:
    world = three()
    report, _ = up(world, NEWER, on=stop_at("amd-1", step))
    assert results(report) == {
        "amd-1": Result.DONE,
        **dict.fromkeys(("amd-2", "arm-1"), Result.STOPPED),
        "builder": Result.UNCHANGED,
    }
    assert report.exit_code == 130
    assert [container.image for container in amd_1(world).containers] == ["moby/buildkit:v0.33.0"]
    assert drains(world) == []
    assert not world.plan(NEWER).lanes["amd-1"].actions


def test_a_key_that_interrupts_is_such_a_stop() -> None:
    world, main = three(), threading.main_thread().ident
    assert main

    def on(event: Event, applier: Applier) -> None:
        if event.subject == "amd-1" and event.text.startswith(CREATE):
            signal.pthread_kill(main, signal.SIGINT)
            assert applier.stop.wait(20)

    report, events = up(world, NEWER, on=on)
    assert report.exit_code == 130
    assert results(report)["amd-1"] is Result.DONE
    assert of(events, "fleet") == [("stopping once every host can be left alone; again to stop at once", "note")]


def test_a_second_interrupt_does_not_wait() -> None:
    world, main, over = three(), threading.main_thread().ident, threading.Event()
    assert main

    def on(event: Event, _: Applier) -> None:
        if event.subject == "amd-1" and event.text.startswith(CREATE):
            signal.pthread_kill(main, signal.SIGINT)
            over.wait(20)
        if event.subject == "fleet":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        up(world, NEWER, on=on)
    over.set()


def test_a_run_whose_time_is_over_finishes_what_it_has_begun_and_begins_nothing() -> None:
    world = three()

    def on(event: Event, applier: Applier) -> None:
        if event.subject == "amd-1" and event.text.startswith(CREATE):
            assert applier.stop.wait(20)

    report, events = up(world, NEWER, seconds=0.5, on=on)
    assert results(report) == {
        "amd-1": Result.DONE,
        **dict.fromkeys(("amd-2", "arm-1"), Result.STOPPED),
        "builder": Result.UNCHANGED,
    }
    assert report.exit_code == 3
    assert failure(report, "amd-2").reason == "the time was over, stopped before: pull moby/buildkit:v0.33.0"
    assert [text.partition(":")[0] for text, _ in of(events, "fleet")] == ["the time is over"]
    assert drains(world) == []
    assert up(world, NEWER)[0].exit_code == 0
    assert world.plan(NEWER).empty


def test_a_run_whose_time_is_over_before_it_begins_changes_nothing() -> None:
    world = FakeWorld.of(*(Machine(known.address) for known in HOSTS))
    report, _ = up(world, OLD, seconds=0.0)
    assert report.exit_code == 1
    assert {outcome.result for outcome in report.nodes} == {Result.STOPPED}
    assert (world.vault.read().authority, world.builder.ran) == (None, [])
    assert [machine.containers for machine in world.machines.values()] == [[], [], []]


def test_a_run_that_ends_in_time_is_not_late() -> None:
    world = three()
    report, events = up(world, NEWER, seconds=600.0)
    assert report.exit_code == 0
    assert of(events, "fleet") == []


# ----------------------------------------------------------------------------------------------------- renewals


def test_certificates_are_renewed_by_turns_too() -> None:
    world = three()
    world.now += timedelta(days=340)
    report, events = up(world, OLD)
    assert report.exit_code == 0
    aside = [event.subject for event in events if "set it aside" in event.text]
    assert sorted(aside) == ["amd-1", "amd-2", "arm-1"]
    assert aside[0] == "amd-1"
