"""Who owns what while nodes and gateways come and go: in which case when, and that it never flaps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet import notes
from fleet.buildx import Step, after
from fleet.containers.proxy import gates
from fleet.model.facts import ApiFacts, BuilderFacts, BuilderNode, Down, Facts, NodeFacts, Stage
from fleet.model.spec import FleetSpec, GatewaySpec
from fleet.planning import failover
from fleet.planning.failover import APART, LATE, STEADY, Memory, Way, moves, noticed, reasons
from fleet.planning.gateway import ways
from fleet.planning.lane import Lane
from fleet.planning.plan import able_platforms, builder_steps
from fleet.route import native_platforms
from tests.support.values import NOW, api, fleet, host, vault
from tests.support.world import FakeWorld
from tests.unit.test_gateway import drain, world_with

PLAIN = fleet(host("amd-1"), host("amd-2"), host("arm-1"))
ONE = replace(PLAIN, gateway=GatewaySpec(("amd-1",), "haproxy:3.2", {"amd64": 1250, "arm64": 1251}))
TWO = replace(PLAIN, gateway=GatewaySpec(("amd-1", "amd-2"), "haproxy:3.2", {"amd64": 1250}))

EVERY = 2.0
"""Seconds between two looks."""

MACHINES = {"amd-1": "x86_64", "amd-2": "x86_64", "arm-1": "aarch64"}
REPORTED = {
    # Its kernel would run the others' programs as well.
    "amd-2": ("linux/amd64", "linux/amd64/v2", "linux/amd64/v3", "linux/386", "linux/arm64"),
}
BAD: Mapping[str, Down] = {
    "refused": Down(Stage.TCP, "refused the connection"),
    "silent": Down(Stage.TCP, "no answer within 3.0 s", silent=True),
    "late": Down(Stage.TLS, "has not shaken hands within 3.0 s", late=True, silent=True),
    "denied": Down(Stage.TLS, "refused this client's certificate"),
}
STALE = "stale"
"""It has not been asked again: each is by its own clock."""
LOOKS = ("ok", "drained", "passing", *BAD)


def answer(way: Way, look: str) -> ApiFacts | Down:
    """What is said there: an object of its own each time."""
    if look in BAD:
        return replace(BAD[look])
    name = way if isinstance(way, str) else {"amd64": "amd-2", "arm64": "arm-1"}[way[1]]
    noted = {} if look == "ok" else {notes.DRAIN: notes.Drain("bob@desk", NOW, passing=look == "passing").text()}
    machine = MACHINES[name]
    arch = {"x86_64": "amd64", "aarch64": "arm64"}[machine]
    return api(machine, *REPORTED.get(name, ()), arch=arch, emulated=("arm64",) * (name in REPORTED), notes=noted)


@dataclass(slots=True)
class Fleet:
    """A fleet that is followed, look by look, in no time."""

    spec: FleetSpec = PLAIN
    nodes: tuple[BuilderNode, ...] = ()
    memory: Memory = field(default_factory=Memory)
    now: float = 1000.0
    changed: list[float] = field(default_factory=list)
    """When."""
    said: dict[Way, ApiFacts | Down] = field(default_factory=dict)
    """At the last look."""

    def __post_init__(self) -> None:
        """As `fleet up` leaves it."""
        self.nodes = self.nodes or after((), self.planned())

    @property
    def every(self) -> tuple[Way, ...]:
        return (*MACHINES, *gates(self.spec))

    def facts(self, looks: Mapping[Way, str]) -> Facts:
        look = {way: looks.get(way, "ok") for way in self.every}
        self.said = said = {way: self.said[way] if look[way] == STALE else answer(way, look[way]) for way in self.every}
        nodes = {name: NodeFacts(api=said[name]) for name in MACHINES}
        through = {way: one for way, one in said.items() if not isinstance(way, str)}
        return Facts(nodes, BuilderFacts(self.nodes, "remote" * bool(self.nodes)), vault(), gates=through)

    def planned(self, looks: Mapping[Way, str] | None = None) -> Sequence[Step]:
        """What the plan would do."""
        facts = self.facts(looks or {})
        able = able_platforms(self.spec, facts, dict.fromkeys(MACHINES, Lane()), {})
        steps, blocked = builder_steps(self.spec, able, facts.builder, facts.vault, ways(self.spec, facts))
        assert blocked is None
        return steps

    def look(self, looks: Mapping[Way, str] | None = None) -> bool:
        """Once; whether it changed something."""
        self.now += EVERY
        facts = self.facts(looks or {})
        self.memory = noticed(self.memory, facts, self.now)
        steps, blocked = failover.steps(self.spec, facts, self.memory, self.now)
        assert blocked is None
        if steps:
            self.nodes = after(self.nodes, steps)
            self.memory = replace(self.memory, changed=self.now)
            self.changed.append(self.now)
        return bool(steps)

    def until_changed(self, looks: Mapping[Way, str] | None = None, *, within: float = 120) -> float | None:
        """Seconds until something changed; None: nothing did."""
        began = self.now
        while self.now - began < within:
            if self.look(looks):
                return self.now - began
        return None

    def settled(self) -> Fleet:
        """Watched for so long that everybody is well known."""
        assert self.until_changed(within=2 * STEADY) is None
        return self

    def owner(self, platform: str = "linux/amd64") -> str:
        return next(node.name for node in self.nodes if platform in map(str, node.platforms))


# --------------------------------------------------------------------------------------------- case by case

GONE: dict[str, tuple[str, float, float]] = {
    # Others have to answer once more before it fails again: it might be this machine's network.
    "refuses": ("refused", 3 * EVERY, 3 * EVERY),
    "is silent": ("silent", 4 * EVERY, 4 * EVERY),
    "does not let us in": ("denied", 4 * EVERY, 4 * EVERY),
    "is late": ("late", LATE, LATE + 2 * EVERY),
    "is drained": ("drained", EVERY, EVERY),
    "is being replaced": ("passing", EVERY, EVERY),
}


@pytest.mark.parametrize(("look", "least", "most"), GONE.values(), ids=GONE)
def test_an_owner_that_is_gone_is_replaced_and_comes_back_when_it_has_been_well(
    look: str, least: float, most: float
) -> None:
    watched = Fleet().settled()
    assert watched.owner() == "amd-1"
    took = watched.until_changed({"amd-1": look})
    assert took is not None
    assert least <= took <= most
    assert watched.owner() == "amd-2"
    assert watched.owner("linux/arm64") == "arm-1"
    # A build without a platform goes to the first one.
    assert watched.nodes[0].name == "amd-2"
    assert {node.name for node in watched.nodes} == set(MACHINES)
    assert watched.until_changed({"amd-1": look}) is None
    back = watched.until_changed()
    assert back is not None
    assert back <= STEADY + 2 * EVERY
    assert look in {"drained", "passing"} or back >= STEADY
    assert watched.owner() == "amd-1"
    assert watched.until_changed() is None


@pytest.mark.parametrize(("look", "enough"), [("refused", True), ("silent", False), ("denied", False)])
def test_one_refusal_is_enough_once_another_has_answered(look: str, enough: bool) -> None:
    """Each is asked by its own clock: what is no other object is no other answer."""
    watched = Fleet().settled()
    assert not watched.look({"amd-1": look})
    # The answer of another alone says nothing new of it.
    assert not watched.look({"amd-1": STALE})
    assert watched.look({"amd-1": look, "amd-2": STALE}) is enough


@pytest.mark.parametrize("look", ["silent", "late", "denied"])
def test_a_hiccup_changes_nothing(look: str) -> None:
    watched = Fleet().settled()
    for _ in range(20):
        assert not watched.look({"amd-1": look})
        assert not watched.look()
    assert watched.until_changed() is None


@pytest.mark.parametrize("look", BAD)
def test_nothing_changes_when_nobody_answers(look: str) -> None:
    """It is this machine's network; it is lost for each at another moment of its own clock."""
    watched = Fleet(ONE).settled()
    for gone in range(len(watched.every) + 1):
        assert not watched.look(dict.fromkeys(watched.every[:gone], look)) or gone < len(watched.every)
    changed = len(watched.changed)
    everybody = dict.fromkeys(watched.every, look)
    assert watched.until_changed(everybody, within=600) is None
    assert len(watched.changed) == changed


def test_a_network_that_is_lost_at_once_changes_nothing() -> None:
    watched = Fleet().settled()
    everybody: dict[Way, str] = dict.fromkeys(watched.every, "silent")
    # The last one to be asked had answered just before.
    assert not watched.look({"amd-1": "silent"})
    assert watched.until_changed(everybody, within=600) is None
    assert watched.until_changed() is None


@pytest.mark.parametrize("look", BAD)
@pytest.mark.parametrize("began_before", [False, True], ids=["", "asked before it came back"])
def test_a_network_that_comes_back_changes_nothing(look: str, began_before: bool) -> None:
    """They are heard of again one after the other, the owner last."""
    watched = Fleet(ONE).settled()
    order = (*reversed(watched.every),)
    assert watched.until_changed(dict.fromkeys(order, look), within=60) is None
    silent_ones = began_before and look != "refused"
    for back in range(1, len(order)):
        away: dict[Way, str] = dict.fromkeys(order[back:], STALE)
        if silent_ones and back == 1:
            assert not watched.look(away)
            away = dict.fromkeys(away, look)
        assert not watched.look(away | dict.fromkeys(order[: back - 1], STALE))
    assert watched.until_changed() is None


@pytest.mark.parametrize("look", BAD)
def test_an_answer_in_flight_when_the_network_is_lost_changes_nothing(look: str) -> None:
    watched = Fleet().settled()
    others: dict[Way, str] = dict.fromkeys(("amd-2", "arm-1"), look)
    assert not watched.look({"amd-1": look, "arm-1": look})
    assert not watched.look({"amd-1": STALE, "arm-1": STALE})
    assert watched.until_changed(others | {"amd-1": look}, within=60) is None
    for _ in range(2):
        assert not watched.look({"amd-1": STALE, "arm-1": STALE})
    assert watched.until_changed() is None


@pytest.mark.parametrize("spec", [PLAIN, ONE], ids=["", "with a gateway"])
def test_a_change_that_is_cut_short_anywhere_is_finished_by_the_next_plan(spec: FleetSpec) -> None:
    """By the watch that is begun anew and by `fleet up`, while the inventory's first host is still gone."""
    gone: dict[Way, str] = {"amd-1": "refused", **(DEAD if spec is ONE else {})}
    watched = Fleet(spec).settled()
    while not watched.until_changed(gone, within=EVERY):
        before = watched.nodes
    # Everybody there was to wait for has failed by now.
    watched.until_changed(gone)
    reached = watched.nodes
    watched.nodes, watched.memory = before, replace(watched.memory, changed=None)
    watched.now += APART
    facts = watched.facts(gone)
    taken, _ = failover.steps(spec, facts, watched.memory, watched.now)
    assert len(taken) > 4
    for done in range(len(taken) + 1):
        watched.nodes = after(before, taken[:done])
        assert _pinned(before) <= _pinned(watched.nodes)
        followed, _ = failover.steps(spec, watched.facts(gone), watched.memory, watched.now)
        planned = watched.planned(gone)
        for left in (followed, planned):
            ended = after(watched.nodes, left)
            assert ended[0].name == reached[0].name == "amd-2"
            assert {n.name: n.platforms for n in ended if n.platforms} == {
                n.name: n.platforms for n in reached if n.platforms
            }


def test_who_flaps_gets_nothing_back() -> None:
    watched = Fleet().settled()
    assert watched.until_changed({"amd-1": "refused"})
    for _ in range(10):
        assert watched.until_changed(within=STEADY - 2 * EVERY) is None
        assert not watched.look({"amd-1": "silent"})
    assert watched.owner() == "amd-2"


def test_who_has_just_come_back_helps_out_when_nobody_else_can() -> None:
    watched = Fleet().settled()
    assert watched.until_changed({"amd-1": "refused"})
    assert watched.until_changed({"amd-1": "refused"}, within=APART) is None
    assert not watched.look({"amd-2": "refused"})
    assert watched.until_changed({"amd-2": "refused"}, within=4 * EVERY)
    assert watched.owner() == "amd-1"


def test_the_only_one_of_an_architecture_stays_the_owner() -> None:
    """Without an owner buildx would send its builds to the first node."""
    watched = Fleet().settled()
    for look in LOOKS:
        assert watched.until_changed({"arm-1": look}) is None
    assert watched.until_changed({"amd-1": "refused", "amd-2": "drained"}) is None


def test_a_watch_that_begins_anew_leaves_the_owner_until_another_is_well() -> None:
    watched = Fleet().settled()
    assert watched.until_changed({"amd-1": "refused"})
    watched.memory = Memory()
    back = watched.until_changed()
    assert back is not None
    assert STEADY <= back <= STEADY + 2 * EVERY
    assert watched.owner() == "amd-1"


def test_nothing_is_decided_before_everybody_was_asked() -> None:
    watched = Fleet().settled()
    watched.memory = Memory()
    facts = watched.facts({"amd-1": "drained"})
    unasked = replace(facts, nodes={**facts.nodes, "arm-1": NodeFacts()})
    memory = noticed(Memory(), unasked, 1.0)
    assert failover.steps(PLAIN, unasked, memory, 1.0) == ((), None)
    memory = noticed(memory, facts, 2.0)
    assert failover.steps(PLAIN, facts, memory, 2.0)[0]


def test_without_a_builder_none_is_made() -> None:
    watched = Fleet()
    facts = replace(watched.facts({}), builder=BuilderFacts())
    assert failover.steps(PLAIN, facts, noticed(Memory(), facts, 1.0), 1.0) == ((), None)


def test_somebody_elses_builder_is_told() -> None:
    watched = Fleet()
    foreign = tuple(replace(node, options={"cacert": "/theirs"}) for node in watched.nodes)
    facts = replace(watched.facts({}), builder=BuilderFacts(foreign, "remote"))
    blocked = failover.steps(PLAIN, facts, noticed(Memory(), facts, 1.0), 1.0)[1]
    assert blocked
    assert "this vault did not make" in blocked.reason


# ------------------------------------------------------------------------------------------------- gateways

DEAD: dict[Way, str] = {("amd-1", "amd64"): "refused", ("amd-1", "arm64"): "refused"}


def test_builds_go_without_a_gateway_that_is_dead_and_through_it_when_it_has_been_well() -> None:
    watched = Fleet(ONE).settled()
    assert (watched.owner(), watched.owner("linux/arm64")) == ("gateway.amd64", "gateway.arm64")
    took = watched.until_changed(DEAD)
    assert took == 3 * EVERY
    assert (watched.owner(), watched.owner("linux/arm64")) == ("amd-1", "arm-1")
    assert watched.until_changed(DEAD) is None
    back = watched.until_changed()
    assert back is not None
    assert STEADY <= back <= STEADY + 2 * EVERY
    assert watched.nodes[0].name == "gateway.amd64"
    assert watched.owner("linux/arm64") == "gateway.arm64"
    assert watched.until_changed() is None


def test_a_gateway_and_its_host_that_die_together_leave_builds_to_the_other() -> None:
    watched = Fleet(ONE).settled()
    dead = DEAD | {"amd-1": "refused"}
    assert watched.until_changed(dead)
    watched.until_changed(dead)
    assert watched.owner() == "amd-2"
    assert watched.nodes[0].name == "amd-2"


def test_the_second_gateway_takes_over_and_gives_back() -> None:
    watched = Fleet(TWO).settled()
    settled, first = watched.nodes, watched.nodes[0].endpoint
    assert watched.until_changed({("amd-1", "amd64"): "silent"})
    assert watched.nodes[0].endpoint != first
    assert watched.owner() == "gateway.amd64"
    assert _told(watched, settled) == (
        [f"{AMD64}: gateway.amd64 on amd-1 → gateway.amd64 on amd-2"],
        ("gateway.amd64 on amd-1: TCP: no answer within 3.0 s",),
    )
    other = watched.nodes
    assert watched.until_changed()
    assert watched.nodes[0].endpoint == first
    assert _told(watched, other) == (
        [f"{AMD64}: gateway.amd64 on amd-2 → gateway.amd64 on amd-1"],
        ("gateway.amd64 on amd-1 has answered for 30 s",),
    )


def _told(watched: Fleet, before: Sequence[BuilderNode]) -> tuple[list[str], tuple[str, ...]]:
    found = moves(watched.spec, before, watched.nodes)
    return list(map(str, found)), reasons(watched.spec, found, watched.memory, watched.now)


@pytest.mark.parametrize("asked", [True, False], ids=["its host can be asked", "it cannot"])
def test_a_gateway_is_passed_by_unless_it_knows_who_is_drained(asked: bool) -> None:
    world = world_with(ONE)
    drain(world, "amd-2")
    assert world.apply(ONE) == {}
    facts = world.facts(ONE)
    if not asked:
        facts = replace(facts, nodes={name: NodeFacts(api=node.api) for name, node in facts.nodes.items()})
    world.builder.builders["acme"] = BuilderFacts(_followed(world, facts), "remote")
    owner = next(node.name for node in world.builder.read("acme").nodes if node.platforms)
    assert owner == ("gateway.amd64" if asked else "amd-1")


def _followed(world: FakeWorld, facts: Facts) -> tuple[BuilderNode, ...]:
    memory = noticed(Memory(), facts, 1.0)
    return after(world.builder.read("acme").nodes, failover.steps(ONE, facts, memory, 1.0)[0])


# ------------------------------------------------------------------------------------------------- in words


AMD64 = "linux/amd64, linux/amd64/v2, linux/amd64/v3, linux/386"
TOLD: dict[str, tuple[FleetSpec, Mapping[Way, str], list[str], tuple[str, ...]]] = {
    "an owner is down": (
        PLAIN,
        {"amd-1": "refused"},
        [f"{AMD64}: amd-1 → amd-2"],
        ("amd-1: TCP: refused the connection",),
    ),
    "an owner is drained": (
        PLAIN,
        {"amd-1": "drained"},
        [f"{AMD64}: amd-1 → amd-2"],
        ("amd-1: drained: by bob@desk, since 2030-05-01 12:00 UTC",),
    ),
    "a gateway is down": (
        ONE,
        DEAD,
        [
            f"{AMD64}: gateway.amd64 on amd-1 → amd-1",
            "linux/arm64, linux/arm/v7, linux/arm/v6: gateway.arm64 on amd-1 → arm-1",
        ],
        ("gateway.amd64 on amd-1: TCP: refused the connection", "gateway.arm64 on amd-1: TCP: refused the connection"),
    ),
    "a gateway would not pass by": (
        ONE,
        {"amd-2": "drained"},
        [f"{AMD64}: gateway.amd64 on amd-1 → amd-1"],
        ("amd-2: drained: by bob@desk, since 2030-05-01 12:00 UTC",),
    ),
}


@pytest.mark.parametrize(("spec", "looks", "moved", "why"), TOLD.values(), ids=TOLD)
def test_a_change_is_told_with_its_reason(
    spec: FleetSpec, looks: Mapping[Way, str], moved: list[str], why: tuple[str, ...]
) -> None:
    watched = Fleet(spec).settled()
    before = watched.nodes
    assert watched.until_changed(looks)
    found = moves(watched.spec, before, watched.nodes)
    assert [str(move) for move in found] == moved
    assert reasons(spec, found, watched.memory, watched.now) == why


def test_who_gets_something_back_is_told_to_have_been_well() -> None:
    watched = Fleet().settled()
    assert watched.until_changed({"amd-1": "refused"})
    before = watched.nodes
    assert watched.until_changed()
    found = moves(watched.spec, before, watched.nodes)
    assert reasons(PLAIN, found, watched.memory, watched.now) == ("amd-1 has answered for 30 s",)


# ---------------------------------------------------------------------------------------------------- laws

WAYS: tuple[Way, ...] = (*MACHINES, *gates(TWO), ("amd-1", "arm64"))


@st.composite
def times(draw: st.DrawFn) -> list[Mapping[Way, str]]:
    """Looks, one after the other: as things go on for a while, and then become different."""
    looks: list[Mapping[Way, str]] = []
    for _ in range(draw(st.integers(1, 8))):
        one: Mapping[Way, str] = {way: draw(st.sampled_from(("ok", "ok", *LOOKS))) for way in WAYS}
        looks += [one] * draw(st.integers(1, 25))
    return looks


@given(st.sampled_from([PLAIN, ONE, TWO]), times())
def test_it_follows_and_never_flaps(spec: FleetSpec, looks: Sequence[Mapping[Way, str]]) -> None:
    watched = Fleet(spec)
    for at, now in enumerate(looks):
        before = watched.nodes
        if not watched.look(now):
            continue
        # Nothing in vain, and nothing too soon after another change.
        assert watched.nodes != before
        assert all(later - sooner >= APART for sooner, later in pairwise(watched.changed))
        assert any(now[way] not in BAD for way in watched.every)
        assert _pinned(before) <= _pinned(watched.nodes)
        for move in moves(spec, before, watched.nodes):
            assert move.owner
            _deserved(watched, move, now, looks[: at + 1])
    # Gateways and nodes may prove themselves one after the other.
    assert any(watched.until_changed(within=2 * STEADY) is None for _ in range(4))
    assert watched.planned() == ()
    assert watched.owner() == ("amd-1" if spec is PLAIN else "gateway.amd64")
    assert watched.nodes[0].name == watched.owner()


def _pinned(nodes: Sequence[BuilderNode]) -> set[object]:
    return {platform for node in nodes for platform in node.platforms}


def _deserved(watched: Fleet, move: failover.Move, now: Mapping[Way, str], looks: Sequence[Mapping[Way, str]]) -> None:
    """Who gets something runs it natively, and is better than who had it."""
    assert move.owner
    if move.owner in MACHINES:
        said = answer(move.owner, now[move.owner])
        assert isinstance(said, ApiFacts)
        assert now[move.owner] == "ok"
        assert set(move.platforms) <= set(native_platforms(watched.spec.host(move.owner), said, None))
    if move.owner in MACHINES and move.origin in MACHINES and now[move.origin] == "ok":
        # Without need it is given only to one that has proved itself.
        recent = looks[-int(STEADY / EVERY) :]
        assert len(recent) * EVERY >= STEADY
        others = [way for way in watched.every if way != move.owner]
        # As often as makes one that is silent count as down; a shorter hiccup takes nothing from who was steady.
        for some in zip(*(recent[skipped:] for skipped in range(4)), strict=False):
            failed = {look[move.owner] for look in some} <= BAD.keys() - {"late"}
            assert not (failed and any(all(look[way] not in BAD for look in some) for way in others))
