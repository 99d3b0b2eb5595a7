"""The table of certificates: how each is, where it is in use, and what is said of it in time."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from fleet import notes
from fleet.certificates import Entry, Role, State, entries, node_problem, problems
from fleet.model.facts import ApiFacts, CertificateFacts, Down, Facts, NodeFacts, Stage
from fleet.model.spec import Connection, FleetSpec, Joined, KeyPair, TlsSpec
from fleet.model.vault import Asked, ClientFacts, Rotation
from tests.support.values import CA, NOW, OTHER_CA, api, certificate, daemon, facts, fleet, found, host, running, vault

SPEC = fleet(host("amd-1"), host("arm-1"))
DAY, HOUR = timedelta(days=1), timedelta(hours=1)
DEAD = Down(Stage.TCP, "refused the connection")


def world(*, keys: Any = None, **nodes: NodeFacts) -> Facts:
    found = {"amd-1": running(SPEC, "amd-1"), "arm-1": running(SPEC, "arm-1", "aarch64")}
    return facts(found | {name.replace("_", "-"): node for name, node in nodes.items()}, keys=keys)


def lasting(before: timedelta, after: timedelta, serial: str = "c0ffee") -> CertificateFacts:
    """One that was issued so long ago, and ends so far from now."""
    return CertificateFacts(serial, NOW + after, (), NOW - before, "somebody")


def client(name: str, serial: str, *, issued: timedelta = DAY, left: timedelta = 90 * DAY, **more: Any) -> ClientFacts:
    given: dict[str, Any] = {"authority": CA, "asked": Asked(issued + left, NOW + left)}
    return ClientFacts(name, lasting(issued, left, serial), **(given | more))


def listed(role: Role, found: Facts, *clients: ClientFacts, spec: FleetSpec = SPEC) -> dict[str, Entry]:
    return {
        entry.certificate.serial if entry.certificate and role is Role.CLIENT else entry.name: entry
        for entry in entries(spec, found, clients, NOW)
        if entry.role is role
    }


# ------------------------------------------------------------------------------------------------- states


@pytest.mark.parametrize(
    ("before", "after", "state"),
    [
        pytest.param(DAY, 364 * DAY, State.VALID, id="new"),
        pytest.param(334 * DAY, 31 * DAY, State.VALID, id="a day before the warning"),
        pytest.param(335 * DAY, 30 * DAY, State.RENEW, id="30 days"),
        pytest.param(365 * DAY, timedelta(), State.EXPIRED, id="its last moment"),
        pytest.param(366 * DAY, -DAY, State.EXPIRED, id="a day ago"),
        pytest.param(-4 * DAY, 369 * DAY, State.FUTURE, id="from the future"),
        pytest.param(-timedelta(minutes=5), 365 * DAY, State.VALID, id="from a clock that is 5 minutes fast"),
        pytest.param(HOUR, 7 * HOUR, State.VALID, id="8 hours, new"),
        pytest.param(5 * HOUR, 3 * HOUR, State.VALID, id="8 hours, more than a third left"),
        pytest.param(6 * HOUR, 2 * HOUR, State.RENEW, id="8 hours, a quarter left"),
        pytest.param(59 * DAY, 31 * DAY, State.VALID, id="90 days, 31 left"),
    ],
)
def test_the_state_of_a_certificate(before: timedelta, after: timedelta, state: State) -> None:
    node = running(SPEC, "amd-1")
    assert isinstance(node.api, ApiFacts)
    served = lasting(before, after)
    entry = listed(Role.NODE, world(amd_1=replace(node, api=replace(node.api, certificate=served))))["amd-1"]
    assert (entry.state, entry.certificate) == (state, served)
    assert entry.days_left == after // DAY
    ending = node_problem(SPEC, SPEC.host("amd-1"), served, NOW)
    assert (ending is None) is (state in {State.VALID, State.FUTURE})
    assert bool(problems(SPEC, vault(client=served), NOW)) is (state in {State.RENEW, State.EXPIRED})


# ------------------------------------------------------------------------------------------------- nodes

STORED, OTHER = certificate(serial="c0ffee"), certificate(serial="0ddba11")


@pytest.mark.parametrize(
    ("node", "serial", "in_use"),
    [
        pytest.param(running(SPEC, "amd-1"), "c0ffee", "served at amd-1.example:1234", id="at work"),
        pytest.param(
            NodeFacts(found("x86_64", daemon(SPEC, "amd-1", certificate=STORED)), api(certificate=OTHER)),
            "0ddba11",
            "served at amd-1.example:1234, though its container was made with c0ffee",
            id="another one than was put there",
        ),
        pytest.param(NodeFacts(None, api()), "c0ffee", "served at amd-1.example:1234", id="no way to its host"),
        pytest.param(
            NodeFacts(found("x86_64", daemon(SPEC, "amd-1", certificate=STORED)), api(certificate=None)),
            "c0ffee",
            "in its container",
            id="it did not show it",
        ),
        pytest.param(
            NodeFacts(found("x86_64", daemon(SPEC, "amd-1", certificate=STORED)), DEAD),
            "c0ffee",
            "in its container, which is silent (TCP: refused the connection)",
            id="silent",
        ),
        pytest.param(NodeFacts(found(), DEAD), None, "silent (TCP: refused the connection)", id="no daemon"),
        pytest.param(NodeFacts(), None, "not heard", id="nothing known"),
    ],
)
def test_where_a_nodes_certificate_is_in_use(node: NodeFacts, serial: str | None, in_use: str) -> None:
    entry = listed(Role.NODE, world(amd_1=node))["amd-1"]
    assert (entry.certificate.serial if entry.certificate else None, entry.in_use) == (serial, in_use)
    assert (entry.state is State.MISSING) is (serial is None)


# ------------------------------------------------------------------------------------------------- clients


def knowing(**joined: str) -> Facts:
    """amd-1 has seen these clients join with these certificates."""
    noted = {notes.client_key(name): serial for name, serial in joined.items()}
    return world(amd_1=NodeFacts(found("x86_64", daemon(SPEC, "amd-1")), api(notes=noted)))


@pytest.mark.parametrize(
    ("clients", "seen", "expected"),
    [
        pytest.param([client("ci", "1")], {}, {"1": ("valid", "no node has seen it join")}, id="handed out"),
        pytest.param([client("ci", "1")], {"ci": "1"}, {"1": ("valid", "joined, known to amd-1")}, id="joined"),
        pytest.param([client("ci", "1")], {"eve": "1"}, {"1": ("valid", "no node has seen it join")}, id="another"),
        pytest.param(
            [client("ci", "1", issued=9 * DAY), client("ci", "2")],
            {"ci": "2"},
            {"1": ("valid", "replaced by 2"), "2": ("valid", "joined, known to amd-1")},
            id="replaced",
        ),
        pytest.param(
            [client("ci", "1", issued=9 * DAY), client("ci", "2")],
            {"ci": "1"},
            {"1": ("valid", "joined, known to amd-1"), "2": ("valid", "no node has seen it join")},
            id="not yet replaced",
        ),
        pytest.param(
            [client("ci", "1", left=-29 * DAY), client("ci", "2", left=-31 * DAY)],
            {},
            {"1": ("expired", "no node has seen it join")},
            id="forgotten after a month",
        ),
        pytest.param(
            [client("ci", "1", revoked=True)],
            {"ci": "1"},
            {"1": ("revoked", "still let in: fleet certs revoke goes on")},
            id="revoked, and still trusted",
        ),
        pytest.param(
            [client("ci", "1", revoked=True, authority=OTHER_CA)],
            {"ci": "1"},
            {"1": ("revoked", "no node lets it in any more")},
            id="revoked",
        ),
        pytest.param(
            [client("ci", "1", revoked=True, left=-DAY)],
            {},
            {"1": ("revoked", "no node lets it in any more")},
            id="revoked, and expired since",
        ),
    ],
)
def test_where_a_clients_certificate_is_in_use(
    clients: list[ClientFacts], seen: dict[str, str], expected: dict[str, tuple[str, str]]
) -> None:
    found = listed(Role.CLIENT, knowing(**seen), *clients)
    assert found.pop("c0ffee").in_use == "this machine"
    assert {serial: (entry.state, entry.in_use) for serial, entry in found.items()} == expected
    assert not any(entry.needed for entry in found.values())


def test_only_what_the_fleet_needs_is_needed() -> None:
    shown = entries(SPEC, knowing(), [client("ci", "1")], NOW)
    assert {entry.name for entry in shown if not entry.needed} == {"ci"}
    assert [entry.name for entry in shown] == ["acme", "amd-1", "arm-1", "operator", "ci"]


def test_where_a_bundle_was_joined_it_is_this_machine() -> None:
    spec = replace(SPEC, joined=Joined("ci", NOW + DAY))
    keys = replace(vault(client=certificate(subject="ci")), authority=None)
    assert [entry.name for entry in entries(spec, world(keys=keys), (), NOW)] == ["amd-1", "arm-1", "ci"]


# ------------------------------------------------------------------------------------------------- CAs

COMING = certificate(3650, subject="acme CA 2")


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        pytest.param({}, {"acme": "issues"}, id="one"),
        pytest.param({"sealed": True}, {"acme": "issues, its key is sealed"}, id="sealed"),
        pytest.param({"external": True}, {"acme": "issues, from the files of tls.ca"}, id="the inventory's"),
        pytest.param(
            {"external": True, "can_sign": False}, {"acme": "is trusted, its key is elsewhere"}, id="without a key"
        ),
        pytest.param(
            {"coming": COMING, "rotation": Rotation.OVERLAP},
            {"acme": "issues", "acme CA 2": "takes over: fleet certs rotate ca goes on"},
            id="one that is coming",
        ),
        pytest.param({"authority": None}, {}, id="none yet"),
    ],
)
def test_authorities(changed: dict[str, Any], expected: dict[str, str]) -> None:
    found = listed(Role.CA, world(keys=replace(vault(), **changed)))
    assert {name: entry.in_use for name, entry in found.items()} == expected


@pytest.mark.parametrize(("left", "state"), [(91, State.VALID), (90, State.RENEW), (0, State.EXPIRED)])
def test_a_ca_is_warned_of_early(left: int, state: State) -> None:
    keys = replace(vault(), authority=certificate(left))
    assert listed(Role.CA, world(keys=keys))["acme"].state is state
    assert bool(problems(SPEC, keys, NOW)) is (state is not State.VALID)


# ------------------------------------------------------------------------------------------------- problems

PAIR = KeyPair("/me.pem", "/me.key")


@pytest.mark.parametrize(
    ("spec", "changed", "reason", "remedy"),
    [
        pytest.param(SPEC, {"client": certificate(9)}, "machine's certificate expires in 9 days", "fleet up", id="own"),
        pytest.param(
            SPEC, {"client": certificate(-1)}, "machine's certificate expired on 2030-04-30", "fleet up", id="expired"
        ),
        pytest.param(SPEC, {"client": certificate(1)}, "expires on 2030-05-02 12:00 UTC", "fleet up", id="tomorrow"),
        pytest.param(
            replace(SPEC, joined=Joined("ci", NOW)), {"client": certificate(9)}, "in 9 days", "new bundle", id="joined"
        ),
        pytest.param(
            replace(SPEC, tls=TlsSpec(PAIR, client=PAIR)),
            {"client": certificate(9), "external": True},
            "in 9 days",
            "replace /me.pem",
            id="brought",
        ),
        pytest.param(
            replace(SPEC, tls=TlsSpec(renew_days=100)),
            {"client": certificate(100)},
            "in 100 days",
            "fleet up",
            id="a setting",
        ),
        pytest.param(SPEC, {"authority": certificate(80)}, "CA expires in 80", "fleet certs rotate ca", id="CA"),
        pytest.param(
            SPEC,
            {"authority": certificate(80), "external": True},
            "CA expires in 80",
            "have tls.ca renewed",
            id="their CA",
        ),
        pytest.param(
            SPEC,
            {"rotation": Rotation.OVERLAP},
            "exchange of the CA is not finished",
            "fleet certs rotate ca",
            id="half",
        ),
    ],
)
def test_problems(spec: FleetSpec, changed: dict[str, Any], reason: str, remedy: str) -> None:
    [problem] = problems(spec, replace(vault(), **changed), NOW)
    assert reason in problem.reason
    assert remedy in (problem.remedy or "")


def test_a_nodes_certificate_that_was_brought_is_its_bringers_to_replace() -> None:
    brought = replace(host("amd-1"), tls=PAIR)
    problem = node_problem(SPEC, brought, certificate(9), NOW)
    assert problem
    assert problem.remedy == "replace /me.pem, then fleet up"
    assert brought.connection is Connection.SSH
