"""A watched fleet: nobody waits for anybody, everything has its moment, connections are kept, nothing stays behind."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import pytest

from fleet.errors import HostError, Unreachable, VaultError
from fleet.model.facts import ApiFacts, Down, Stage
from fleet.model.health import Health
from fleet.model.snapshot import Snapshot
from fleet.model.spec import Balance, Connection, FleetSpec, GatewaySpec, HostSpec
from fleet.model.vault import VaultFacts
from fleet.observing import watch
from fleet.observing.watch import Watch
from fleet.ports import Completed, Host, World
from tests.support.fake_vault import FakeVault
from tests.support.fakes import FakeHost, FakeProber, Machine
from tests.support.values import IMAGE, NOW, fleet, host
from tests.support.world import FakeWorld

SPEC = fleet(host("amd-1"), host("arm-1"))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOST_EVERY", "HOST_EVERY_DOWN", "LOGIN_EVERY", "OWN_EVERY", "SETTLING"):
        monkeypatch.setattr(watch, name, 0.01)


def world_of(spec: FleetSpec = SPEC, *, up: bool = True) -> FakeWorld:
    machines = [Machine(one.address, "aarch64" if "arm" in one.name else "x86_64") for one in spec.hosts]
    world = FakeWorld.of(*machines)
    for machine in machines:
        machine.images.add(IMAGE)
    if up:
        assert not world.apply(spec)
    return world


@contextmanager
def watching(ports: World, spec: FleetSpec = SPEC) -> Iterator[Callable[[Callable[[Snapshot], bool]], Snapshot]]:
    """Gives a function that waits for a Snapshot with a property."""
    with Watch(spec, ports, every=0.01) as watched:
        taken = watched.snapshots()

        def until(holds: Callable[[Snapshot], bool]) -> Snapshot:
            return next(one for _, one in zip(range(1000), taken, strict=False) if holds(one))

        yield until


def healths(snapshot: Snapshot) -> list[Health]:
    return [node.health for node in snapshot.nodes]


def all_looked(snapshot: Snapshot) -> bool:
    return all(seen.heard and seen.looked for seen in snapshot.sightings.values())


def test_everything_that_is_known_has_its_moment() -> None:
    with watching(world_of().ports()) as until:
        taken = until(all_looked)
    assert healths(taken) == [Health.READY, Health.READY]
    assert [(seen.heard, seen.looked) for seen in taken.sightings.values()] == [(NOW, NOW)] * 2
    assert taken.vault
    assert taken.builder.registered


class Slow(FakeProber):
    """Does not answer for one node."""

    def __init__(self, world: FakeWorld, name: str) -> None:
        super().__init__(world.machines, world.vault, lambda: NOW)
        self._name, self.release = name, threading.Event()

    def probe(self, host: HostSpec, *, timeout: float) -> ApiFacts | Down:
        if host.name == self._name:
            self.release.wait(30)
        return super().probe(host, timeout=timeout)


def test_a_slow_node_delays_neither_the_first_snapshot_nor_the_others() -> None:
    world = world_of()
    slow = Slow(world, "amd-1")
    with watching(replace(world.ports(), prober=slow)) as until:
        first = until(lambda _: True)
        assert first.sightings["amd-1"].heard is None
        seen = until(lambda one: one.nodes[1].health is Health.READY)
        assert seen.nodes[0].health is Health.UNKNOWN
        assert seen.sightings["amd-1"].heard is None
        slow.release.set()
        until(lambda one: one.nodes[0].health is Health.READY)


class Broken(FakeProber):
    def probe(self, host: HostSpec, *, timeout: float) -> ApiFacts | Down:
        if host.name == "amd-1":
            raise ZeroDivisionError("division by zero")
        return super().probe(host, timeout=timeout)


def test_a_mistake_in_a_probe_is_a_reason_on_its_row_alone() -> None:
    world = world_of()
    prober = Broken(world.machines, world.vault, lambda: NOW)
    with watching(replace(world.ports(), prober=prober)) as until:
        taken = until(all_looked)
    assert healths(taken) == [Health.DOWN, Health.READY]
    assert taken.nodes[0].reason == "API: unexpected ZeroDivisionError: division by zero"


def test_a_daemon_that_dies_is_down_for_the_reason_that_its_host_knows_and_comes_back() -> None:
    world = world_of()
    [container] = world.machines["amd-1.example"].containers
    with watching(world.ports()) as until:
        until(lambda one: healths(one) == [Health.READY] * 2)
        container.state = "exited"
        seen = until(lambda one: one.nodes[0].health is Health.DOWN and "container" in (one.nodes[0].reason or ""))
        assert seen.nodes[0].active_builds is None
        assert seen.nodes[1].health is Health.READY
        container.state = "running"
        until(lambda one: healths(one) == [Health.READY] * 2)


class Loses(FakeHost):
    """A connection that is lost at its twentieth command."""

    runs = 0

    def run(self, argv: Sequence[str], *, timeout: float = 30.0) -> Completed:
        self.runs += 1
        if self.runs == 20:
            raise HostError(Stage.SSH, "the connection was lost")
        return super().run(argv, timeout=timeout)


def test_a_host_is_logged_in_to_once_and_again_when_its_connection_is_lost() -> None:
    spec = fleet(host("amd-1"))
    world = world_of(spec)
    first = Loses(world.machines["amd-1.example"])
    logins: list[Host] = []

    mended = threading.Event()

    def connect(host: HostSpec) -> Host:
        if logins and not mended.is_set():
            raise Unreachable(Stage.SSH, "no route to host")
        logins.append(FakeHost(world.machines[host.address]) if logins else first)
        return logins[-1]

    with watching(replace(world.ports(), connect=connect), spec) as until:
        until(lambda one: one.nodes[0].reason == "SSH: no route to host")
        assert (first.runs, first.open, len(logins)) == (20, False, 1)
        mended.set()
        until(lambda one: one.nodes[0].health is Health.READY)
    assert len(logins) == 2


def test_what_up_would_do_is_seen_as_drift() -> None:
    world = world_of()
    changed = replace(SPEC, buildkit=replace(SPEC.buildkit, config={"debug": True}))
    with watching(world.ports(), changed) as until:
        drifts = [seen.drift for seen in until(all_looked).sightings.values()]
    for drift in drifts:
        assert drift
        assert drift.why
        assert any("create" in action for action in drift.actions)


def test_a_fleet_as_it_is_wanted_has_no_drift() -> None:
    with watching(world_of().ports()) as until:
        drifts = [seen.drift for seen in until(all_looked).sightings.values()]
    assert [drift and (drift.actions, drift.blocked) for drift in drifts] == [((), None)] * 2


def test_before_there_are_keys_hosts_are_looked_at_and_nothing_is_known_of_daemons() -> None:
    with watching(world_of(up=False).ports()) as until:
        taken = until(lambda one: all(seen.looked for seen in one.sightings.values()))
    assert healths(taken) == [Health.DOWN, Health.DOWN]
    assert [node.reason for node in taken.nodes] == ["container: there is no daemon"] * 2


def test_where_a_fleet_was_joined_no_host_is_logged_in_to() -> None:
    world = world_of()
    joined = replace(SPEC, hosts=tuple(replace(one, connection=Connection.NONE) for one in SPEC.hosts))

    def connect(host: HostSpec) -> Host:
        raise AssertionError(host)

    with watching(replace(world.ports(), connect=connect), joined) as until:
        taken = until(lambda one: healths(one) == [Health.READY] * 2)
    assert [(seen.looked, seen.drift) for seen in taken.sightings.values()] == [(None, None)] * 2


def test_keys_that_cannot_be_read_are_told_and_do_not_end_the_watching() -> None:
    world = world_of()

    class Torn(FakeVault):
        def read(self) -> VaultFacts:
            raise VaultError("client.pem is torn")

        def has_client(self) -> bool:
            return True

    with watching(replace(world.ports(), vault=Torn())) as until:
        taken = until(all_looked)
    assert [problem.reason for problem in taken.problems] == ["client.pem is torn"]
    assert taken.builder.registered
    assert healths(taken) == [Health.READY] * 2


def test_what_a_gateway_once_said_is_not_told_when_it_cannot_be_asked_any_more() -> None:
    spec = replace(
        SPEC, gateway=GatewaySpec(("amd-1",), "haproxy:3.2", {"amd64": 1250, "arm64": 1251}, Balance.LEASTCONN)
    )
    world = world_of(spec)
    with watching(world.ports(), spec) as until:
        until(lambda one: [gate.health for gate in one.gates] == [Health.READY] * 2)
        world.vault.has_client = lambda: False  # type: ignore[method-assign]
        until(lambda one: [gate.health for gate in one.gates] == [Health.UNKNOWN] * 2)


def test_nothing_is_left_behind() -> None:
    before = set(threading.enumerate())
    with watching(world_of().ports()) as until:
        until(all_looked)
        assert set(threading.enumerate()) != before
    assert {thread for thread in threading.enumerate() if thread.is_alive()} == before
