"""Strict native: whatever is asked of whatever nodes, buildx is left no choice but the nodes that run it themselves."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fleet.adapters.reservations import Reservations
from fleet.builds import BuildRecord
from fleet.dispatching.build_arguments import parse
from fleet.dispatching.dispatch import Dispatcher
from fleet.errors import RoutingError
from fleet.model.facts import ApiFacts, BuilderNode, Down, Stage
from fleet.model.platforms import Platform
from fleet.model.spec import HostSpec
from fleet.notes import DRAIN, Drain
from fleet.route import owners
from tests.support.buildx_resolver import Node, Resolution, normal, resolve
from tests.support.fakes import FakeBuilder
from tests.support.values import NOW, OPTIONS, fleet, host, platforms

# ------------------------------------------------------------------------------------------ the model itself

FIRST = Node("a", ("linux/amd64",), ("linux/amd64", "linux/amd64/v2", "linux/386"))
QEMU = Node("b", ("linux/amd64/v3",), ("linux/amd64", "linux/arm64"))
ARM = Node("c", ("linux/arm64", "linux/arm/v7"), ("linux/arm64", "linux/arm/v7", "linux/arm/v6"))

KNOWN: dict[str, tuple[list[Node], list[str], dict[str, tuple[str, ...]], bool]] = {
    "pins alone": ([FIRST, ARM], ["linux/arm64", "linux/amd64"], {"c": ("linux/arm64",), "a": ("linux/amd64",)}, True),
    "spellings": ([FIRST, ARM], ["arm64", "linux/arm", "linux/x86_64"], {}, True),
    "one without a pin": ([FIRST, ARM], ["linux/arm/v6"], {"c": ("linux/arm/v6",)}, False),
    "emulated, since a handler is reported": ([FIRST, QEMU], ["linux/arm64"], {"b": ("linux/arm64",)}, False),
    "to the first, since nothing matches": ([FIRST, QEMU], ["linux/riscv64"], {"a": ("linux/riscv64",)}, False),
    "to the first, since nothing is asked": ([ARM, FIRST], [], {"c": ()}, True),
    "386 on a CPU that is newer": ([ARM, QEMU], ["linux/386"], {"b": ("linux/386",)}, False),
    "a closer match later on": ([QEMU, FIRST], ["linux/amd64", "linux/s390x"], {}, False),
}


@pytest.mark.parametrize(("nodes", "asked", "expected", "pinned"), KNOWN.values(), ids=KNOWN)
def test_the_model_does_what_buildx_is_known_to_do(
    nodes: list[Node], asked: list[str], expected: Mapping[str, tuple[str, ...]], pinned: bool
) -> None:
    found = resolve(nodes, asked)
    assert found.pinned_only is pinned
    if expected:
        assert found.nodes == expected


def test_the_model_prefers_the_closest_match() -> None:
    found = resolve([QEMU, FIRST], ["linux/amd64/v2", "linux/s390x"])
    assert found == Resolution({"b": ("linux/s390x",), "a": ("linux/amd64/v2",)}, frozenset("ab"), ("linux/s390x",))


# -------------------------------------------------------------------------------------------------- the law

SPELLINGS = (
    *("linux/amd64", "linux/amd64/v1", "amd64", "linux/x86_64", "linux/amd64/v2", "linux/amd64/v3"),
    *("linux/386", "linux/i386", "linux/arm64", "linux/arm64/v8", "linux/aarch64", "linux/arm64/v9"),
    *("linux/arm", "linux/arm/v7", "linux/arm/v6", "linux/arm/v5", "linux/riscv64", "linux/s390x"),
)
CPUS: Mapping[str, tuple[str, ...]] = {
    "amd64": ("linux/amd64", "linux/amd64/v2", "linux/amd64/v3", "linux/386"),
    "arm64": ("linux/arm64", "linux/arm64/v9", "linux/arm/v7", "linux/arm/v6"),
    "riscv64": ("linux/riscv64",),
}


@dataclass(frozen=True, slots=True)
class Machine:
    """A node: what its CPU really runs, what its worker says, and how it is."""

    arch: str
    native: tuple[str, ...]
    emulated: tuple[str, ...]
    kin: bool
    """Whether those of its own family among them are known to be emulated, as `fleet up` notes it."""
    answer: str
    builds: int
    most: int | None
    only: tuple[str, ...]
    """What the inventory lets it build; empty: everything."""

    @property
    def reported(self) -> tuple[str, ...]:
        return (*self.native, *self.emulated)

    @property
    def truly(self) -> frozenset[str]:
        """What a build may be sent there for."""
        if self.answer != "ok":
            return frozenset()
        return frozenset(self.native) & frozenset(self.only or self.native)

    @property
    def full(self) -> bool:
        return self.most is not None and self.builds >= self.most

    def api(self) -> ApiFacts | Down:
        if self.answer == "dead":
            return Down(Stage.TCP, "refused the connection")
        notes = {DRAIN: Drain("anna", NOW).text()} if self.answer == "drained" else {}
        kin = {"arm64": ("arm",), "amd64": ("386",)}.get(self.arch, ()) if self.kin else ()
        return ApiFacts(
            *("v0.32.2", "worker", platforms(*self.reported), 1.0),
            arch=self.arch,
            emulated=kin,
            active_builds=self.builds,
            max_builds=self.most,
            notes=notes,
        )


@st.composite
def machines(draw: st.DrawFn) -> Machine:
    arch = draw(st.sampled_from([*CPUS]))
    first, *more = CPUS[arch]
    native = (first, *(platform for platform in more if draw(st.booleans())))
    foreign = [p for other, all_of in CPUS.items() if other != arch for p in all_of]
    emulated = tuple(draw(st.lists(st.sampled_from(foreign), unique=True, max_size=3)))
    relatives = {"arm64": ("linux/arm/v7", "linux/arm/v6"), "amd64": ("linux/386",)}.get(arch, ())
    kin = not set(relatives) & set(native) and bool(relatives) and draw(st.booleans())
    return Machine(
        arch,
        native,
        (*emulated, *(relatives if kin else ())),
        kin,
        draw(st.sampled_from(["ok", "ok", "ok", "dead", "drained"])),
        draw(st.integers(0, 3)),
        draw(st.none() | st.integers(1, 3)),
        tuple(draw(st.lists(st.sampled_from(native), unique=True, max_size=2))),
    )


class Says:
    """A prober for which each node is one of these machines."""

    def __init__(self, nodes: Mapping[str, Machine]) -> None:
        self._nodes = nodes

    def probe(self, host: HostSpec, *, timeout: float) -> ApiFacts | Down:
        assert timeout > 0
        return self._nodes[host.name].api()

    def builds(self, host: HostSpec, *, refs: object = None) -> Iterator[BuildRecord]:
        raise AssertionError((host, refs))


AMD_1 = Machine("amd64", ("linux/amd64",), ("linux/arm64",), kin=False, answer="ok", builds=0, most=None, only=())
ARM_1 = Machine("arm64", ("linux/arm64",), ("linux/arm/v7",), kin=True, answer="ok", builds=0, most=None, only=())
asked_platforms = st.lists(st.sampled_from(SPELLINGS), min_size=1, max_size=5)


@settings(max_examples=150)
@given(st.lists(machines(), min_size=1, max_size=5), asked_platforms)
@example([AMD_1], ["linux/arm64"])
@example([AMD_1, ARM_1], ["linux/arm/v7", "linux/amd64"])
@example([AMD_1, ARM_1], ["linux/arm64/v8", "linux/amd64/v1"])
def test_a_build_goes_to_nodes_that_run_it_themselves_or_nowhere(machines: list[Machine], asked: list[str]) -> None:
    nodes, wanted = named(machines), {normal(platform) for platform in asked}
    sent = dispatched(nodes, asked)
    if sent is None:
        assert not all(any(platform in m.truly and not m.full for m in nodes.values()) for platform in wanted)
        return
    assert sorted(platform for _, platform in sent) == sorted(wanted)
    for name, platform in sent:
        assert platform in nodes[name].truly
        assert not nodes[name].full


@settings(max_examples=150)
@given(st.lists(machines(), min_size=1, max_size=5), asked_platforms)
@example([AMD_1], ["linux/arm64"])
@example([AMD_1, ARM_1], ["linux/arm64", "linux/arm/v7"])
def test_where_it_is_allowed_only_what_nobody_runs_is_emulated(machines: list[Machine], asked: list[str]) -> None:
    nodes = named(machines)
    for name, platform in dispatched(nodes, asked, "--allow-emulation") or ():
        if any(platform in machine.truly for machine in nodes.values()):
            assert platform in nodes[name].truly
        else:
            assert platform in nodes[name].emulated
        assert (nodes[name].answer, nodes[name].full) == ("ok", False)


def named(machines: list[Machine]) -> dict[str, Machine]:
    return {f"node-{at}": machine for at, machine in enumerate(machines)}


def dispatched(nodes: Mapping[str, Machine], asked: list[str], *options: str) -> list[tuple[str, str]] | None:
    """Where buildx builds what in the end, having been left no choice; None: it was refused, and nothing was sent."""
    builder = FakeBuilder()
    with tempfile.TemporaryDirectory() as folder:
        dispatcher = Dispatcher(
            spec=fleet(*(host(name, *machine.only) for name, machine in nodes.items())),
            prober=Says(nodes),
            builder=builder,
            driver_options=OPTIONS,
            owners={},
            reservations=Reservations(Path(folder)),
            narrate=lambda _: None,
        )
        arguments = parse(["--no-queue", *options, "--platform", ",".join(asked), "."])
        try:
            dispatcher.build(arguments, "project")
        except RoutingError:
            assert all(ran[0] != "build" for ran in builder.ran)
            return None
    return [sent for ran in builder.ran if ran[0] == "build" for sent in _built(builder, ran, nodes)]


def _built(builder: FakeBuilder, ran: tuple[str, ...], nodes: Mapping[str, Machine]) -> list[tuple[str, str]]:
    """One run of buildx: each platform once, as it compares them."""
    defined = builder.read(ran[ran.index("--builder") + 1]).nodes
    requested = list(dict.fromkeys(map(normal, ran[ran.index("--platform") + 1].split(","))))
    found = resolve([Node(n.name, tuple(map(str, n.platforms)), nodes[n.name].reported) for n in defined], requested)
    assert found.pinned_only
    assert found.contacted == {node.name for node in defined}
    return [(name, platform) for name, listed in found.nodes.items() for platform in listed]


@given(st.lists(machines(), min_size=1, max_size=5), st.data())
def test_plain_buildx_finds_all_that_the_fleet_runs_where_it_is_native(
    given_nodes: list[Machine], data: st.DataObject
) -> None:
    nodes = {f"node-{at}": machine for at, machine in enumerate(given_nodes)}
    pinned = owners({name: platforms(*sorted(m.truly)) for name, m in nodes.items()}, {})
    registered = [
        Node(one.name, tuple(map(str, one.platforms)), nodes[one.name].reported)
        for one in (BuilderNode(name, "", found, {}) for name, found in pinned.items())
    ]
    runs = sorted({platform for machine in nodes.values() for platform in machine.truly})
    if not runs:
        return
    asked = data.draw(st.lists(st.sampled_from(runs), min_size=1, unique=True))
    found = resolve(registered, asked)
    assert found.pinned_only
    for name, listed in found.nodes.items():
        assert set(listed) <= set(nodes[name].truly)


@given(st.sampled_from(SPELLINGS))
def test_fleet_and_buildx_compare_platforms_alike(text: str) -> None:
    assert str(Platform.parse(text)) == normal(text)
