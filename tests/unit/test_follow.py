"""A fleet that is followed: what is done to this machine's builder, and to nothing else, and how it is told."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Self

import pytest

from fleet.adapters.vault import FileVault
from fleet.applying.follow import Change, Follower, to_be_watched
from fleet.cli.watch import _line, change_json
from fleet.errors import BuilderError, VaultError
from fleet.model.facts import ApiFacts, BuilderFacts, Down, Facts, Stage
from fleet.model.spec import Connection, FleetSpec, GatewaySpec, HostSpec
from fleet.model.vault import VaultFacts
from fleet.observing import watch
from fleet.observing.watch import Watch
from fleet.planning import failover
from fleet.planning.failover import Move
from fleet.ports import World
from tests.support.fake_vault import FakeVault
from tests.support.fakes import FakeBuilder, FakeProber, Machine
from tests.support.values import IMAGE, NOW, OPTIONS, fleet, host, node, platforms
from tests.support.world import FakeWorld
from tests.unit.conftest import INVENTORY, Run

SPEC = fleet(host("amd-1"), host("amd-2"), host("arm-1"))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOST_EVERY", "HOST_EVERY_DOWN", "LOGIN_EVERY", "OWN_EVERY", "SETTLING"):
        monkeypatch.setattr(watch, name, 0.01)
    for name, seconds in {"STEADY": 0.3, "LATE": 0.2, "APART": 0.1}.items():
        monkeypatch.setattr(failover, name, seconds)


def world_of(spec: FleetSpec = SPEC) -> FakeWorld:
    machines = [Machine(one.address, "aarch64" if "arm" in one.name else "x86_64") for one in spec.hosts]
    for machine in machines:
        machine.images.add(IMAGE)
    world = FakeWorld.of(*machines)
    assert not world.apply(spec)
    return world


@contextmanager
def following(ports: World, spec: FleetSpec = SPEC) -> Iterator[Callable[[int], Change | None]]:
    """Gives a function that looks until there is a change, so many times at most."""
    follower = Follower(spec, ports)
    with Watch(to_be_watched(spec), ports, every=0.01) as watched:
        taken = watched.snapshots()

        def until_changed(looks: int) -> Change | None:
            changes = (follower.look(watched.facts()) for _, _ in zip(range(looks), taken, strict=False))
            return next(filter(None, changes), None)

        yield until_changed


def untouched(subject: str) -> None:
    assert subject == "builder"


def owner(world: FakeWorld) -> str:
    return next(n.name for n in world.builder.read("acme").nodes if platforms("linux/amd64")[0] in n.platforms)


def test_the_builder_follows_and_no_host_is_touched() -> None:
    world = world_of()
    [container] = world.machines["amd-1.example"].containers
    with following(world.ports(untouched)) as until_changed:
        assert until_changed(60) is None
        container.state = "exited"
        lost = until_changed(1000)
        assert lost
        assert (lost.at, owner(world)) == (NOW, "amd-2")
        assert [(move.origin, move.owner) for move in lost.moves] == [("amd-1", "amd-2")]
        assert lost.why == ("amd-1: TCP: amd-1.example:1234 refused the connection",)
        assert any(step.startswith("register amd-2 for linux/amd64") for step in lost.steps)
        assert until_changed(60) is None
        container.state = "running"
        back = until_changed(1000)
        assert back
        assert [(move.origin, move.owner) for move in back.moves] == [("amd-2", "amd-1")]
        assert world.builder.read("acme").nodes[0].name == "amd-1"
        assert until_changed(60) is None
    assert world.plan(SPEC).empty


def test_a_frozen_owner_is_passed_by() -> None:
    world = world_of()
    [container] = world.machines["amd-1.example"].containers
    with following(world.ports(untouched)) as until_changed:
        assert until_changed(60) is None
        container.state = "paused"
        assert until_changed(1000)
    assert owner(world) == "amd-2"


class Cut(FakeProber):
    """Whose machine may lose its network."""

    gone = False

    def probe(self, host: HostSpec, *, timeout: float) -> ApiFacts | Down:
        return Down(Stage.TCP, "no answer", silent=True) if self.gone else super().probe(host, timeout=timeout)


def test_a_network_that_is_gone_changes_nothing() -> None:
    world = world_of()
    cut = Cut(world.machines, world.vault, lambda: NOW)
    with following(replace(world.ports(untouched), prober=cut)) as until_changed:
        for cut.gone in (False, True, False):
            assert until_changed(60) is None


def test_where_a_fleet_was_joined_it_is_followed_as_well() -> None:
    world = world_of()
    joined = replace(SPEC, hosts=tuple(replace(one, connection=Connection.NONE) for one in SPEC.hosts))
    world.machines["amd-1.example"].containers[0].state = "exited"
    with following(world.ports(untouched), joined) as until_changed:
        assert until_changed(1000)
    assert owner(world) == "amd-2"


def test_only_the_hosts_of_gateways_are_logged_in_to() -> None:
    assert {one.connection for one in to_be_watched(SPEC).hosts} == {Connection.NONE}
    with_gateway = replace(SPEC, gateway=GatewaySpec(("amd-2",), "haproxy:3.2", {"amd64": 1250}))
    assert [one.connection for one in to_be_watched(with_gateway).hosts] == ["none", "ssh", "none"]


def test_what_another_fleet_of_this_machine_does_comes_first() -> None:
    world = world_of()
    world.vault.held = True
    world.machines["amd-1.example"].containers[0].state = "exited"
    with following(world.ports(untouched)) as until_changed:
        assert until_changed(60) is None
        assert owner(world) == "amd-1"
        world.vault.held = False
        assert until_changed(1000)
    assert owner(world) == "amd-2"


def test_what_somebody_else_has_done_meanwhile_is_not_done_again() -> None:
    world = world_of()
    world.machines["amd-1.example"].containers[0].state = "exited"
    ports = world.ports(untouched)
    facts = world.facts(SPEC)
    one, other = Follower(SPEC, ports), Follower(SPEC, ports)
    changes = []
    for follower in (one, other):
        # What they know of the builder is of the same moment.
        assert looked(follower, facts, world) == [None, None]
        changes.append(follower.look(replace(facts, nodes=world.facts(SPEC).nodes)))
    assert changes[0]
    assert changes[1] is None
    assert owner(world) == "amd-2"


def looked(follower: Follower, facts: Facts, world: FakeWorld) -> list[Change | None]:
    """As often as is needed for an owner that refuses to be gone at the next look."""
    return [follower.look(replace(facts, nodes=world.facts(SPEC).nodes)) for _ in range(2)]


def said(follower: Follower) -> str:
    return follower.trouble.reason if follower.trouble else ""


def test_a_buildx_that_fails_is_told_and_tried_again() -> None:
    world = world_of()
    world.machines["amd-1.example"].containers[0].state = "exited"
    world.builder.broken = "disk full"
    ports = world.ports(untouched)
    follower = Follower(SPEC, ports)
    with Watch(to_be_watched(SPEC), ports, every=0.01) as watched:
        taken = watched.snapshots()
        tried = len(world.builder.ran)
        while len(world.builder.ran) < tried + 3:
            next(taken)
            assert follower.look(watched.facts()) is None
            # It is not a new trouble each time.
            assert len(world.builder.ran) == tried or said(follower).endswith("disk full")
        assert owner(world) == "amd-1"
        world.builder.broken = None
        assert any(follower.look(watched.facts()) for _ in taken)
        assert follower.trouble is None
    assert owner(world) == "amd-2"


class Breaking(FakeBuilder):
    """A buildx that fails after so many steps, and then may have taken others' platforms from them."""

    left = 0

    def run(self, arguments: Sequence[str]) -> str:
        self.left -= 1
        if self.left >= 0:
            return super().run(arguments)
        entries = self.builders["acme"].nodes
        stripped = tuple(replace(one, platforms=()) if one.name == "arm-1" else one for one in entries)
        self.builders["acme"] = replace(self.builders["acme"], nodes=stripped)
        raise BuilderError("disk full")


@pytest.mark.parametrize("done", range(7))
def test_a_change_that_fails_half_way_is_trouble_and_nothing_is_given_to_nobody(done: int) -> None:
    world = world_of()
    world.machines["amd-1.example"].containers[0].state = "exited"
    builder = Breaking()
    builder.builders, builder.left = dict(world.builder.builders), done
    follower = Follower(SPEC, replace(world.ports(untouched), builder=builder))
    facts = world.facts(SPEC)
    assert looked(follower, facts, world) == [None, None]
    change = follower.look(replace(facts, nodes=world.facts(SPEC).nodes))
    assert said(follower) == "disk full"
    # Those of arm-1, which stood first, have gone behind by then.
    assert (change is not None) is (done > 4)
    if change:
        assert [(move.origin, move.owner) for move in change.moves] == [("amd-1", "amd-2")]
        assert len(change.steps) == done


def test_what_is_to_end_ends_between_two_steps() -> None:
    """And the next one goes on from there."""
    for done in range(7):
        world = world_of()
        world.machines["amd-1.example"].containers[0].state = "exited"
        steps = iter(range(done))

        def may_go_on(left: Iterator[int] = steps) -> None:
            if next(left, None) is None:
                raise KeyboardInterrupt

        ports, facts = world.ports(untouched), world.facts(SPEC)
        ran = len(world.builder.ran)
        follower = Follower(SPEC, ports, may_go_on=may_go_on)
        looked(follower, facts, world)
        with pytest.raises(KeyboardInterrupt):
            follower.look(replace(facts, nodes=world.facts(SPEC).nodes))
        assert len(world.builder.ran) == ran + done
        again = Follower(SPEC, ports)
        looked(again, facts, world)
        again.look(world.facts(SPEC))
        assert world.builder.read("acme").nodes[0].name == owner(world) == "amd-2"
        assert {n.name for n in world.builder.read("acme").nodes if n.platforms} == {"amd-2", "arm-1"}
        assert world.apply(SPEC) == {}
        assert world.plan(SPEC).empty


BUILDERS: Mapping[str, tuple[BuilderFacts, str]] = {
    "none": (BuilderFacts(), "there is no builder acme here"),
    "another vault's": (
        BuilderFacts((node("amd-1", options=OPTIONS | {"cacert": "/theirs"}),), "remote"),
        "this vault did not make",
    ),
}


@pytest.mark.parametrize(("builder", "words"), BUILDERS.values(), ids=BUILDERS)
def test_a_builder_that_cannot_follow_is_told(builder: BuilderFacts, words: str) -> None:
    world = world_of()
    follower = Follower(SPEC, world.ports(untouched))
    assert follower.look(replace(world.facts(SPEC), builder=builder)) is None
    assert words in said(follower)
    assert follower.look(world.facts(SPEC)) is None
    assert follower.trouble is None


def test_keys_that_cannot_be_read_change_nothing() -> None:
    world = world_of()
    world.machines["amd-1.example"].containers[0].state = "exited"

    class Torn(FakeVault):
        def read(self) -> VaultFacts:
            raise VaultError("client.pem is torn")

    facts, follower = world.facts(SPEC), Follower(SPEC, replace(world.ports(untouched), vault=Torn()))
    looked(follower, facts, world)
    assert follower.look(replace(facts, nodes=world.facts(SPEC).nodes)) is None
    assert "torn" in said(follower)
    assert owner(world) == "amd-1"
    # From the beginning, it is the watch that tells.
    unread = Follower(SPEC, world.ports(untouched))
    assert unread.look(replace(facts, vault=watch.NO_VAULT)) is None
    assert unread.trouble is None


# ------------------------------------------------------------------------------------------- how it is told

CHANGE = Change(
    NOW,
    (Move(platforms("linux/amd64", "linux/386"), "amd-1", "amd-2"),),
    ("register amd-2 for linux/amd64, linux/386",),
    ("amd-1: TCP: 10.0.0.11:1234 refused the connection",),
)


def test_a_change_is_one_line() -> None:
    assert _line(CHANGE) == (
        "2030-05-01 12:00:00 UTC linux/amd64, linux/386: amd-1 → amd-2 "
        "(amd-1: TCP: 10.0.0.11:1234 refused the connection)"
    )
    elsewhere = replace(CHANGE, moves=(), why=())
    assert _line(elsewhere) == "2030-05-01 12:00:00 UTC register amd-2 for linux/amd64, linux/386"


def test_a_change_as_json() -> None:
    assert change_json(CHANGE) == {
        "at": "2030-05-01T12:00:00+00:00",
        "moves": [{"platforms": ["linux/amd64", "linux/386"], "from": "amd-1", "to": "amd-2"}],
        "why": ["amd-1: TCP: 10.0.0.11:1234 refused the connection"],
        "steps": ["register amd-2 for linux/amd64, linux/386"],
    }


# ----------------------------------------------------------------------------------------------- the command


class Watching:
    """`fleet watch` on a machine with keys and without a builder."""

    def __init__(self) -> None:
        FileVault(Path("vaults/acme")).create_authority("acme", NOW)
        FileVault(Path("vaults/acme")).issue_client("operator", NOW)

    def __enter__(self) -> Self:
        pipe = subprocess.PIPE
        self.run = subprocess.Popen(
            (sys.executable, "-m", "fleet", "watch", "--json"), stdout=pipe, stderr=pipe, text=True
        )
        return self

    def until_told(self, words: str) -> None:
        assert self.run.stderr
        assert any(words in line for line in self.run.stderr), self.run.wait()

    def ended(self, by: signal.Signals) -> tuple[int, str, str]:
        """Its exit code, and what it said after it was told to end."""
        self.run.send_signal(by)
        out, err = self.run.communicate(timeout=60)
        return self.run.returncode, out, err

    def __exit__(self, *_: object) -> None:
        self.run.kill()
        self.run.communicate()


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_when_it_is_told_to(home: Path, by: signal.Signals) -> None:
    assert home.is_dir()
    with Watching() as watching:
        watching.until_told("fleet up, or fleet join BUNDLE")
        assert watching.ended(by) == (0, "", "")


def test_the_second_request_to_end_ends_it_at_once() -> None:
    program = (
        "import signal\n"
        "from fleet.cli.watch import _Ending\n"
        "with _Ending() as ending, ending.put_off():\n"
        "    print(flush=True)\n"
        "    while not ending._asked:\n"
        "        pass\n"
        "    print(flush=True)\n"
        "    while True:\n"
        "        signal.pause()\n"
    )
    for by in (signal.SIGINT, signal.SIGTERM):
        with subprocess.Popen((sys.executable, "-c", program), stdout=subprocess.PIPE, text=True) as run:
            assert run.stdout
            for _ in range(2):
                run.stdout.readline()
                run.send_signal(by)
            assert run.wait(60) == -by


def test_there_is_one_for_a_fleet(run: Run) -> None:
    with Watching() as watching:
        watching.until_told("there is no builder acme here")
        code, out, err = run("watch")
        assert (code, out) == (1, "")
        assert "another fleet watch follows acme: __main__.py watch --json (process " in err
        # It is not in anybody's way.
        assert "another fleet" not in run("plan")[2]
        assert watching.ended(signal.SIGTERM)[0] == 0


def test_an_inventory_that_is_changed_is_followed_from_then_on(home: Path) -> None:
    with Watching() as watching:
        watching.until_told("there is no builder acme here")
        (home / "inventory.yaml").write_text("fleet: Acme")
        watching.until_told("'Acme' is not a name")
        # This one has no keys yet.
        (home / "inventory.yaml").write_text(INVENTORY.replace("acme", "other"))
        watching.until_told("there is no client certificate")
        (home / "inventory.yaml").write_text(INVENTORY)
        watching.until_told("there is no builder acme here")
        assert watching.ended(signal.SIGTERM)[0] == 0


def test_without_keys_it_does_not_begin(run: Run) -> None:
    code, out, err = run("watch")
    assert (code, out) == (1, "")
    assert "there is no client certificate" in err
