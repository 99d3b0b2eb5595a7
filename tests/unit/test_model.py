"""Platforms in the one spelling that compares equal, names, endpoints."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.model.facts import BuilderFacts, HostFacts
from fleet.model.health import Health
from fleet.model.platforms import ARCHITECTURES, Platform, machine_arch, runs_natively
from fleet.model.spec import NAME, FleetSpec, HostSpec, object_name
from tests.support.values import fleet, found, host

SPELLINGS = {
    "linux/amd64": "linux/amd64",
    "amd64": "linux/amd64",
    "x86_64": "linux/amd64",
    "linux/x86_64": "linux/amd64",
    "linux/amd64/v1": "linux/amd64",
    "linux/amd64/v3": "linux/amd64/v3",
    "LINUX/AMD64": "linux/amd64",
    " linux/amd64 ": "linux/amd64",
    "linux/arm64": "linux/arm64",
    "arm64": "linux/arm64",
    "aarch64": "linux/arm64",
    "linux/arm64/v8": "linux/arm64",
    "linux/arm64/v9": "linux/arm64/v9",
    "linux/arm": "linux/arm/v7",
    "arm": "linux/arm/v7",
    "linux/arm/v7": "linux/arm/v7",
    "linux/arm/v6": "linux/arm/v6",
    "linux/arm/v5": "linux/arm/v5",
    "armv7l": "linux/arm/v7",
    "386": "linux/386",
    "i686": "linux/386",
    "linux/riscv64": "linux/riscv64",
    "ppc64le": "linux/ppc64le",
    "linux/s390x": "linux/s390x",
    "loongarch64": "linux/loong64",
}


@pytest.mark.parametrize(("text", "shown"), SPELLINGS.items(), ids=SPELLINGS)
def test_a_platform_has_one_spelling(text: str, shown: str) -> None:
    assert str(Platform.parse(text)) == shown


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "is not a platform"),
        ("/", "is not a platform"),
        ("linux/", "is not a platform"),
        ("/amd64", "is not a platform"),
        ("linux//v7", "is not a platform"),
        ("linux/arm/v7/x", "is not a platform"),
        ("windows/amd64", "linux only"),
        ("darwin/arm64", "linux only"),
        ("linux/vax", "unknown architecture 'vax'"),
        ("linux", "unknown architecture 'linux'"),
        ("linux/arm/v9", "arm has no variant 'v9'"),
        ("linux/amd64/v8", "amd64 has no variant 'v8'"),
        ("linux/arm64/8", "arm64 has no variant '8'"),
        ("linux/386/sse2", "386 has no variant 'sse2'"),
        ("linux/riscv64/v1", "riscv64 has no variant 'v1'"),
    ],
)
def test_what_no_daemon_builds_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Platform.parse(text)


VARIANTS = {"amd64": ("", "v1", "v2", "v3", "v4"), "arm64": ("", "v8", "v9"), "arm": ("", "v5", "v6", "v7", "v8")}
known_platforms = st.sampled_from(sorted(ARCHITECTURES)).flatmap(
    lambda arch: st.builds(Platform, st.just("linux"), st.just(arch), st.sampled_from(VARIANTS.get(arch, ("",))))
)


@given(known_platforms)
def test_a_platform_is_parsed_back_from_how_it_shows(platform: Platform) -> None:
    normal = platform.normalised()
    assert Platform.parse(str(normal)) == normal
    assert Platform.parse(str(platform)) == normal
    assert normal.normalised() == normal


@given(st.text(max_size=20))
def test_any_text_is_a_platform_or_a_value_error(text: str) -> None:
    try:
        parsed = Platform.parse(text)
    except ValueError:
        return
    assert Platform.parse(str(parsed)) == parsed


@pytest.mark.parametrize(
    ("machine", "arch"),
    [
        ("x86_64", "amd64"),
        ("aarch64", "arm64"),
        ("arm64", "arm64"),
        ("armv7l", "arm"),
        ("armv6l", "arm"),
        ("i686", "386"),
        ("riscv64", "riscv64"),
        ("ppc64le", "ppc64le"),
        ("s390x", "s390x"),
        ("loongarch64", "loong64"),
        ("alpha", "alpha"),
    ],
)
def test_what_uname_says_is_an_architecture(machine: str, arch: str) -> None:
    assert machine_arch(machine) == arch
    assert found(machine).arch == arch


@pytest.mark.parametrize(
    ("arch", "platform", "native"),
    [
        ("amd64", "linux/amd64/v3", True),
        ("amd64", "linux/386", True),
        ("amd64", "linux/arm64", False),
        ("arm64", "linux/arm64", True),
        ("arm64", "linux/arm/v7", True),
        ("arm64", "linux/amd64", False),
        ("arm", "linux/arm/v6", True),
        ("arm", "linux/arm64", False),
        ("386", "linux/amd64", False),
        ("riscv64", "linux/riscv64", True),
        ("alpha", "linux/amd64", False),
    ],
)
def test_a_cpu_runs_its_family(arch: str, platform: str, native: bool) -> None:
    assert runs_natively(arch, Platform.parse(platform)) is native


@pytest.mark.parametrize(
    ("address", "endpoint"),
    [
        ("10.0.0.11", "10.0.0.11:1235"),
        ("amd-1.example", "amd-1.example:1235"),
        ("2001:db8::1", "[2001:db8::1]:1235"),
    ],
)
def test_an_endpoint_is_address_and_port(address: str, endpoint: str) -> None:
    assert HostSpec("a", address, 1235).endpoint == endpoint


@pytest.mark.parametrize("name", ["a", "amd-1", "a1", "a-b-c", "a" * 40])
def test_names(name: str) -> None:
    assert NAME.fullmatch(name)


@pytest.mark.parametrize("name", ["", "1a", "-a", "a-", "A", "a_b", "a.b", "ä", "a" * 41, "a b", "a\n"])
def test_names_that_are_refused(name: str) -> None:
    assert not NAME.fullmatch(name)


@given(*[st.from_regex(re.compile(NAME.pattern, re.ASCII), fullmatch=True)] * 4)
def test_two_nodes_never_share_a_container(fleet_1: str, node_1: str, fleet_2: str, node_2: str) -> None:
    same = (fleet_1, node_1) == (fleet_2, node_2)
    assert (object_name(fleet_1, node_1) == object_name(fleet_2, node_2)) is same


def test_a_fleet_finds_its_hosts() -> None:
    spec: FleetSpec = fleet(host("a"), host("b"))
    assert spec.host("b").name == "b"
    with pytest.raises(KeyError):
        spec.host("c")


def test_a_builder_is_registered_once_it_has_a_driver() -> None:
    assert not BuilderFacts().registered
    assert BuilderFacts(driver="remote").registered


def test_a_node_that_was_drained_has_nothing_to_be_mended() -> None:
    assert {health for health in Health if health.usable} == {Health.READY, Health.DEGRADED, Health.DRAINED}


def test_facts_do_not_change() -> None:
    facts: HostFacts = found()
    with pytest.raises(AttributeError):
        facts.machine = "aarch64"  # type: ignore[misc]  # that is the test
