"""The gateway: what HAProxy is told, when it is made, replaced and removed, and which builds go through it."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from fleet import notes
from fleet.containers.proxy import CA_PATH, CONFIG_PATH, gates, proxy_spec, render
from fleet.errors import InventoryError
from fleet.gateway_health import gate_health
from fleet.inventory.parse import parse
from fleet.model.facts import Image, Stage
from fleet.model.health import Health
from fleet.model.spec import Balance, Connection, FleetSpec, GatewaySpec, HostSpec
from fleet.model.vault import VaultFacts
from fleet.planning.actions import AwaitGateway, CreateGateway, PullImage, RemoveGateway, StartDaemon, StepAside
from fleet.planning.plan import plan_down
from tests.support import runs
from tests.support.fakes import Container, Machine
from tests.support.values import CA, NOW, OTHER_CA, fleet, host, platforms, vault
from tests.support.world import FakeWorld, at_once

if TYPE_CHECKING:
    from collections.abc import Callable

    from fleet.applying.report import Report

NAME = "fleet.acme.gateway"
IMAGE = "haproxy:3.2"
AMD_1, AMD_2, ARM_1 = host("amd-1"), host("amd-2"), host("arm-1")


def spec(*on: str, balance: Balance = Balance.LEASTCONN, image: str = IMAGE) -> FleetSpec:
    """Three hosts, with a gateway on these of them."""
    gateway = GatewaySpec(on, image, {"amd64": 1250, "arm64": 1251}, balance)
    return replace(fleet(AMD_1, AMD_2, ARM_1), gateway=gateway if on else None)


ONE, NONE = spec("amd-1"), spec()


def new_world() -> FakeWorld:
    return FakeWorld.of(Machine("amd-1.example"), Machine("amd-2.example"), Machine("arm-1.example", "aarch64"))


def world_with(wanted: FleetSpec = ONE) -> FakeWorld:
    world = new_world()
    assert world.apply(wanted) == {}
    return world


def machine(world: FakeWorld, name: str = "amd-1") -> Machine:
    return world.machines[f"{name}.example"]


def up(world: FakeWorld, wanted: FleetSpec) -> Report:
    with at_once():
        return runs.up(world, wanted)[0]


def pins(world: FakeWorld) -> dict[str, list[str]]:
    """What the builder sends where; of nodes that stand by nothing."""
    return {node.name: list(map(str, node.platforms)) for node in world.builder.read("acme").nodes}


AMD64 = ["linux/amd64", "linux/amd64/v2", "linux/amd64/v3", "linux/386"]
ARM64 = ["linux/arm64", "linux/arm/v7", "linux/arm/v6"]
THROUGH = {"gateway.amd64": AMD64, "amd-1": [], "amd-2": [], "gateway.arm64": ARM64, "arm-1": []}
DIRECT = {"amd-1": AMD64, "amd-2": [], "arm-1": ARM64}


# ---------------------------------------------------------------------------------------- what HAProxy is told


def servers(text: str) -> dict[str, list[str]]:
    """Listener -> its nodes."""
    return {
        part.split("\n")[0]: re.findall(r"^    server (.*)$", part, re.MULTILINE)
        for part in text.split("\nlisten ")[1:]
    }


def rendered(wanted: FleetSpec, on: HostSpec) -> str:
    assert wanted.gateway
    return render(wanted, wanted.gateway, on)


def test_every_node_stands_at_every_port_and_its_certificate_sorts_it() -> None:
    text = rendered(ONE, AMD_1)
    every = ["amd-1 amd-1.example:1234", "amd-2 amd-2.example:1234", "arm-1 arm-1.example:1234"]
    assert servers(text) == {"amd64": every, "arm64": every}
    assert "verifyhost amd64.acme.fleet.internal" in text
    assert "verifyhost arm64.acme.fleet.internal" in text
    assert f"verify required ca-file {CA_PATH}" in text


def test_it_has_no_certificate_of_its_own() -> None:
    """With one it could build."""
    files = proxy_spec(ONE, ONE.gateway or GatewaySpec((), "", {}), AMD_1, vault()).files(b"the CAs")
    assert files.keys() == {CONFIG_PATH, CA_PATH}
    assert not re.search(r"\bcrt\b", files[CONFIG_PATH][0].decode())
    assert {mode for _, mode in files.values()} == {0o644}


@pytest.mark.parametrize("balance", Balance)
def test_how_it_balances(balance: Balance) -> None:
    assert f"    balance {balance}\n" in rendered(spec("amd-1", balance=balance), AMD_1)


LOCAL = HostSpec("mini", "127.0.0.1", 1235, Connection.LOCAL)
V4, V6 = HostSpec("four", "10.0.0.4"), HostSpec("six", "2001:db8::21")


@pytest.mark.parametrize(
    ("on", "nodes", "bind"),
    [
        (AMD_1, ["amd-1 amd-1.example:1234", "six [2001:db8::21]:1234"], "bind :::1250 v4v6"),
        (V6, ["amd-1 amd-1.example:1234", "six [2001:db8::21]:1234"], "bind :::1250 v4v6"),
        (V4, ["amd-1 amd-1.example:1234", "six [2001:db8::21]:1234"], "bind :1250"),
        (LOCAL, ["amd-1 amd-1.example:1234", "mini 127.0.0.1:1235", "six [2001:db8::21]:1234"], "bind 127.0.0.1:1250"),
    ],
    ids=["by name", "IPv6", "IPv4", "of this machine"],
)
def test_a_loopback_address_means_the_machine_itself(on: HostSpec, nodes: list[str], bind: str) -> None:
    text = rendered(replace(ONE, hosts=(AMD_1, LOCAL, V6)), on)
    assert servers(text)["amd64"] == nodes
    assert f"    {bind}\n" in text


def test_a_node_that_may_not_build_for_an_architecture_is_not_asked() -> None:
    text = rendered(replace(ONE, hosts=(AMD_1, host("old", "linux/386"), host("arm-1", "linux/arm/v7"))), AMD_1)
    names = {arch: [line.split()[0] for line in lines] for arch, lines in servers(text).items()}
    assert names == {"amd64": ["amd-1", "old"], "arm64": ["amd-1", "arm-1"]}


@pytest.mark.parametrize(
    ("keys", "changes"),
    [
        (vault(), False),
        (replace(vault(), coming_fingerprint=OTHER_CA), True),
        (replace(vault(), trust=(CA, OTHER_CA)), False),
    ],
    ids=["the same", "another CA is coming", "whom nodes trust is their affair"],
)
def test_its_settings_follow_the_cas_that_nodes_may_have(keys: VaultFacts, changes: bool) -> None:
    assert ONE.gateway
    before, after = (proxy_spec(ONE, ONE.gateway, AMD_1, one) for one in (vault(), keys))
    assert (before.fingerprint != after.fingerprint) is changes
    assert (before.settings != after.settings) is changes


# ------------------------------------------------------------------------------------------- made and replaced


def gateways(world: FakeWorld, name: str = "amd-1") -> list[tuple[str, str]]:
    return [(c.name, c.state) for c in machine(world, name).containers if c.proxy]


def test_a_first_up_makes_it_and_sends_builds_through_it() -> None:
    world = world_with()
    assert gateways(world) == [(NAME, "running")]
    assert pins(world) == THROUGH
    assert next(iter(pins(world))) == "gateway.amd64"  # where builds without a platform go
    assert world.plan(ONE).empty
    amd, arm = (node for node in world.builder.read("acme").nodes if node.name.startswith("gateway."))
    assert (amd.endpoint, amd.options["servername"]) == ("tcp://amd-1.example:1250", "amd64.acme.fleet.internal")
    assert (arm.endpoint, arm.options["servername"]) == ("tcp://amd-1.example:1251", "arm64.acme.fleet.internal")


def test_a_fleet_that_gets_one_has_it_first_in_the_builder() -> None:
    world = world_with(NONE)
    assert pins(world) == DIRECT
    assert world.apply(ONE) == {}
    assert next(iter(pins(world))) == "gateway.amd64"
    assert pins(world) == THROUGH


def test_a_change_lets_the_former_go_on_until_its_successor_listens() -> None:
    world = world_with()
    lane = world.plan(spec("amd-1", balance=Balance.SOURCE)).lanes["amd-1"]
    kinds = [type(action) for action in lane.actions]
    assert kinds == [StepAside, CreateGateway, StartDaemon, AwaitGateway, RemoveGateway]
    assert lane.why[0].startswith("gateway config: ")
    assert lane.turn is None
    assert world.apply(spec("amd-1", balance=Balance.SOURCE)) == {}
    assert gateways(world) == [(NAME, "running")]
    assert machine(world).removed == [(f"{NAME}.aside", 600)]
    assert pins(world) == THROUGH


def test_a_successor_that_does_not_come_up_leaves_the_former_at_work() -> None:
    world = world_with()
    before = [c.id for c in machine(world).containers if c.proxy]
    failed = world.apply(spec("amd-1", image="broken/haproxy:1"))
    assert failed["amd-1"].stage is Stage.CONTAINER
    assert failed["amd-1"].reason.endswith("the former daemon is back")
    assert [c.id for c in machine(world).containers if c.proxy] == before
    assert gateways(world) == [(NAME, "running")]
    assert pins(world) == THROUGH


@pytest.mark.parametrize(
    ("state", "actions"),
    [
        ("exited", [StartDaemon, AwaitGateway]),
        ("restarting", [StartDaemon, AwaitGateway]),
        ("created", [RemoveGateway, CreateGateway, StartDaemon, AwaitGateway]),
        ("paused", [RemoveGateway, CreateGateway, StartDaemon, AwaitGateway]),
        (None, [CreateGateway, StartDaemon, AwaitGateway]),
    ],
)
def test_a_gateway_that_is_not_at_work_is_mended(state: str | None, actions: list[type]) -> None:
    world = world_with()
    [proxy] = [c for c in machine(world).containers if c.proxy]
    if state:
        proxy.state = state
    else:
        machine(world).containers.remove(proxy)
    assert [type(action) for action in world.plan(ONE).lanes["amd-1"].actions] == actions
    assert world.apply(ONE) == {}
    assert gateways(world) == [(NAME, "running")]
    assert pins(world) == THROUGH
    assert world.plan(ONE).empty


def test_the_ca_is_exchanged_and_it_knows_every_node_at_any_moment() -> None:
    world = world_with()
    steps: list[Callable[[], None]] = [
        lambda: world.vault.begin_rotation("acme", world.now),
        world.vault.switch_authority,
        lambda: world.vault.issue_client("operator", world.now),
    ]
    for step in steps:
        step()
        assert world.apply(ONE) == {}
        assert world.plan(ONE).empty
        assert pins(world) == THROUGH
        [proxy] = [c for c in machine(world).containers if c.proxy]
        assert proxy.files[CA_PATH][0] == world.vault.trust()
    world.vault.end_rotation()
    assert world.plan(ONE).empty


def test_its_image_comes_and_goes_with_it() -> None:
    world = new_world()
    assert any(isinstance(a, PullImage) and a.reference == IMAGE for a in world.plan(ONE).lanes["amd-1"].actions)
    world.apply(ONE)
    assert IMAGE in machine(world).images
    assert world.apply(spec("amd-1", image="haproxy:3.4")) == {}
    assert IMAGE not in machine(world).images
    assert world.apply(NONE) == {}
    assert "haproxy:3.4" not in machine(world).images


def test_a_gateway_that_is_not_wanted_any_more_goes() -> None:
    world = world_with()
    assert world.apply(NONE) == {}
    assert gateways(world) == []
    assert pins(world) == DIRECT
    assert world.plan(NONE).empty


def test_it_moves_with_the_inventory() -> None:
    world = world_with()
    assert world.apply(spec("amd-2")) == {}
    assert (gateways(world), gateways(world, "amd-2")) == ([], [(NAME, "running")])
    assert {node.endpoint for node in world.builder.read("acme").nodes if node.name == "gateway.amd64"} == {
        "tcp://amd-2.example:1250"
    }
    assert world.plan(spec("amd-2")).empty


def test_down_removes_it_with_its_image() -> None:
    world = world_with()
    world.down(ONE)
    assert all(m.containers == [] and m.images == set() and m.marks == {} for m in world.machines.values())


def test_a_host_that_leaves_takes_its_gateway_out_of_the_builder() -> None:
    world = world_with()
    decided = plan_down(ONE, world.facts(ONE), volumes=False, only=["amd-1"])
    assert {str(step).split()[1] for step in decided.builder} >= {"gateway.amd64", "gateway.arm64", "amd-1"}


def test_the_last_host_of_an_architecture_takes_its_gateway_along_once_all_others_are_heard() -> None:
    world = world_with()
    left = replace(ONE, hosts=(AMD_1, AMD_2))
    machine(world, "amd-2").network = machine(world, "amd-2").login = False
    world.apply(left)
    assert pins(world)["gateway.arm64"] == ARM64
    machine(world, "amd-2").network = machine(world, "amd-2").login = True
    world.apply(left)
    assert pins(world) == {name: pinned for name, pinned in THROUGH.items() if "arm" not in name}
    assert world.plan(left).empty


# ---------------------------------------------------------------------------------------- when it cannot be used


def put_stranger(world: FakeWorld) -> None:
    machine(world).containers.append(Container("theirs", NAME, state="running"))


def take_port(world: FakeWorld) -> None:
    machine(world).containers.append(Container("theirs", "web", state="running", port=1250))


def test_a_stranger_of_its_name_is_not_touched() -> None:
    world = new_world()
    put_stranger(world)
    report = up(world, ONE)
    assert report.exit_code == 0
    warning = next(one.warning for one in report.nodes if one.subject == "amd-1")
    assert warning
    assert (warning.stage, warning.reason) == (Stage.GATEWAY, f"{NAME} is not fleet's (it lacks fleet's label)")
    assert [c.id for c in machine(world).containers if c.name == NAME] == ["theirs"]
    assert pins(world) == DIRECT


def test_a_port_that_is_taken_fails_its_host_and_builds_go_without_it() -> None:
    world = new_world()
    take_port(world)
    failed = world.apply(ONE)
    assert failed["amd-1"].stage is Stage.CONTAINER
    assert NAME in failed["amd-1"].reason
    assert pins(world) == DIRECT


def kill(world: FakeWorld) -> None:
    """Its host's kernel has no way to it any more, although its container is there."""
    for container in machine(world).containers:
        if container.proxy:
            container.files = {**container.files, CONFIG_PATH: (b"\nlisten x\n bind :9\n", 0o644)}
            container.put = container.files


def test_builds_go_without_a_gateway_that_is_dead_and_through_it_when_it_is_back() -> None:
    world = world_with()
    [proxy] = [c for c in machine(world).containers if c.proxy]
    files = proxy.files
    kill(world)
    decided = world.plan(ONE)
    assert decided.gateway
    assert decided.gateway.stage is Stage.GATEWAY
    report = up(world, ONE)
    assert report.exit_code == 0
    assert report.builder.warning
    assert "builds for amd64 go to the nodes without it: amd-1: " in report.builder.warning.reason
    assert pins(world) == DIRECT
    assert world.plan(ONE).empty
    proxy.files = proxy.put = files
    assert up(world, ONE).builder.warning is None
    assert pins(world) == THROUGH


def test_a_gateway_that_was_changed_by_hand_is_made_anew() -> None:
    world = world_with()
    [proxy] = [c for c in machine(world).containers if c.proxy]
    proxy.files = {**proxy.files, CONFIG_PATH: (b"", 0o644)}
    assert world.plan(ONE).lanes["amd-1"].why == ("gateway /etc/fleet/haproxy.cfg was changed by hand",)
    proxy.files, proxy.enforced = proxy.put, {**proxy.enforced, "restart": "no"}
    assert world.plan(ONE).lanes["amd-1"].why == ("gateway restart: no → unless-stopped",)
    assert up(world, ONE).exit_code == 0
    assert world.plan(ONE).empty
    machine(world).supersede(proxy.image)
    assert up(world, ONE).exit_code == 0
    assert world.plan(ONE).empty
    assert not [image for image in machine(world).marks.values() if image.endswith("as it was")]


def test_the_second_gateway_takes_over() -> None:
    both = spec("amd-1", "amd-2")
    world = world_with(both)
    machine(world).network = False
    report = up(world, both)
    assert report.builder.ok
    [entry] = [node for node in world.builder.read("acme").nodes if node.name == "gateway.amd64"]
    assert entry.endpoint == "tcp://amd-2.example:1250"
    assert [str(platform) for platform in entry.platforms] == AMD64


@pytest.mark.parametrize("login", [True, False], ids=["its host answers", "its host does not"])
def test_nobody_at_work_leaves_the_gateway_its_platforms(login: bool) -> None:
    """They may be back in a minute, and without an owner buildx would go to the first node."""
    world = world_with()
    machine(world, "arm-1").network, machine(world, "arm-1").login = False, login
    assert world.plan(ONE).builder == ()
    assert world.plan(ONE).gateway is None


def test_what_not_all_nodes_run_has_an_owner_of_its_own() -> None:
    world = new_world()
    machine(world, "amd-2").reported = ("linux/amd64", "linux/386")
    world.apply(ONE)
    assert pins(world)["gateway.amd64"] == ["linux/amd64", "linux/386"]
    assert pins(world)["amd-1"] == ["linux/amd64/v2", "linux/amd64/v3"]
    assert world.plan(ONE).empty


def test_nothing_is_added_while_a_node_cannot_be_asked() -> None:
    world = new_world()
    machine(world, "amd-2").reported = ("linux/amd64", "linux/386")
    world.apply(ONE)
    machine(world, "amd-2").network = machine(world, "amd-2").login = False
    assert world.plan(ONE).builder == ()


def test_an_architecture_without_a_port_is_built_on_its_nodes() -> None:
    assert ONE.gateway
    only_amd = replace(ONE, gateway=replace(ONE.gateway, ports={"amd64": 1250}))
    world = world_with(only_amd)
    assert pins(world) == {"gateway.amd64": AMD64, "amd-1": [], "amd-2": [], "arm-1": ARM64}
    assert world.plan(only_amd).gateway is None


def drain(world: FakeWorld, name: str = "amd-2", *, passing: bool = False) -> None:
    drained = notes.Drain("bob@desk", NOW, passing=passing)
    machine(world, name).notes[f"fleet.acme.{name}"] = {notes.DRAIN: drained.text()}


def test_up_takes_a_drained_node_out_of_the_gateway_until_it_is_resumed() -> None:
    world = world_with()
    drain(world)
    assert [type(action) for action in world.plan(ONE).lanes["amd-1"].actions][:2] == [StepAside, CreateGateway]
    assert world.apply(ONE) == {}
    [proxy] = [c for c in machine(world).containers if c.proxy]
    assert proxy.gates[1250] == [("amd-1.example", 1234), ("arm-1.example", 1234)]
    assert pins(world) == THROUGH
    assert world.plan(ONE).empty
    machine(world, "amd-2").notes.clear()
    assert world.apply(ONE) == {}
    assert ("amd-2.example", 1234) in next(c for c in machine(world).containers if c.proxy).gates[1250]
    assert world.plan(ONE).empty


def test_it_stays_first_while_the_first_node_is_drained() -> None:
    """A build without a platform goes to the first one."""
    world = world_with()
    drain(world, "amd-1")
    machine(world).login = False
    assert world.apply(ONE) == {}
    assert "gateway.amd64" not in pins(world)
    machine(world).login = True
    assert world.apply(ONE) == {}
    assert next(iter(pins(world))) == "gateway.amd64"
    assert pins(world)["gateway.amd64"] == AMD64


def test_a_gateway_that_cannot_be_told_of_a_drain_is_passed_by() -> None:
    world = world_with()
    drain(world)
    machine(world).login = False
    decided = world.plan(ONE)
    assert decided.gateway
    assert "it still sends builds to amd-2: those for amd64 go to the nodes without it" in decided.gateway.reason
    world.apply(ONE)
    assert pins(world) == {"amd-1": AMD64, "amd-2": [], "gateway.arm64": ARM64, "arm-1": []}
    assert world.plan(ONE).builder == ()


def test_a_drain_that_passes_is_left_to_those_who_replace_the_daemon() -> None:
    world = world_with()
    drain(world, passing=True)
    assert world.plan(ONE).lanes["amd-1"].actions == ()
    assert pins(world) == THROUGH


def test_while_daemons_are_replaced_the_gateway_stands_by() -> None:
    """It would go on sending builds to the node that is waited for."""
    world = world_with()
    newer = replace(ONE, buildkit=replace(ONE.buildkit, image="moby/buildkit:v0.33.0"))
    seen: list[tuple[str, ...]] = []

    def watch() -> None:
        seen.append(tuple(name for name, owned in pins(world).items() if "linux/amd64" in owned))

    assert world.apply(newer, watch=watch) == {}
    assert ("amd-2",) in seen
    assert ("amd-1",) in seen
    assert () not in seen[1:]
    assert pins(world) == THROUGH


def test_killed_before_any_change_the_next_run_mends_it() -> None:
    changes: list[None] = []
    other = spec("amd-1", balance=Balance.SOURCE)
    assert world_with().apply(other, watch=lambda: changes.append(None)) == {}
    assert len(changes) > 4
    for done in range(len(changes)):
        world = world_with()
        world.apply(other, stop={"anything": done})
        assert any(state == "running" for _, state in gateways(world))
        assert world.apply(other) == {}
        assert gateways(world) == [(NAME, "running")]
        assert pins(world) == THROUGH
        assert world.plan(other).empty


# ------------------------------------------------------------------------------------------------ its health


def stop(world: FakeWorld) -> None:
    [proxy] = [c for c in machine(world).containers if c.proxy]
    proxy.state = "exited"


def end_daemons(world: FakeWorld) -> None:
    for one in world.machines.values():
        for container in one.containers:
            container.state = container.state if container.proxy else "exited"


@pytest.mark.parametrize(
    ("happen", "health", "reason"),
    [
        (lambda _: None, Health.READY, None),
        (stop, Health.DOWN, f"container: {NAME}: is exited"),
        (kill, Health.DOWN, "TCP: amd-1.example:1250 refused the connection"),
        (end_daemons, Health.DOWN, "TLS: no node behind it can be reached through it"),
        (lambda world: setattr(machine(world), "login", False), Health.READY, None),
    ],
    ids=["well", "stopped", "dead", "no daemon behind it", "its host cannot be logged in to"],
)
def test_how_it_is(happen: Callable[[FakeWorld], None], health: Health, reason: str | None) -> None:
    world = world_with()
    happen(world)
    amd, arm = gate_health(ONE, world.facts(ONE))
    assert (amd.host, amd.arch, amd.endpoint) == ("amd-1", "amd64", "amd-1.example:1250")
    assert amd.owns == platforms(*AMD64)
    assert amd.health is arm.health is health
    assert (amd.reason or "").startswith(reason or "")
    assert (amd.reason is None) is (reason is None)


def test_a_port_for_machines_that_the_fleet_has_not_is_nothing_to_speak_of() -> None:
    only_amd = replace(ONE, hosts=(AMD_1, AMD_2))
    world = world_with(only_amd)
    assert [gate.arch for gate in gate_health(only_amd, world.facts(only_amd))] == ["amd64"]


def test_its_image_is_looked_for_where_it_is_to_be() -> None:
    world = world_with()
    seen = {name: node.host for name, node in world.facts(ONE).nodes.items()}
    assert {name: getattr(found, "proxy").image for name, found in seen.items()} == {  # noqa: B009 - a Down has none
        "amd-1": Image.PULLED,
        "amd-2": Image.ABSENT,
        "arm-1": Image.ABSENT,
    }


# --------------------------------------------------------------------------------------------- the inventory

HEAD = "fleet: acme\nhosts:\n  amd-1: {address: 10.0.0.1}\n  amd-2: {address: 10.0.0.2, port: 1250}\n"


def test_the_inventory_has_defaults() -> None:
    parsed = parse(f"{HEAD}gateway: {{hosts: [amd-1]}}\n")
    assert parsed.gateway == GatewaySpec(("amd-1",), "haproxy:3.2-alpine", {"amd64": 1250, "arm64": 1251})
    assert {key: (gate.address, gate.port) for key, gate in gates(parsed).items()} == {
        ("amd-1", "amd64"): ("10.0.0.1", 1250),
        ("amd-1", "arm64"): ("10.0.0.1", 1251),
    }
    assert parse(HEAD).gateway is None
    assert gates(parse(HEAD)) == {}


@pytest.mark.parametrize(
    ("gateway", "problem"),
    [
        ("{}", "gateway.hosts: required, but missing"),
        ("{hosts: []}", "gateway.hosts: must not be empty"),
        ("{hosts: [amd-3]}", "gateway.hosts[0]: there is no host 'amd-3'; one of: amd-1, amd-2"),
        ("{hosts: [amd-1, amd-1]}", "gateway.hosts[1]: amd-1 is named before it"),
        ("{hosts: [amd-2]}", "gateway: 1250 is the port that BuildKit has on amd-2"),
        ("{hosts: [amd-1], ports: {amd64: 1234}}", "gateway.ports.amd64: 1234 is the port that BuildKit has on amd-1"),
        ("{hosts: [amd-1], ports: {amd64: 1300, arm64: 1300}}", "gateway.ports.arm64: 1300 is the port that amd64 has"),
        ("{hosts: [amd-1], ports: {amd64: 443}}", "gateway.ports.amd64: must be at least 1024, not 443"),
        ("{hosts: [amd-1], ports: {vax: 1300}}", "gateway.ports.vax: 'vax' is no architecture; one of: 386, amd64"),
        ("{hosts: [amd-1], image: haproxy}", "gateway.image: 'haproxy' needs a tag or a digest"),
        ("{hosts: [amd-1], balance: roundrobin}", "gateway.balance: must be 'leastconn' or 'source'"),
        ("{host: amd-1}", "gateway.host: unknown key (did you mean 'hosts'?)"),
    ],
)
def test_the_inventory_is_refused(gateway: str, problem: str) -> None:
    with pytest.raises(InventoryError) as caught:
        parse(f"{HEAD}gateway: {gateway}\n")
    assert problem in str(caught.value)


def test_no_host_has_the_gateways_name() -> None:
    with pytest.raises(InventoryError, match=r"hosts\.gateway: is the name of the gateway's own container"):
        parse("fleet: acme\nhosts: {gateway: {address: 10.0.0.1}}\ngateway: {hosts: [gateway]}\n")
    assert parse("fleet: acme\nhosts: {gateway: {address: 10.0.0.1}}\n").hosts[0].name == "gateway"
