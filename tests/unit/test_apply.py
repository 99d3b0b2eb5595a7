"""Carrying out a plan: what is done in which order, what a failure leaves undone, and what is told of it."""

from __future__ import annotations

import copy
import threading
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from certs.certificate import Role, describe, is_issued_by
from fleet.applying import act, apply
from fleet.applying.apply import Applier
from fleet.applying.report import Outcome, Report, Result
from fleet.containers import buildkitd
from fleet.containers.daemon import EMULATORS
from fleet.errors import Busy, Unreachable, VaultError
from fleet.model.facts import BuilderFacts, Down, Stage
from fleet.model.spec import BuildkitSpec, pull_mark
from fleet.observing.observe import Connections, observe
from fleet.planning.plan import plan
from tests.support.fakes import Container, FakeEngine, FakeHost, Machine
from tests.support.runs import down, failure, of, results, up
from tests.support.values import IMAGE, NOW, fleet, host, node
from tests.support.world import FakeWorld

if TYPE_CHECKING:
    from fleet.model.facts import ApiFacts
    from fleet.model.spec import HostSpec
    from fleet.ports import Host

TWO = fleet(host("amd-1"), host("arm-1"))


def two() -> FakeWorld:
    return FakeWorld.of(Machine("amd-1.example"), Machine("arm-1.example", "aarch64"))


# ---------------------------------------------------------------------------------------------- a first run


def test_a_first_run_makes_everything() -> None:
    world = two()
    report, _ = up(world, TWO)
    assert results(report) == dict.fromkeys(("amd-1", "arm-1", "builder"), Result.DONE)
    assert report.exit_code == 0
    registered = world.builder.read("acme")
    assert registered.nodes == (
        node("amd-1", "linux/amd64", "linux/amd64/v2", "linux/amd64/v3", "linux/386"),
        node("arm-1", "linux/arm64", "linux/arm/v7", "linux/arm/v6"),
    )
    assert world.plan(TWO).empty


def test_a_second_run_changes_nothing() -> None:
    world = two()
    up(world, TWO)
    before = copy.deepcopy(world.machines)
    ran = list(world.builder.ran)
    report, events = up(world, TWO)
    assert results(report) == dict.fromkeys(("amd-1", "arm-1", "builder"), Result.UNCHANGED)
    assert report.exit_code == 0
    assert {event.text for event in events} == {"nothing to do"}
    assert world.builder.ran == ran
    assert [m.containers for m in world.machines.values()] == [m.containers for m in before.values()]


def test_the_authority_is_made_first_and_every_container_carries_its_fingerprint() -> None:
    world = two()
    _, events = up(world, TWO)
    assert [event.subject for event in events[:4]] == ["vault"] * 4
    fingerprint = world.vault.read().authority_fingerprint
    assert fingerprint
    for machine in world.machines.values():
        assert [c.settings["authority"] for c in machine.containers] == [fingerprint[:16]]


def test_a_container_gets_its_configuration_its_certificates_and_no_emulator() -> None:
    world = two()
    up(world, TWO)
    [container] = world.machines["amd-1.example"].containers
    files = container.files
    assert files[buildkitd.CONFIG_PATH] == (buildkitd.render({}, {buildkitd.LABEL_ARCH: "amd64"}).encode(), 0o644)
    assert world.vault.authority
    assert files[buildkitd.CA_PATH] == (world.vault.authority.certificate, 0o644)
    certificate, mode = files[buildkitd.CERT_PATH]
    assert (mode, files[buildkitd.KEY_PATH][1]) == (0o644, 0o600)
    described = describe(certificate)
    assert described.role is Role.NODE
    assert described.names == ("amd-1.example", "amd-1", "amd64.acme.fleet.internal")
    assert is_issued_by(certificate, files[buildkitd.CA_PATH][0])
    assert container.certificate
    assert container.certificate.serial == described.serial
    assert {files[path] for path in EMULATORS} == {(b"", 0o644)}


def test_the_events_of_a_host_are_its_actions_in_order() -> None:
    world = two()
    world.machines["arm-1.example"].images.add(IMAGE)
    _, events = up(world, TWO)
    assert of(events, "amd-1") == [
        (f"pull {IMAGE}", "begun"),
        ("downloading layer", "note"),
        ("create fleet.acme.amd-1 with a new certificate", "begun"),
        ("start fleet.acme.amd-1", "begun"),
        ("wait until it answers over mutual TLS", "begun"),
        ("done", "done"),
    ]
    assert of(events, "arm-1")[0] == ("create fleet.acme.arm-1 with a new certificate", "begun")
    assert of(events, "vault") == [
        ("make a certificate authority for acme", "begun"),
        ("make a certificate authority for acme", "done"),
        ("issue a client certificate for operator", "begun"),
        ("issue a client certificate for operator", "done"),
    ]
    assert of(events, "builder")[-1] == ("done", "done")


def test_the_builder_comes_after_every_host() -> None:
    _, events = up(two(), TWO)
    first = next(index for index, event in enumerate(events) if event.subject == "builder")
    assert {event.subject for event in events[first:]} == {"builder"}


def test_what_fleet_pulled_is_marked_and_what_was_there_is_not() -> None:
    world = two()
    world.machines["arm-1.example"].images.add(IMAGE)
    up(world, TWO)
    assert [m.marks for m in world.machines.values()] == [{pull_mark("acme", IMAGE): IMAGE}, {}]


def test_a_new_image_takes_the_place_of_the_one_that_fleet_pulled() -> None:
    world, newer = two(), replace(TWO, buildkit=BuildkitSpec("moby/buildkit:v0.33.0"))
    world.machines["arm-1.example"].images.add(IMAGE)
    up(world, TWO)
    up(world, newer)
    assert [m.images for m in world.machines.values()] == [{newer.buildkit.image}, {IMAGE, newer.buildkit.image}]
    down(world, newer, volumes=True)
    assert [m.images for m in world.machines.values()] == [set(), {IMAGE}]


def test_hosts_are_done_side_by_side() -> None:
    world, both = two(), threading.Barrier(2, timeout=20)
    ports = world.ports()

    class Meeting(FakeEngine):
        def start(self, container: str) -> None:
            both.wait()
            super().start(container)

    class Meeter(FakeHost):
        def engine(self) -> FakeEngine:
            return Meeting(self.machine)

    facts, decided = world.facts(TWO), world.plan(TWO)
    with Connections(lambda spec: Meeter(world.machines[spec.address])) as connections:
        report = Applier(TWO, ports, connections, lambda _: None).up(facts, decided)
    assert report.exit_code == 0


# ------------------------------------------------------------------------------------------------ failures


def test_a_host_that_fails_leaves_the_others() -> None:
    world = two()
    world.machines["arm-1.example"].pulls = False
    report, events = up(world, TWO)
    assert results(report) == {"amd-1": Result.DONE, "arm-1": Result.FAILED, "builder": Result.DONE}
    assert report.exit_code == 3
    assert failure(report, "arm-1") == Down(Stage.IMAGE, f"Docker said: no {IMAGE} here", "is the reference right?")
    assert of(events, "arm-1")[-1] == (f"image: Docker said: no {IMAGE} here", "failed")
    assert [entry.name for entry in world.builder.read("acme").nodes] == ["amd-1"]
    assert world.machines["arm-1.example"].containers == []


def test_a_host_that_failed_is_finished_by_the_next_run() -> None:
    world = two()
    world.machines["arm-1.example"].pulls = False
    up(world, TWO)
    world.machines["arm-1.example"].pulls = True
    report, _ = up(world, TWO)
    assert results(report) == {"amd-1": Result.UNCHANGED, "arm-1": Result.DONE, "builder": Result.DONE}
    assert world.plan(TWO).empty


def test_a_host_that_cannot_be_logged_in_to_is_blocked_and_leaves_the_others() -> None:
    world = two()
    world.machines["arm-1.example"].login = False
    report, events = up(world, TWO)
    assert results(report) == {"amd-1": Result.DONE, "arm-1": Result.BLOCKED, "builder": Result.DONE}
    assert report.exit_code == 3
    assert failure(report, "arm-1").stage is Stage.SSH
    assert of(events, "arm-1") == [("SSH: no answer from arm-1.example:22 within 10 s", "failed")]


def test_when_every_host_fails_the_run_has_failed_and_the_builder_is_left() -> None:
    world = two()
    up(world, TWO)
    stored = world.builder.read("acme")
    for machine in world.machines.values():
        machine.containers.clear()
        machine.images.clear()
        machine.pulls = False
    report, _ = up(world, TWO)
    assert results(report) == {"amd-1": Result.FAILED, "arm-1": Result.FAILED, "builder": Result.UNCHANGED}
    assert report.exit_code == 1
    assert world.builder.read("acme") == stored


def test_when_every_host_is_blocked_the_run_has_failed() -> None:
    world = two()
    for machine in world.machines.values():
        machine.login = False
    report, _ = up(world, TWO)
    assert results(report) == {"amd-1": Result.BLOCKED, "arm-1": Result.BLOCKED, "builder": Result.UNCHANGED}
    assert report.exit_code == 1


def test_a_foreign_container_is_left_and_told_of() -> None:
    world = two()
    theirs = Container("1", "fleet.acme.amd-1", state="running")
    world.machines["amd-1.example"].containers.append(theirs)
    report, _ = up(world, TWO)
    assert results(report)["amd-1"] is Result.BLOCKED
    assert "is not fleet's" in failure(report, "amd-1").reason
    assert world.machines["amd-1.example"].containers == [theirs]


TRACE = "\nmain.main\n\tgithub.com/moby/buildkit@v0.32.2/cmd/buildkitd/main.go:137\nruntime.main\n\truntime/proc.go:290"


def test_a_daemon_that_crashes_is_told_of_with_its_last_lines() -> None:
    world = two()
    world.machines["amd-1.example"].crashes = True
    world.machines["amd-1.example"].log = "\n".join(f"line {n}" for n in range(9)) + 2 * f"\nbad key{TRACE}"
    report, _ = up(world, TWO)
    told = failure(report, "amd-1")
    assert told.stage is Stage.CONTAINER
    assert "fleet.acme.amd-1 does not stay up (is restarting)" in told.reason
    assert told.reason.endswith("line 5\nline 6\nline 7\nline 8\nbad key")
    assert "docker logs fleet.acme.amd-1" in (told.remedy or "")
    assert results(report)["arm-1"] is Result.DONE


def test_a_daemon_that_does_not_answer_in_time_is_told_of_with_the_stage_it_is_stuck_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = two()
    world.machines["amd-1.example"].network = False
    monkeypatch.setattr(act, "READY_TIMEOUT", 0.0)
    report, _ = up(world, TWO)
    assert failure(report, "amd-1").stage is Stage.TCP
    assert results(report) == {"amd-1": Result.FAILED, "arm-1": Result.DONE, "builder": Result.DONE}
    assert [entry.name for entry in world.builder.read("acme").nodes] == ["arm-1"]


def test_a_daemon_that_is_not_native_is_not_registered() -> None:
    world = two()
    world.machines["arm-1.example"].reported = ("linux/amd64",)
    report, _ = up(world, TWO)
    told = failure(report, "arm-1")
    assert told.stage is Stage.NATIVE
    assert told.reason == "the host is aarch64, but its daemon runs as linux/amd64"
    assert [entry.name for entry in world.builder.read("acme").nodes] == ["amd-1"]


def test_a_node_that_becomes_unable_stays_the_owner_of_what_nobody_else_runs() -> None:
    world = two()
    up(world, TWO)
    world.machines["arm-1.example"].containers[0].state = "exited"
    world.machines["arm-1.example"].crashes = True
    report, _ = up(world, TWO)
    assert results(report) == {"amd-1": Result.UNCHANGED, "arm-1": Result.FAILED, "builder": Result.UNCHANGED}
    assert [entry.name for entry in world.builder.read("acme").nodes] == ["amd-1", "arm-1"]


def test_a_lane_that_fails_before_the_old_daemon_is_touched_leaves_it_at_work() -> None:
    world = two()
    up(world, TWO)
    machine = world.machines["amd-1.example"]
    report, events = up(world, fleet(host("amd-1"), host("arm-1"), image="nowhere/buildkit:v1"))
    assert failure(report, "amd-1").stage is Stage.IMAGE
    assert [container.state for container in machine.containers] == ["running"]
    assert [text for text, _ in of(events, "amd-1")][:1] == ["pull nowhere/buildkit:v1"]
    assert {entry.name for entry in world.builder.read("acme").nodes} == {"amd-1", "arm-1"}


def test_a_warning_reaches_the_report() -> None:
    world = two()
    up(world, TWO)
    world.machines["amd-1.example"].emulated = ("arm64",)
    report, _ = up(world, TWO)
    assert report.exit_code == 0
    assert [outcome.warning and outcome.warning.stage for outcome in report.nodes] == [Stage.NATIVE, None]


def test_a_connection_that_is_lost_in_the_middle_is_a_failure_of_that_host() -> None:
    world = two()
    facts, decided, ports = world.facts(TWO), world.plan(TWO), world.ports()

    def connect(spec: HostSpec) -> Host:
        if spec.name == "arm-1":
            raise Unreachable(Stage.SSH, "the connection was lost", "run the command again")
        return ports.connect(spec)

    with Connections(connect) as connections:
        report = Applier(TWO, ports, connections, lambda _: None).up(facts, decided)
    assert failure(report, "arm-1") == Down(Stage.SSH, "the connection was lost", "run the command again")
    assert report.exit_code == 3


def test_a_vault_that_cannot_be_written_stops_the_run_before_any_host() -> None:
    world = two()
    facts, decided, ports = world.facts(TWO), world.plan(TWO), world.ports()
    world.vault.create_authority("acme", NOW)  # by somebody else, in between
    asked: list[str] = []

    def connect(spec: HostSpec) -> Host:
        asked.append(spec.name)
        return ports.connect(spec)

    with Connections(connect) as connections, pytest.raises(VaultError, match="there is a CA already"):
        Applier(TWO, ports, connections, lambda _: None).up(facts, decided)
    assert asked == []


# ------------------------------------------------------------------------------------------------- builder


def test_a_builder_that_buildx_refuses_is_partly_done() -> None:
    world = two()
    world.builder.broken = "no space left on device"
    report, events = up(world, TWO)
    assert results(report) == {"amd-1": Result.DONE, "arm-1": Result.DONE, "builder": Result.FAILED}
    assert report.exit_code == 3
    assert "no space left on device" in failure(report, "builder").reason
    assert of(events, "builder")[-1][1] == "failed"


def test_a_builder_that_is_not_stored_as_asked_is_noticed() -> None:
    world = two()
    world.builder.forgets_pins = True
    report, _ = up(world, TWO)
    assert results(report)["builder"] is Result.FAILED
    assert "did not store node amd-1" in failure(report, "builder").reason
    assert failure(report, "builder").remedy == "run fleet up again"


def test_a_builder_of_somebody_else_is_left() -> None:
    world = two()
    theirs = world.builder.builders["acme"] = BuilderFacts(driver="docker-container")
    report, _ = up(world, TWO)
    assert results(report) == {"amd-1": Result.DONE, "arm-1": Result.DONE, "builder": Result.BLOCKED}
    assert report.exit_code == 3
    assert world.builder.builders["acme"] == theirs
    assert world.builder.ran == []


# --------------------------------------------------------------------------------------------------- --host


def test_only_the_chosen_host_is_touched() -> None:
    world = two()
    report, _ = up(world, TWO, only=["arm-1"])
    assert results(report) == {"arm-1": Result.DONE, "builder": Result.DONE}
    assert world.machines["amd-1.example"].containers == []
    assert [entry.name for entry in world.builder.read("acme").nodes] == ["arm-1"]


def test_the_hosts_that_were_not_chosen_stay_registered_as_they_are() -> None:
    spec = fleet(host("a"), host("b"), host("c"))
    world = FakeWorld.of(*(Machine(f"{name}.example") for name in "abc"))
    up(world, spec)
    stored = world.builder.read("acme")
    assert [len(entry.platforms) for entry in stored.nodes] == [4, 0, 0]
    world.machines["b.example"].login = world.machines["b.example"].network = False
    world.machines["a.example"].containers[0].state = "exited"
    report, _ = up(world, spec, only=["a"])
    assert results(report) == {"a": Result.DONE, "builder": Result.UNCHANGED}
    assert world.builder.read("acme") == stored


# --------------------------------------------------------------------------------------- renewals, upgrades


def test_certificates_are_renewed_before_they_expire() -> None:
    world = two()
    up(world, TWO)
    old = {m.address: m.containers[0].certificate for m in world.machines.values()}
    client = world.vault.read().client
    world.now += timedelta(days=340)
    report, _ = up(world, TWO)
    assert report.exit_code == 0
    assert world.vault.read().client != client
    for machine in world.machines.values():
        assert machine.containers[0].certificate != old[machine.address]
        assert [name for name, _ in machine.stopped] == [machine.containers[0].name]
    assert world.plan(TWO).empty


def test_an_expired_fleet_comes_back() -> None:
    world = two()
    up(world, TWO)
    world.now += timedelta(days=800)
    assert up(world, TWO)[0].exit_code == 0
    assert world.plan(TWO).empty


def test_an_upgrade_keeps_the_cache() -> None:
    world = two()
    up(world, TWO)
    newer = fleet(*TWO.hosts, image="moby/buildkit:v0.33.0")
    report, _ = up(world, newer)
    assert report.exit_code == 0
    for machine in world.machines.values():
        assert [c.image for c in machine.containers] == ["moby/buildkit:v0.33.0"]
        assert len(machine.volumes) == 1


# ----------------------------------------------------------------------------------------------------- down


def test_down_removes_daemons_and_builder_and_keeps_caches_and_keys() -> None:
    world = two()
    up(world, TWO)
    report, events = down(world, TWO)
    assert results(report) == dict.fromkeys(("amd-1", "arm-1", "builder"), Result.DONE)
    assert report.exit_code == 0
    for machine in world.machines.values():
        assert machine.containers == []
        assert len(machine.volumes) == 1
        assert machine.images == {IMAGE}
    assert not world.builder.read("acme").registered
    assert world.vault.read().client
    assert events[0].subject == "builder"


def test_down_with_volumes_removes_caches_and_what_fleet_pulled() -> None:
    world = two()
    world.machines["arm-1.example"].images.add(IMAGE)
    up(world, TWO)
    down(world, TWO, volumes=True)
    assert [m.volumes for m in world.machines.values()] == [{}, {}]
    assert [m.images for m in world.machines.values()] == [set(), {IMAGE}]


def test_down_and_up_again() -> None:
    world = two()
    up(world, TWO)
    down(world, TWO)
    assert up(world, TWO)[0].exit_code == 0
    assert world.plan(TWO).empty


def test_down_twice_has_nothing_to_do() -> None:
    world = two()
    up(world, TWO)
    down(world, TWO, volumes=True)
    report, _ = down(world, TWO, volumes=True)
    assert results(report) == dict.fromkeys(("amd-1", "arm-1", "builder"), Result.UNCHANGED)


def test_down_goes_on_where_a_host_fails() -> None:
    world = two()
    up(world, TWO)
    world.machines["amd-1.example"].login = False
    report, _ = down(world, TWO)
    assert results(report) == {"amd-1": Result.BLOCKED, "arm-1": Result.DONE, "builder": Result.DONE}
    assert report.exit_code == 3
    assert world.machines["arm-1.example"].containers == []


# ---------------------------------------------------------------------------------------------- exit codes

OK, UNCHANGED = Outcome("a", Result.DONE), Outcome("a", Result.UNCHANGED)
FAILED = Outcome("a", Result.FAILED, failure=Down(Stage.SSH, "no"))
BLOCKED = Outcome("a", Result.BLOCKED, failure=Down(Stage.SSH, "no"))

CODES: dict[str, tuple[tuple[Outcome, ...], Outcome, int]] = {
    "all done": ((OK, OK), OK, 0),
    "nothing changed": ((UNCHANGED, UNCHANGED), UNCHANGED, 0),
    "one failed": ((OK, FAILED), OK, 3),
    "one blocked": ((UNCHANGED, BLOCKED), UNCHANGED, 3),
    "all failed": ((FAILED, FAILED), UNCHANGED, 1),
    "all blocked": ((BLOCKED,), UNCHANGED, 1),
    "all blocked but the builder": ((BLOCKED,), OK, 1),
    "the builder alone failed": ((OK, OK), FAILED, 3),
    "everything failed": ((FAILED,), FAILED, 1),
}


@pytest.mark.parametrize(("nodes", "builder", "code"), CODES.values(), ids=CODES)
def test_exit_codes(nodes: tuple[Outcome, ...], builder: Outcome, code: int) -> None:
    assert Report(nodes, builder).exit_code == code


# --------------------------------------------------------------------------------------------- any machines


@settings(max_examples=30)
@given(
    st.lists(st.sampled_from(["x86_64", "aarch64", "riscv64"]), min_size=1, max_size=4),
    st.lists(st.booleans(), min_size=4, max_size=4),
)
def test_whatever_the_machines_nothing_is_left_to_do(machines: list[str], images: list[bool]) -> None:
    spec = fleet(*(host(f"h-{number}") for number in range(len(machines))))
    world = FakeWorld.of(*(Machine(f"h-{number}.example", machine) for number, machine in enumerate(machines)))
    for machine, present in zip(world.machines.values(), images, strict=False):
        machine.images |= {IMAGE} if present else set()
    assert up(world, spec)[0].exit_code == 0
    assert world.plan(spec).empty
    pins = [pin for entry in world.builder.read("acme").nodes for pin in entry.platforms]
    assert len(pins) == len(set(pins))


# ------------------------------------------------------------------------------------------- other operators


def test_one_operator_at_a_time_and_the_other_is_told_who_it_is() -> None:
    world = two()
    ports = world.ports()
    with Connections(ports.connect) as mine, Connections(ports.connect) as theirs:
        Applier(TWO, replace(ports, operator="anna@laptop"), mine, lambda _: None).hold()
        second = Applier(TWO, ports, theirs, lambda _: None)
        with pytest.raises(Busy, match=r"amd-1 is being changed: anna@laptop, fleet up, since 20"):
            second.hold()
        mine.__exit__()
        second.hold()


def test_who_has_the_first_host_gets_those_that_another_had_who_began_at_the_same_moment() -> None:
    world = two()
    ports = world.ports()
    with Connections(ports.connect) as mine, Connections(ports.connect) as theirs:
        assert theirs.get(TWO.host("arm-1")).hold(TWO.name, "bob") is None
        threading.Timer(0.3, theirs.__exit__).start()
        Applier(TWO, ports, mine, lambda _: None).hold()
        with Connections(ports.connect) as third, pytest.raises(Busy, match="arm-1"):
            Applier(TWO, ports, third, lambda _: None).hold(only=["arm-1"])


def test_who_has_the_first_host_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apply, "LET_GO", 0.1)
    world = two()
    ports = world.ports()
    with Connections(ports.connect) as mine, Connections(ports.connect) as theirs:
        assert theirs.get(TWO.host("arm-1")).hold(TWO.name, "bob") is None
        with pytest.raises(Busy, match="arm-1 is being changed: bob"):
            Applier(TWO, ports, mine, lambda _: None).hold()


def test_what_a_daemon_said_a_moment_ago_is_not_asked_again_and_what_is_older_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = two()
    ports = world.ports()
    with Connections(ports.connect) as connections:
        facts = observe(TWO, ports, connections)
        applier = Applier(TWO, ports, connections, lambda _: None)
        applier.up(facts, plan(TWO, facts, ports.now()))
        fresh = applier.fresh_answers()
        asked = list[str]()
        probe = ports.prober.probe

        def told(host: HostSpec, *, timeout: float) -> ApiFacts | Down:
            asked.append(host.name)
            return probe(host, timeout=timeout)

        monkeypatch.setattr(ports.prober, "probe", told)
        seen = observe(TWO, ports, connections, known=fresh)
        assert (set(fresh), asked) == ({"amd-1", "arm-1"}, [])
        assert {name: node.api for name, node in seen.nodes.items()} == fresh
        monkeypatch.setattr(apply, "FRESH", 0.0)
        observe(TWO, ports, connections, known=applier.fresh_answers())
        assert sorted(asked) == ["amd-1", "arm-1"]


def test_a_host_that_cannot_be_reached_does_not_keep_the_others_from_being_held() -> None:
    world = two()
    world.machines["amd-1.example"].login = False
    ports = world.ports()
    with Connections(ports.connect) as mine, Connections(ports.connect) as theirs:
        Applier(TWO, ports, mine, lambda _: None).hold()
        with pytest.raises(Busy, match="arm-1"):
            Applier(TWO, ports, theirs, lambda _: None).hold()
