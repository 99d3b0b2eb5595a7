"""Which node builds which platform: native ones only, one owner each, the owner kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.health import node_health
from fleet.model.facts import Down, NodeFacts, Stage
from fleet.model.platforms import Platform
from fleet.route import Refusal, default_platform, native_platforms, owners, refusals, why_not
from tests.support.values import api, fleet, found, host, platforms

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fleet.model.facts import ApiFacts, HostFacts
    from fleet.model.health import NodeHealth
    from fleet.model.spec import HostSpec

ALL_OF_AMD = ("linux/amd64", "linux/amd64/v2", "linux/amd64/v3", "linux/386")
WITH_QEMU = ("linux/amd64", "linux/amd64/v2", "linux/arm64", "linux/riscv64", "linux/386", "linux/arm/v7")

NATIVE: dict[str, tuple[HostSpec, ApiFacts, HostFacts | None, tuple[str, ...]]] = {
    "an amd64 host": (host("a"), api(), found(), ALL_OF_AMD),
    "an arm64 host": (
        host("a"),
        api("aarch64"),
        found("aarch64"),
        ("linux/arm64", "linux/arm/v7", "linux/arm/v6"),
    ),
    "a host that was not asked": (host("a"), api(), None, ALL_OF_AMD),
    "a worker that could emulate": (
        host("a"),
        api("x86_64", *WITH_QEMU),
        found(),
        ("linux/amd64", "linux/amd64/v2", "linux/386"),
    ),
    "a worker that could emulate, its host not asked": (
        host("a"),
        api("x86_64", *WITH_QEMU),
        None,
        ("linux/amd64", "linux/amd64/v2", "linux/386"),
    ),
    "32-bit arm emulated on arm64": (
        host("a"),
        api("aarch64", "linux/arm64", "linux/arm/v7"),
        found("aarch64", emulated=("arm",)),
        ("linux/arm64",),
    ),
    "other architectures emulated": (host("a"), api(), found(emulated=("arm64", "s390x")), ALL_OF_AMD),
    "a daemon of another architecture": (host("a"), api("aarch64"), found("x86_64"), ()),
    "a wish for one": (host("a", "linux/amd64"), api(), found(), ("linux/amd64",)),
    "a wish in another order": (host("a", "linux/386", "linux/amd64"), api(), found(), ("linux/amd64", "linux/386")),
    "a wish for what it emulates": (host("a", "linux/arm64"), api("x86_64", *WITH_QEMU), found(), ()),
    "a worker that says a platform twice": (
        host("a"),
        api("x86_64", "linux/amd64", "linux/amd64/v1", "linux/386"),
        found(),
        ("linux/amd64", "linux/386"),
    ),
    "a worker that says nothing": (host("a"), api(platforms=()), found(), ()),
    "an architecture nobody knows": (
        host("a"),
        api(platforms=(Platform("linux", "alpha"),)),
        found("alpha"),
        ("linux/alpha",),
    ),
}


@pytest.mark.parametrize(("spec", "said", "machine", "expected"), NATIVE.values(), ids=NATIVE)
def test_native_platforms(spec: HostSpec, said: ApiFacts, machine: HostFacts | None, expected: tuple[str, ...]) -> None:
    assert tuple(map(str, native_platforms(spec, said, machine))) == expected


AMD, AMD2, X86, ARM, ARM7 = platforms("linux/amd64", "linux/amd64/v2", "linux/386", "linux/arm64", "linux/arm/v7")

OWNERS: dict[str, tuple[Mapping[str, tuple[Platform, ...]], Mapping[Platform, str], Mapping[str, object]]] = {
    "one of each architecture": ({"a": (AMD, X86), "b": (ARM,)}, {}, {"a": (AMD, X86), "b": (ARM,)}),
    "the first takes all": ({"a": (AMD, X86), "b": (AMD, X86)}, {}, {"a": (AMD, X86), "b": ()}),
    "the second has more": ({"a": (AMD,), "b": (AMD, AMD2)}, {}, {"a": (AMD,), "b": (AMD2,)}),
    "today's owner keeps it": ({"a": (AMD,), "b": (AMD,)}, {AMD: "b"}, {"a": (), "b": (AMD,)}),
    "today's owner is gone": ({"a": (AMD,), "b": (AMD,)}, {AMD: "c"}, {"a": (AMD,), "b": ()}),
    "today's owner no longer runs it": ({"a": (AMD,), "b": (ARM,)}, {AMD: "b"}, {"a": (AMD,), "b": (ARM,)}),
    "a new platform beside a kept one": (
        {"a": (AMD, AMD2), "b": (AMD, AMD2)},
        {AMD: "b"},
        {"a": (AMD2,), "b": (AMD,)},
    ),
    "nobody": ({}, {AMD: "a"}, {}),
}


@pytest.mark.parametrize(("native", "current", "expected"), OWNERS.values(), ids=OWNERS)
def test_owners(
    native: Mapping[str, tuple[Platform, ...]], current: Mapping[Platform, str], expected: Mapping[str, object]
) -> None:
    assert owners(native, current) == expected
    assert list(owners(native, current)) == list(native)


some_platforms = st.lists(st.sampled_from([AMD, AMD2, X86, ARM, ARM7]), unique=True).map(tuple)
natives = st.dictionaries(st.sampled_from("abcd"), some_platforms)
currents = st.dictionaries(st.sampled_from([AMD, AMD2, X86, ARM, ARM7]), st.sampled_from("abcde"))


@given(natives, currents)
def test_every_platform_has_one_owner_who_runs_it(
    native: dict[str, tuple[Platform, ...]], current: dict[Platform, str]
) -> None:
    owned = owners(native, current)
    pins = [platform for found in owned.values() for platform in found]
    assert sorted(pins) == sorted({platform for found in native.values() for platform in found})
    assert all(platform in native[name] for name, found in owned.items() for platform in found)


@given(natives, currents)
def test_owners_stay_who_they_are(native: dict[str, tuple[Platform, ...]], current: dict[Platform, str]) -> None:
    owned = owners(native, current)
    today = {platform: name for name, found in owned.items() for platform in found}
    assert owners(native, today) == owned
    kept = {p: name for p, name in current.items() if p in native.get(name, ())}
    assert {p: today[p] for p in kept} == kept


# ----------------------------------------------------------------------------------------------- refusals

SPEC = fleet(host("amd-1"), host("amd-2"), host("arm-1"))
REFUSED = Down(Stage.TCP, "arm-1.example:1234 refused the connection", "fleet up --host arm-1")


def health(name: str, answer: ApiFacts | Down, machine: HostFacts | None = None) -> NodeHealth:
    return node_health(SPEC, SPEC.host(name), NodeFacts(machine, answer), ())


READY = health("amd-1", api())
DEGRADED = health("amd-2", api(), found(emulated=("arm64",)))
DOWN = health("arm-1", REFUSED)


@pytest.mark.parametrize(
    ("platform", "node", "reason"),
    [
        pytest.param(AMD, READY, None, id="ready and native"),
        pytest.param(AMD, DEGRADED, None, id="degraded and native"),
        pytest.param(ARM, READY, "runs linux/amd64, linux/amd64/v2, linux/amd64/v3, linux/386 natively", id="foreign"),
        pytest.param(ARM, health("arm-1", api(platforms=())), "runs nothing natively", id="runs nothing"),
        pytest.param(ARM, DOWN, "down: TCP: arm-1.example:1234 refused the connection", id="down"),
    ],
)
def test_why_a_node_may_not_build(platform: Platform, node: NodeHealth, reason: str | None) -> None:
    assert why_not(platform, node) == reason


def test_a_platform_is_refused_when_no_node_may_build_it_with_every_nodes_reason() -> None:
    assert refusals([AMD, ARM], [READY, DOWN]) == (
        Refusal(
            ARM,
            {
                "amd-1": "runs linux/amd64, linux/amd64/v2, linux/amd64/v3, linux/386 natively",
                "arm-1": "down: TCP: arm-1.example:1234 refused the connection",
            },
        ),
    )


def test_nothing_is_refused_that_one_node_may_build() -> None:
    assert refusals([AMD, X86], [DOWN, DEGRADED]) == ()


@pytest.mark.parametrize(
    ("machine", "nodes", "expected"),
    [
        pytest.param("x86_64", [DOWN, READY], "linux/amd64", id="this machine's own"),
        pytest.param(
            "aarch64", [READY, health("arm-1", api("aarch64"))], "linux/arm64", id="this machine's own on a later node"
        ),
        pytest.param("aarch64", [DOWN, READY], "linux/amd64", id="the first healthy node's first"),
        pytest.param("riscv64", [DOWN], None, id="nobody answers"),
        pytest.param("x86_64", [], None, id="nobody at all"),
    ],
)
def test_a_build_without_platform_is_for(machine: str, nodes: list[NodeHealth], expected: str | None) -> None:
    chosen = default_platform(machine, nodes, {})
    assert (None if chosen is None else str(chosen)) == expected


def test_a_node_that_answers_but_runs_nothing_natively_is_no_default() -> None:
    assert default_platform("x86_64", [health("amd-1", api(platforms=()))], {}) is None


def test_a_build_without_platform_is_for_the_same_when_its_owner_is_down() -> None:
    assert default_platform("aarch64", [READY, DOWN], {ARM: "arm-1"}) == ARM
    assert default_platform("riscv64", [READY], {ARM: "arm-1", AMD: "amd-1"}) == ARM
