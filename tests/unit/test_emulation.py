"""Emulation: only where it is allowed, only for what nobody runs natively, and always told apart."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest

from fleet import route
from fleet.applying.emulation import IMAGE, INSTALL, REMOVE, Change, change, handlers, of
from fleet.check.judgement import Answers, Case, State, Topic
from fleet.check.node import judge
from fleet.cli import emulation as command
from fleet.errors import UsageError
from fleet.health import node_health
from fleet.inventory.parse import parse
from fleet.model.facts import ApiFacts, Down, HostFacts, NodeFacts, Stage
from fleet.model.health import Health, NodeHealth
from fleet.model.platforms import Platform
from fleet.observing.observe import Connections
from tests.support.fakes import Machine, connector
from tests.support.values import api, fleet, found, host, platforms

WITH_QEMU = ("linux/amd64", "linux/amd64/v2", "linux/arm64", "linux/riscv64", "linux/386", "linux/arm/v7")
AMD, ARM, RISCV = platforms("linux/amd64", "linux/arm64", "linux/riscv64")

# -------------------------------------------------------------------------------------------------- routing

EMULATED: dict[str, tuple[ApiFacts, HostFacts | None, tuple[str, ...]]] = {
    "a host without handlers": (api(), found(), ()),
    "foreign platforms": (api("x86_64", *WITH_QEMU), found(), ("linux/arm64", "linux/riscv64", "linux/arm/v7")),
    "the same, its host not asked": (
        api("x86_64", *WITH_QEMU),
        None,
        ("linux/arm64", "linux/riscv64", "linux/arm/v7"),
    ),
    "32-bit arm on arm64, by a handler": (
        api("aarch64", "linux/arm64", "linux/arm/v7"),
        found("aarch64", emulated=("arm",)),
        ("linux/arm/v7",),
    ),
    "the same, by what the daemon remembers": (
        api("aarch64", "linux/arm64", "linux/arm/v7", emulated=("arm",), arch="arm64"),
        None,
        ("linux/arm/v7",),
    ),
    "32-bit arm on arm64, by the CPU": (api("aarch64", "linux/arm64", "linux/arm/v7"), found("aarch64"), ()),
    "a daemon of another architecture": (api("aarch64"), found("x86_64"), ()),
    "a worker that says nothing": (api(platforms=()), found(), ()),
}


@pytest.mark.parametrize(("said", "machine", "expected"), EMULATED.values(), ids=EMULATED)
def test_what_a_worker_emulates_is_what_it_does_not_run_natively(
    said: ApiFacts, machine: HostFacts | None, expected: tuple[str, ...]
) -> None:
    assert tuple(map(str, route.emulated_platforms(said, machine))) == expected
    native = route.native_platforms(host("a"), said, machine)
    assert not set(native) & set(route.emulated_platforms(said, machine))


def test_what_the_inventory_leaves_out_is_not_emulated_for_that() -> None:
    assert route.emulated_platforms(api(), found()) == ()
    assert route.native_platforms(host("a", "linux/amd64"), api(), found()) == (AMD,)


def health(name: str, said: ApiFacts | Down) -> NodeHealth:
    return node_health(fleet(host(name)), host(name), NodeFacts(api=said), ())


QEMU = health("amd-1", api("x86_64", *WITH_QEMU))
PLAIN, ARM_HOST = health("amd-2", api()), health("arm-1", api("aarch64"))
DEAD_ARM = health("arm-1", Down(Stage.TCP, "refused", "fleet up"))


@pytest.mark.parametrize(
    ("nodes", "asked", "allowed", "able"),
    [
        pytest.param([QEMU, PLAIN], [ARM], {"amd-1"}, {"amd-1"}, id="allowed, and nobody runs it"),
        pytest.param([QEMU, PLAIN], [ARM], set(), set(), id="refused unless allowed"),
        pytest.param([QEMU, PLAIN], [ARM], {"amd-2"}, set(), id="allowed elsewhere"),
        pytest.param([QEMU, PLAIN], [ARM, RISCV], {"amd-1", "amd-2"}, {"amd-1"}, id="only where there is a handler"),
        pytest.param([QEMU, ARM_HOST], [ARM], {"amd-1"}, {"arm-1"}, id="native comes first"),
        pytest.param([QEMU, DEAD_ARM], [ARM], {"amd-1"}, {"amd-1"}, id="the native node is down"),
        pytest.param([QEMU, PLAIN], [AMD], {"amd-1"}, {"amd-1", "amd-2"}, id="native platforms stay as they are"),
    ],
)
def test_a_platform_is_emulated_where_allowed_and_only_if_nobody_runs_it(
    nodes: list[NodeHealth], asked: list[Platform], allowed: set[str], able: set[str]
) -> None:
    after = route.with_emulation(asked, nodes, allowed.__contains__)
    for platform in asked:
        assert {node.name for node in after if route.why_not(platform, node) is None} == able
    if AMD not in asked:
        emulating = [node.name for node in after if set(asked) & set(node.platforms) & set(node.emulated)]
        assert emulating == [name for name in ("amd-1",) if name in able]


def test_who_is_refused_learns_that_it_could_be_emulated() -> None:
    (refusal,) = route.refusals([ARM], [QEMU, PLAIN])
    assert refusal.reasons["amd-1"].endswith(" natively, and would emulate this one (--allow-emulation)")
    assert refusal.reasons["amd-2"].endswith(" natively")


def test_a_node_that_is_down_emulates_nothing() -> None:
    down = replace(QEMU, health=Health.DOWN)
    (after,) = route.with_emulation([ARM], [down], lambda _: True)
    assert route.why_not(ARM, after) == "down"


# ---------------------------------------------------------------------------------- inventory and health


@pytest.mark.parametrize(
    ("fleets", "hosts", "expected"),
    [("", "", False), ("refuse", "", False), ("allow", "", True), ("allow", "refuse", False), ("", "allow", True)],
)
def test_the_inventory_allows_it_for_all_or_for_a_host(fleets: str, hosts: str, expected: bool) -> None:
    own = f", emulation: {hosts}" if hosts else ""
    text = f"fleet: acme\n{f'emulation: {fleets}' if fleets else ''}\nhosts:\n  a: {{address: 10.0.0.1{own}}}\n"
    assert parse(text).hosts[0].emulation is expected


def test_handlers_are_a_warning_unless_the_inventory_allows_them() -> None:
    machine = found(emulated=("arm64",))
    for allowed, expected in ((False, Health.DEGRADED), (True, Health.READY)):
        spec = fleet(replace(host("amd-1"), emulation=allowed))
        seen = node_health(spec, spec.hosts[0], NodeFacts(machine, api("x86_64", *WITH_QEMU)), ())
        assert (seen.health, seen.emulated) == (expected, platforms("linux/arm64", "linux/riscv64", "linux/arm/v7"))
        assert ARM not in seen.platforms
        judged = judge(Case(spec, spec.hosts[0], Answers(machine), None, None))[Topic.EMULATION]
        assert judged.state is (State.OK if allowed else State.WARNING)
        assert "arm64" in judged.text


# -------------------------------------------------------------------------------------------- the commands

SPEC = fleet(host("amd-1", address="10.0.0.1"))


@pytest.fixture
def machine() -> Machine:
    return Machine("10.0.0.1")


@pytest.fixture
def connections(machine: Machine) -> Iterator[Connections]:
    with Connections(connector({machine.address: machine})) as opened:
        yield opened


def done(connections: Connections, wanted: Change) -> HostFacts | Down:
    return change(SPEC, SPEC.hosts[0], wanted, connections, lambda _: None)


def emulates(connections: Connections, wanted: Change) -> tuple[str, ...]:
    said = done(connections, wanted)
    assert isinstance(said, HostFacts), said
    return said.emulated


def test_handlers_come_and_go_and_the_image_stays_nowhere(machine: Machine, connections: Connections) -> None:
    assert emulates(connections, of(INSTALL, ["linux/arm64", "aarch64", "s390x"])) == ("arm64", "s390x")
    assert emulates(connections, of(INSTALL, ["arm64"])) == ("arm64", "s390x")
    assert emulates(connections, of(REMOVE, ["arm64"])) == ("s390x",)
    assert emulates(connections, of(REMOVE, [])) == ()
    assert emulates(connections, of(INSTALL, [])) == ("arm", "arm64", "s390x")
    assert IMAGE not in machine.images
    assert machine.marks == {}


def test_an_image_that_was_there_stays(machine: Machine, connections: Connections) -> None:
    machine.images.add("mine:1")
    assert emulates(connections, of(INSTALL, ["arm64"], "mine:1")) == ("arm64",)
    assert "mine:1" in machine.images


def test_where_nothing_is_to_be_done_nothing_is_pulled(machine: Machine, connections: Connections) -> None:
    machine.pulls = False
    assert emulates(connections, of(REMOVE, ["arm64"])) == ()
    assert emulates(connections, of(REMOVE, [])) == ()
    machine.emulated = ("arm64",)
    assert emulates(connections, of(INSTALL, ["arm64"])) == ("arm64",)


def test_what_came_to_nothing_is_told(machine: Machine, connections: Connections) -> None:
    machine.images.add("other:1")
    said = done(connections, of(INSTALL, ["loong64"], "other:1"))
    assert isinstance(said, Down)
    assert said.reason == "other:1 did not install loong64: installing: done"
    machine.refuses = frozenset({"other:1"})
    said = done(connections, of(INSTALL, ["arm64"], "other:1"))
    assert isinstance(said, Down)
    assert "cannot mount binfmt_misc" in said.reason
    machine.pulls = False
    said = done(connections, of(INSTALL, ["arm64"]))
    assert isinstance(said, Down)
    assert said.stage is Stage.IMAGE


def test_a_host_that_does_not_answer_is_told(machine: Machine, connections: Connections) -> None:
    machine.login = False
    said = done(connections, of(INSTALL, ["arm64"]))
    assert isinstance(said, Down)
    assert handlers(SPEC, SPEC.hosts, connections) == {"amd-1": said}


def test_the_table_and_the_json(capsys: pytest.CaptureFixture[str]) -> None:
    spec = fleet(host("amd-1"), replace(host("amd-2"), emulation=True), host("arm-1"))
    said: dict[str, HostFacts | Down] = {
        "amd-1": found(),
        "amd-2": found(emulated=("arm64", "s390x")),
        "arm-1": Down(Stage.SSH, "no answer", "is the host up?"),
    }
    assert command._told(spec, said, as_json=False) == 3
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [
        "node   arch   emulates      builds",
        "amd-1  amd64  nothing       native only",
        "amd-2  amd64  arm64, s390x  native, or emulated",
        "arm-1  –      –             –",
    ]
    assert printed.err.splitlines() == ["arm-1: SSH: no answer", "    try: is the host up?"]
    command._told(spec, said, as_json=True)
    nodes = json.loads(capsys.readouterr().out)["nodes"]
    assert nodes[1] == {
        "name": "amd-2",
        "arch": "amd64",
        "emulates": ["arm64", "s390x"],
        "allowed": True,
        "failure": None,
    }
    assert (nodes[2]["arch"], nodes[2]["emulates"], nodes[2]["failure"]["stage"]) == (None, None, "SSH")


def test_a_mistake_is_told() -> None:
    with pytest.raises(UsageError, match="unknown architecture 'pdp11'"):
        of(INSTALL, ["pdp11"])


def test_a_host_does_not_emulate_itself(connections: Connections) -> None:
    with pytest.raises(UsageError, match="amd-1 is amd64 itself"):
        done(connections, of(INSTALL, ["amd64"]))
