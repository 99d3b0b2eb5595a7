"""The first law: after a plan has been carried out there is nothing left to do, wherever a run before it stopped."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from certs.lifetimes import AUTHORITY_LIFETIME, LEAF_LIFETIME
from fleet import notes
from fleet.buildx import settled
from fleet.model.facts import ApiFacts, BuilderFacts, BuilderNode, Stage
from fleet.model.spec import Balance, Delivery, GatewaySpec, object_name
from fleet.planning.plan import plan_down
from tests.support.fake_vault import FakeVault
from tests.support.fakes import Container, Machine
from tests.support.values import IMAGE, NOW, fleet, host, node, platforms
from tests.support.world import FakeWorld

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from fleet.model.spec import FleetSpec

ADDRESSES = {"10.0.0.1": "x86_64", "10.0.0.2": "x86_64", "10.0.0.3": "aarch64", "10.0.0.4": "riscv64"}
NAMES = ("amd-1", "amd-2", "arm-1", "other")
PORTS = {"amd64": 1250, "arm64": 1251, "riscv64": 1252}


def new_world() -> FakeWorld:
    return FakeWorld.of(*(Machine(address, machine) for address, machine in ADDRESSES.items()))


# ------------------------------------------------------------------------------------ what may be wanted


@st.composite
def specs(draw: st.DrawFn) -> FleetSpec:
    """Inventories of up to four of the machines, under names that move between them."""
    addresses = draw(st.lists(st.sampled_from(sorted(ADDRESSES)), unique=True, min_size=1))
    names = draw(st.permutations(NAMES))
    hosts = [
        host(
            name,
            *draw(
                st.sampled_from([(), (), (), ("linux/amd64",), ("linux/arm64", "linux/arm/v7"), ("linux/amd64/v4",)])
            ),
            address=address,
            port=draw(st.sampled_from([1234, 1234, 1299])),
            delivery=draw(st.sampled_from(Delivery)),
        )
        for name, address in zip(names, addresses, strict=False)
    ]
    image = draw(st.sampled_from(["moby/buildkit:v0.32.2", "moby/buildkit:v0.33.0"]))
    spec = fleet(*hosts, image=image, config=draw(st.sampled_from([{}, {"debug": True}])))
    on = draw(st.lists(st.sampled_from([known.name for known in hosts]), unique=True, max_size=2))
    balance = draw(st.sampled_from(Balance))
    return replace(spec, gateway=GatewaySpec(tuple(on), "haproxy:3.2", PORTS, balance) if on else None)


# ------------------------------------------------------------------------- what may happen to the world


@dataclass(frozen=True)
class Mishap:
    """Something that happens outside, named for the report of a failing example."""

    name: str
    happen: Callable[[FakeWorld, st.DataObject], None]

    def __repr__(self) -> str:
        return self.name


def to_container(name: str, change: Callable[[Machine, Container], None]) -> Mishap:
    def happen(world: FakeWorld, data: st.DataObject) -> None:
        ours = [(a, c.name) for a, machine in world.machines.items() for c in machine.containers if c.fleet == "acme"]
        if ours:
            address, chosen = data.draw(st.sampled_from(ours))
            container = world.machines[address].container(chosen)
            assert container
            change(world.machines[address], container)

    return Mishap(name, happen)


def to_machine(name: str, change: Callable[[Machine], None]) -> Mishap:
    return Mishap(name, lambda world, data: change(world.machines[data.draw(st.sampled_from(sorted(ADDRESSES)))]))


def set_state(state: str) -> Mishap:
    def change(_: Machine, container: Container) -> None:
        container.state = state

    return to_container(state, change)


def unlabel(_: Machine, container: Container) -> None:
    container.settings = {}


def forget_certificate(_: Machine, container: Container) -> None:
    container.certificate = None


def update(_: Machine, container: Container) -> None:
    container.enforced = {**container.enforced, "restart": "no"}


def edit(_: Machine, container: Container) -> None:
    container.files = {path: (content + b"# mine\n", mode) for path, (content, mode) in container.files.items()}


def call_it_mine(machine: Machine, container: Container) -> None:
    if machine.container("mine") is None:
        container.name = "mine"


def remove_container(machine: Machine, container: Container) -> None:
    machine.containers.remove(container)


def put_foreign(world: FakeWorld, data: st.DataObject) -> None:
    machine = world.machines[data.draw(st.sampled_from(sorted(ADDRESSES)))]
    name = object_name("acme", data.draw(st.sampled_from(NAMES)))
    if machine.container(name) is None:
        machine.containers.append(Container(f"foreign {name}", name, state="running"))


def remove_foreign(machine: Machine) -> None:
    machine.containers = [c for c in machine.containers if c.fleet]


def wait(world: FakeWorld, data: st.DataObject) -> None:
    world.now += timedelta(days=data.draw(st.integers(1, 400)))


def toggle_login(machine: Machine) -> None:
    machine.login = not machine.login


def toggle_network(machine: Machine) -> None:
    machine.network = not machine.network


def toggle_docker(machine: Machine) -> None:
    machine.docker = not machine.docker


def toggle_emulation(machine: Machine) -> None:
    machine.emulated = () if machine.emulated else ("amd64", "arm64", "arm", "s390x")


def lose_vault(world: FakeWorld, _: st.DataObject) -> None:
    world.vault = FakeVault()


def lose_client(world: FakeWorld, _: st.DataObject) -> None:
    world.vault.client = None


def change_builder(world: FakeWorld, data: st.DataObject) -> None:
    changed: dict[str, BuilderNode] = {}
    for name in data.draw(st.lists(st.sampled_from([*NAMES, "gone"]), unique=True)):
        address = data.draw(st.sampled_from(sorted(ADDRESSES)))
        options = world.vault.client_files
        if all(entry.endpoint != f"tcp://{address}:1234" for entry in changed.values()):
            changed[name] = node(name, endpoint=f"tcp://{address}:1234", options=options)
    for platform in platforms("linux/amd64", "linux/386", "linux/arm64", "linux/riscv64"):
        owner = data.draw(st.sampled_from([None, *changed]))
        if owner:
            old = changed[owner]
            changed[owner] = BuilderNode(owner, old.endpoint, (*old.platforms, platform), old.options)
    world.builder.builders["acme"] = BuilderFacts(tuple(changed.values()), "remote") if changed else BuilderFacts()


def foreign_builder(world: FakeWorld, _: st.DataObject) -> None:
    world.builder.builders["acme"] = BuilderFacts(driver="docker-container")


REMOVED_BY_HAND = to_container("container removed", remove_container)

MISHAPS = [
    *(set_state(state) for state in ("exited", "paused", "dead", "restarting", "created", "removing")),
    to_container("label lost", unlabel),
    to_container("certificate unknown", forget_certificate),
    REMOVED_BY_HAND,
    to_container("container updated", update),
    to_container("files edited", edit),
    to_container("container renamed", call_it_mine),
    to_machine("images pruned", Machine.prune_images),
    to_machine("another image of the same name pulled", lambda machine: machine.supersede(IMAGE)),
    Mishap("foreign container", put_foreign),
    to_machine("foreign containers removed", remove_foreign),
    to_machine("login toggled", toggle_login),
    to_machine("network toggled", toggle_network),
    to_machine("Docker toggled", toggle_docker),
    to_machine("emulation toggled", toggle_emulation),
    Mishap("time passes", wait),
    Mishap("vault lost", lose_vault),
    Mishap("client certificate lost", lose_client),
    Mishap("builder changed", change_builder),
    Mishap("builder of somebody else", foreign_builder),
]

stops = st.dictionaries(st.sampled_from([*NAMES, "vault", "builder"]), st.integers(0, 9), max_size=4)
"""After how many changes of each fleet is killed: replacing a daemon takes nine."""


def live_through(world: FakeWorld, data: st.DataObject) -> None:
    """Runs of fleet, some of them cut short, for inventories that change, while things go wrong in between."""
    for _ in range(data.draw(st.integers(0, 3), label="earlier runs")):
        world.apply(data.draw(specs()), stop=data.draw(stops))
        for mishap in data.draw(st.lists(st.sampled_from(MISHAPS), max_size=4)):
            if world.now < NOW + AUTHORITY_LIFETIME - 3 * LEAF_LIFETIME:
                mishap.happen(world, data)


def excused(world: FakeWorld, spec: FleetSpec, failed: set[str]) -> bool:
    """Whether each failure is one that no plan can mend: no way to the daemon, or a port that something else holds.

    That is a stranger's container, or one of a node that the inventory now has on another machine.
    """
    ours = (world.vault.read().authority_fingerprint or "")[:16]
    names = {known.name for known in spec.hosts}

    def excuse(name: str) -> bool:
        machine = world.machines[spec.host(name).address]
        holder = machine.listening(spec.host(name).port)
        moved = holder is not None and holder.node in names - {name}
        stranger = holder is not None and holder.settings.get("authority") != ours
        return moved or stranger or not machine.network

    return all(excuse(name) for name in failed)


# --------------------------------------------------------------------------------------------------- laws


@settings(max_examples=150)
@given(st.data())
def test_after_a_plan_has_been_carried_out_there_is_nothing_left_to_do(data: st.DataObject) -> None:
    world = new_world()
    live_through(world, data)
    spec = data.draw(specs(), label="wanted")
    failed = world.apply(spec)
    left = world.plan(spec)
    unfinished = {name for name in failed if left.lanes[name].actions}
    held = {name for name, lane in left.lanes.items() if lane.turn} if failed else set()  # they wait for their turn
    assert not left.vault
    assert {name for name, lane in left.lanes.items() if lane.actions} <= unfinished | held
    if held and not unfinished:  # whoever has failed can only be mended by a person, and keeps nobody waiting
        world.apply(spec)
        left = world.plan(spec)
    assert unfinished or left.empty
    assert excused(world, spec, {name for name, why in failed.items() if why.stage is not Stage.NATIVE}), failed
    event(f"{len(unfinished)} failed, {len(left.blocked)} blocked of {len(spec.hosts)}")


def test_a_node_that_stands_by_and_cannot_be_asked_does_not_stay_the_first() -> None:
    world, both = new_world(), fleet(host("amd-1", address="10.0.0.1"), host("amd-2", address="10.0.0.2"))
    alone = replace(both, hosts=both.hosts[:1])
    world.apply(replace(alone, gateway=GatewaySpec((alone.hosts[0].name,), "haproxy:3.2", PORTS)))
    lost = world.machines[alone.hosts[0].address]
    lost.containers, lost.login = [], False
    world.apply(alone)
    world.apply(both)
    assert world.plan(both).empty


def test_a_leader_that_leaves_does_not_decide_who_is_the_first() -> None:
    world, riscv = new_world(), host("amd-2", address="10.0.0.4")
    world.machines["10.0.0.3"].login = False
    world.builder.builders["acme"] = BuilderFacts(
        (node("other", endpoint="tcp://10.0.0.3:1234"), node("amd-1", "linux/amd64")), driver="remote"
    )
    spec = fleet(host("other", address="10.0.0.3"), riscv)
    world.apply(spec)
    assert world.plan(spec).empty


@settings(max_examples=60)
@given(st.data())
def test_a_run_that_stopped_anywhere_is_gone_on_with(data: st.DataObject) -> None:
    world, spec = new_world(), data.draw(specs())
    for _ in range(data.draw(st.integers(1, 3))):
        world.apply(spec, stop=data.draw(stops))
    assert {why.stage for why in world.apply(spec).values()} <= {Stage.NATIVE}
    assert world.plan(spec).empty


@settings(max_examples=60)
@given(st.data())
def test_a_plan_changes_nothing_and_decides_the_same_twice(data: st.DataObject) -> None:
    world = new_world()
    live_through(world, data)
    spec = data.draw(specs())
    before = world.facts(spec)
    assert world.plan(spec) == world.plan(spec)
    after = world.facts(spec)
    assert (before.builder, before.vault) == (after.builder, after.vault)
    assert [seen.api for seen in before.nodes.values()] == [seen.api for seen in after.nodes.values()]


@settings(max_examples=60)
@given(st.data())
def test_what_is_not_fleets_is_never_touched(data: st.DataObject) -> None:
    world = new_world()
    for machine in world.machines.values():
        machine.containers.append(Container("theirs", "registry", state="running", port=5000))
        machine.containers.append(Container("other", "fleet.other.amd-1", "other", "amd-1", "running", port=1300))
        machine.volumes |= {"data": None, "fleet.other.amd-1": "other"}
    live_through(world, data)
    world.apply(data.draw(specs()))
    for machine in world.machines.values():
        assert not {name for name, _ in machine.removed} & {"registry", "fleet.other.amd-1"}
        assert machine.volumes["data"] is None
        assert machine.volumes["fleet.other.amd-1"] == "other"


@settings(max_examples=60)
@given(st.data())
def test_after_down_with_volumes_nothing_is_left_that_fleet_made_or_pulled(data: st.DataObject) -> None:
    world = new_world()
    for address in data.draw(st.sets(st.sampled_from(sorted(ADDRESSES))), label="have the image"):
        world.machines[address].images.add(IMAGE)
    there = {address: set(machine.images) for address, machine in world.machines.items()}
    for _ in range(data.draw(st.integers(1, 3), label="runs")):
        names = data.draw(st.permutations(NAMES))
        spec = fleet(*(host(name, address=address) for name, address in zip(names, ADDRESSES, strict=True)))
        world.apply(spec, stop=data.draw(stops))
        for mishap in data.draw(st.lists(st.just(REMOVED_BY_HAND), max_size=4)):
            mishap.happen(world, data)
    world.down(spec)
    assert {address: machine.images for address, machine in world.machines.items()} == there
    for machine in world.machines.values():
        assert (machine.containers, machine.volumes, machine.marks) == ([], {}, {})
    assert plan_down(spec, world.facts(spec), volumes=True).empty


# ------------------------------------------------------------------------------------------- replaced by turns

AMD_1, AMD_2, ARM_1 = (host(name) for name in ("amd-1", "amd-2", "arm-1"))
THREE, NEWER = fleet(AMD_1, AMD_2, ARM_1), fleet(AMD_1, AMD_2, ARM_1, image="moby/buildkit:v0.33.0")
BROKEN = fleet(AMD_1, AMD_2, ARM_1, image="broken/buildkit:v1")
MARKED = {"client/ci": "5e"}
"""A note that shows whether a cache is still the same one."""


def at_work(drained: Collection[str] = ()) -> FakeWorld:
    """Three nodes that have worked for a while, some of them drained by an operator."""
    world = FakeWorld.of(Machine("amd-1.example"), Machine("amd-2.example"), Machine("arm-1.example", "aarch64"))
    world.apply(THREE)
    for name in ("amd-1", "amd-2", "arm-1"):
        kept = world.machines[f"{name}.example"].notes.setdefault(f"fleet.acme.{name}", {})
        kept |= MARKED | ({notes.DRAIN: notes.Drain("bob@desk", NOW).text()} if name in drained else {})
    return world


def who_answers(world: FakeWorld, spec: FleetSpec = THREE) -> dict[str, ApiFacts]:
    answers = {known.name: world.prober().probe(known, timeout=1) for known in spec.hosts}
    return {name: answer for name, answer in answers.items() if isinstance(answer, ApiFacts)}


def builds_are_served(world: FakeWorld) -> None:
    """Plain buildx: no platform belongs to a node that is away while another one may build it."""
    answering = who_answers(world)
    free = {
        name: answer for name, answer in answering.items() if (drain := notes.drain(answer)) is None or drain.passing
    }
    for entry in settled(world.builder.read("acme").nodes):
        for platform in entry.platforms if entry.name not in answering else ():
            assert not [name for name, answer in free.items() if platform in answer.platforms]


def nothing_is_left(world: FakeWorld, drained: Collection[str]) -> None:
    """One container a node, its cache, and no drain but an operator's."""
    for name in ("amd-1", "amd-2", "arm-1"):
        machine = world.machines[f"{name}.example"]
        assert [(c.name, c.state) for c in machine.containers] == [(f"fleet.acme.{name}", "running")]
        [kept] = machine.notes.values()
        assert {key: kept[key] for key in MARKED} == MARKED
        left = notes.drain(who_answers(world)[name])
        assert (left.by if left else None) == ("bob@desk" if name in drained else None)


@settings(max_examples=25)
@given(st.data())
def test_replacing_daemons_leaves_no_platform_without_a_node_and_no_drain_but_an_operators(data: st.DataObject) -> None:
    drained = data.draw(st.sets(st.sampled_from(["amd-1", "amd-2", "arm-1"])), label="drained")
    world = at_work(drained)

    def watch() -> None:
        builds_are_served(world)
        assert {"amd-1", "amd-2"} & who_answers(world).keys()

    for spec in data.draw(st.lists(st.sampled_from([NEWER, BROKEN, THREE]), max_size=3), label="runs"):
        world.apply(spec, stop={"anything": data.draw(st.integers(0, 40))}, watch=watch)
    assert world.apply(NEWER, watch=watch) == {}
    assert world.plan(NEWER).empty
    nothing_is_left(world, drained)


@pytest.mark.parametrize("drained", [(), ("amd-1",)], ids=["", "one drained"])
@pytest.mark.parametrize("spec", [NEWER, BROKEN], ids=["a good image", "a broken image"])
def test_a_replacement_that_is_killed_before_any_change_is_mended_by_the_next_run(
    spec: FleetSpec, drained: Collection[str]
) -> None:
    changes: list[None] = []
    failed = at_work(drained).apply(spec, watch=lambda: changes.append(None))
    assert set(failed) == ({"amd-1"} if spec is BROKEN else set())
    assert len(changes) > 8
    for done in range(len(changes)):
        world = at_work(drained)
        world.apply(spec, stop={"anything": done})
        assert world.apply(NEWER) == {}
        assert world.plan(NEWER).empty
        nothing_is_left(world, drained)


@pytest.mark.parametrize("stop", [{}, {"vault": 1}, {"amd-1": 0}, {"amd-1": 1}, {"amd-1": 2}, {"builder": 1}], ids=str)
def test_a_first_run_cut_short_is_finished_by_the_second(stop: dict[str, int]) -> None:
    world = FakeWorld.of(Machine("amd-1.example"), Machine("arm-1.example", "aarch64"))
    world.apply(fleet(), stop=stop)
    assert world.plan(fleet()).empty is (stop == {})
    assert world.apply(fleet()) == {}
    assert world.plan(fleet()).empty
    assert [entry.name for entry in world.builder.read("acme").nodes] == ["amd-1", "arm-1"]
