"""What a bundle makes known: nodes handed out, kept as JSON, and what must not take the place of it."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.errors import UsageError
from fleet.fleet_health import snapshot
from fleet.membership import Membership, able, dump, handed_out, parse, refuse_bundle
from fleet.model.facts import Down, NodeFacts, Stage
from fleet.model.health import Health
from fleet.model.platforms import Platform
from fleet.model.spec import Connection, GatewaySpec, HostSpec, Joined, KeyPair
from fleet.notes import DRAIN, Drain
from tests.support.values import NOW, api, builder, facts, fleet, host, node, platforms

SILENT = Down(Stage.TCP, "no answer", "is the host up?")
SPEC = fleet(host("amd-1", address="10.0.0.1"), host("amd-2", address="10.0.0.2"), host("arm-1", address="::1"))


def member(name: str, *wanted: str) -> HostSpec:
    return replace(host(name, *wanted), connection=Connection.NONE)


KEPT = Membership("acme", Joined("ci", NOW), (member("amd-1", "linux/amd64", "linux/386"), member("b")), "c0ffee", NOW)

# ---------------------------------------------------------------------------------------------- handing out


def test_a_bundle_tells_of_every_node_what_is_native_there_now() -> None:
    registered = builder(node("arm-1", "linux/arm64"))
    nodes = handed_out(SPEC, {"amd-1": api("x86_64", "linux/amd64", "linux/arm64"), "arm-1": SILENT}, registered)
    assert [(one.name, one.address, one.port, one.platforms) for one in nodes] == [
        ("amd-1", "10.0.0.1", 1234, ("linux/amd64",)),
        ("amd-2", "10.0.0.2", 1234, ()),
        ("arm-1", "::1", 1234, ("linux/arm64",)),
    ]
    assert [one.names for one in nodes] == [
        ("10.0.0.1", "amd-1", "amd64.acme.fleet.internal"),
        ("10.0.0.2", "amd-2"),
        ("::1", "arm-1", "arm64.acme.fleet.internal"),
    ]


def test_of_a_silent_node_the_inventory_knows_more_than_the_builder() -> None:
    spec = fleet(host("arm-1", "linux/arm64"))
    (told,) = handed_out(spec, {}, builder(node("arm-1", "linux/arm64", "linux/arm/v7")))
    assert told.platforms == ("linux/arm64",)


def test_a_certificate_of_its_own_is_good_for_the_nodes_address() -> None:
    spec = fleet(replace(host("amd-1"), tls=KeyPair("/amd-1.pem", "/amd-1.key")))
    (told,) = handed_out(spec, {"amd-1": api()}, builder())
    assert told.names == ("amd-1.example",)


# ------------------------------------------------------------------------------------------- kept as JSON

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)

NAMES = st.from_regex(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?", fullmatch=True)
MOMENTS = st.datetimes(min_value=datetime(2000, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - the zone is beside it
HOSTS = st.builds(
    HostSpec,
    NAMES,
    st.text(min_size=1),
    st.integers(1, 65535),
    st.just(Connection.NONE),
    platforms=st.lists(st.sampled_from(platforms("linux/amd64", "linux/amd64/v3", "linux/arm64", "linux/arm/v6"))).map(
        tuple
    ),
)
MEMBERSHIPS = st.builds(
    Membership,
    NAMES,
    st.builds(Joined, NAMES, MOMENTS),
    st.lists(HOSTS, max_size=3).map(tuple),
    st.text("0123456789abcdef", min_size=1),
    MOMENTS,
)
GATEWAY = GatewaySpec(("b",), "", {"amd64": 1250, "arm64": 1251})


@given(MEMBERSHIPS)
def test_what_is_kept_is_read_again(kept: Membership) -> None:
    assert parse(dump(kept)) == kept


def test_a_gateway_is_part_of_it_and_what_was_kept_before_has_none() -> None:
    kept = replace(KEPT, gateway=GATEWAY)
    assert parse(dump(kept)) == kept
    assert kept.spec.gateway == GATEWAY
    older = {key: value for key, value in json.loads(dump(KEPT)).items() if key != "gateway"}
    assert parse(json.dumps(older)) == KEPT


@given(st.sampled_from(["hosts", "ports"]), JSON)
def test_a_gateway_is_looked_at_as_closely(key: str, value: object) -> None:
    tree = json.loads(dump(replace(KEPT, gateway=GATEWAY)))
    tree["gateway"][key] = value
    try:
        found = parse(json.dumps(tree))
    except ValueError:
        return
    assert parse(dump(found)) == found


@given(MEMBERSHIPS, st.data())
def test_what_is_torn_is_refused(kept: Membership, data: st.DataObject) -> None:
    text = dump(kept).rstrip()
    with pytest.raises(ValueError, match=r"\S"):
        parse(text[: data.draw(st.integers(0, len(text) - 1))])


@given(st.sampled_from(["fleet", "client", "serial", "issued", "expires", "nodes", "gateway"]), JSON)
def test_what_join_would_not_write_is_refused_or_sound(key: str, value: object) -> None:
    text = json.dumps(json.loads(dump(KEPT)) | {key: value})
    try:
        found = parse(text)
    except ValueError:
        return
    assert parse(dump(found)) == found


@pytest.mark.parametrize("key", ["name", "address", "port", "platforms"])
@given(value=JSON)
def test_nodes_are_looked_at_as_closely(key: str, value: object) -> None:
    tree = json.loads(dump(KEPT))
    tree["nodes"][0][key] = value
    try:
        found = parse(json.dumps(tree))
    except ValueError:
        return
    assert parse(dump(found)) == found


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("fleet",), "../acme"),
        (("client",), "a/b"),
        (("expires",), "2030-05-01T12:00:00"),
        (("nodes", 0, "name"), "--driver"),
        (("nodes", 0, "port"), True),
        (("nodes", 0, "port"), 65536),
        (("nodes", 0, "port"), "1234"),
        (("nodes", 0, "platforms"), "linux/amd64"),
        (("nodes", 0, "platforms"), ["windows/amd64"]),
        (("gateway",), {"hosts": ["c"], "ports": {"amd64": 1250}}),
        (("gateway",), {"hosts": [], "ports": {"amd64": 1250}}),
        (("gateway",), {"hosts": ["b"], "ports": {}}),
        (("gateway",), {"hosts": ["b"], "ports": {"../x": 1250}}),
        (("gateway",), {"hosts": ["b"], "ports": {"amd64": True}}),
    ],
)
def test_what_could_lead_astray_is_refused(place: tuple[str | int, ...], value: object) -> None:
    tree = json.loads(dump(KEPT))
    inner = tree
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = value
    with pytest.raises(ValueError, match=r"\S"):
        parse(json.dumps(tree))


@pytest.mark.parametrize("text", ["", "null", "[]", "{}", "[" * 100_000, "1", '"fleet"', "\x00"])
def test_what_is_no_membership_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        parse(text)


# ------------------------------------------------------------------------------------- one after the other

OLDER, NEWER = (replace(KEPT, issued=NOW + timedelta(days=days)) for days in (-1, 1))

REPLACED: dict[str, tuple[Membership | None, set[str], bool]] = {
    "nothing was there": (None, set(), False),
    "an older one was": (OLDER, {"aa"}, False),
    "the same one was": (KEPT, {"aa"}, False),
    "a newer one was, and it is forced": (NEWER, {"aa"}, True),
    "a rotation is on its way": (OLDER, {"aa", "bb"}, False),
    "what was there is torn": (None, {"aa"}, False),
}


@pytest.mark.parametrize(("stored", "trusted", "force"), REPLACED.values(), ids=REPLACED)
def test_a_bundle_takes_the_place_of(stored: Membership | None, trusted: set[str], force: bool) -> None:
    refuse_bundle(KEPT, {"aa"}, stored, trusted, force=force)


@pytest.mark.parametrize(
    ("stored", "trusted", "force", "refusal"),
    [
        (NEWER, {"aa"}, False, "the bundle is of 2030-05-01 12:00, and .* of 2030-05-02 12:00"),
        (OLDER, {"bb"}, False, "it is another fleet, or its CA was exchanged"),
        (OLDER, {"bb"}, True, "it is another fleet, or its CA was exchanged"),
        (None, {"bb"}, False, "it is another fleet, or its CA was exchanged"),
    ],
)
def test_a_bundle_is_refused(stored: Membership | None, trusted: set[str], force: bool, refusal: str) -> None:
    with pytest.raises(UsageError, match=refusal) as caught:
        refuse_bundle(KEPT, {"aa"}, stored, trusted, force=force)
    assert caught.value.remedy


# --------------------------------------------------------------------------------------------- registering

AMD, ARM = Platform("linux", "amd64"), Platform("linux", "arm64")
THREE = replace(KEPT, hosts=(member("amd-1", "linux/amd64"), member("amd-2", "linux/amd64"), member("arm-1"))).spec
DRAINED = api("x86_64", "linux/amd64", notes={DRAIN: Drain("ann", NOW).text()})

ABLE = {
    "all answer": (
        {"amd-1": api("x86_64", "linux/amd64"), "amd-2": api("x86_64", "linux/amd64"), "arm-1": api("aarch64")},
        {"amd-1": (AMD,), "amd-2": (AMD,), "arm-1": platforms("linux/arm64", "linux/arm/v7", "linux/arm/v6")},
    ),
    "a silent one whose work another does": (
        {"amd-1": SILENT, "amd-2": api("x86_64", "linux/amd64")},
        {"amd-2": (AMD,)},
    ),
    "silent ones alone": ({"amd-1": SILENT, "amd-2": SILENT}, {"amd-1": (AMD,), "amd-2": (AMD,)}),
    "a drained one beside a silent one": ({"amd-1": DRAINED, "amd-2": SILENT}, {"amd-2": (AMD,)}),
    "one that runs nothing natively": ({"amd-1": api("x86_64", arch="arm64")}, {"amd-1": (), "amd-2": (AMD,)}),
}


@pytest.mark.parametrize(("answers", "expected"), ABLE.values(), ids=ABLE)
def test_what_each_node_is_counted_on_for(answers: dict[str, object], expected: dict[str, object]) -> None:
    assert able(THREE, answers) == expected  # type: ignore[arg-type]  # a table of answers


# -------------------------------------------------------------------------------------------------- health


def test_on_a_machine_that_has_joined_the_daemons_word_counts() -> None:
    spec = replace(KEPT, hosts=(member("a"), member("b"), member("c"), member("d", "linux/riscv64"))).spec
    refused = Down(Stage.TLS, "refused", "is this the vault that made the daemon (FLEET_HOME)?")
    late = Down(Stage.API, "slow", "docker logs", late=True)
    seen = facts(
        {"a": NodeFacts(api=api()), "b": NodeFacts(api=refused), "c": NodeFacts(api=late), "d": NodeFacts(api=api())}
    )
    taken = snapshot(spec, seen, NOW)
    assert taken.joined == KEPT.joined
    assert [one.health for one in taken.nodes] == [Health.READY, Health.DOWN, Health.UNKNOWN, Health.DEGRADED]
    assert (
        taken.nodes[3].reason
        == "not native: it does not run linux/riscv64 itself any more, as it did when the bundle was made"
    )
    remedies = [one.remedy for one in taken.nodes if one.reason]
    assert all(remedy and "operator" in remedy and "docker" not in remedy for remedy in remedies)
