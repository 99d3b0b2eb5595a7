"""The inventory's `tls`: whose certificates, what does not go together, and that no passphrase is ever quoted."""

from __future__ import annotations

import json
from typing import Any, get_args

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from certs.keys import KeyType as KeyTypes
from certs.lifetimes import LEAF_LIFETIME, RENEWAL_DAYS
from fleet.errors import InventoryError
from fleet.inventory.parse import json_schema, parse
from fleet.model.spec import FleetSpec, KeyPair, KeyType, TlsSpec

HEAD = "fleet: acme\nhosts:\n  a: {address: 10.0.0.1}\n"  # three lines: what follows stands in line 4
PAIR = "{cert: c, key: k}"
SCHEMA = jsonschema.Draft202012Validator(json_schema())


def parsed(text: str) -> FleetSpec:
    return parse(text, "/etc/fleet/inventory.yaml", check_files=lambda _: True)


def refusal(text: str) -> InventoryError:
    with pytest.raises(InventoryError) as caught:
        parsed(text)
    return caught.value


# ------------------------------------------------------------------------------------------- accepted


def test_without_tls_everything_is_fleets_own() -> None:
    spec = parsed(HEAD)
    assert spec.tls == TlsSpec(None, (), None, key_type="p256", node_days=365, client_days=365, renew_days=30)
    assert spec.hosts[0].tls is None


def test_the_issuing_code_agrees() -> None:
    assert list(get_args(KeyType)) == [kind.value for kind in KeyTypes]
    assert LEAF_LIFETIME.days == TlsSpec().node_days == TlsSpec().client_days
    assert TlsSpec().renew_days == RENEWAL_DAYS


def test_certificates_of_others() -> None:
    spec = parsed(
        """
        fleet: acme
        tls:
          ca: {cert: ca.pem, key: /keys/ca.key}
          ca_passphrase_command: [pass, show, fleet/ca]
          client: {cert: ../me.pem, key: ../me.pem}
          key_type: rsa3072
          node_days: 14
          client_days: 8
          renew_days: 7
        hosts:
          a: {address: a, tls: {cert: a.pem, key: a.key}}
          mini: {connection: local, tls: {cert: a.pem, key: a.key}}
          b: {address: b}
        """
    )
    assert spec.tls == TlsSpec(
        ca=KeyPair("/etc/fleet/ca.pem", "/keys/ca.key"),
        ca_passphrase_command=("pass", "show", "fleet/ca"),
        client=KeyPair("/etc/fleet/../me.pem", "/etc/fleet/../me.pem"),
        key_type="rsa3072",
        node_days=14,
        client_days=8,
        renew_days=7,
    )
    pair = KeyPair("/etc/fleet/a.pem", "/etc/fleet/a.key")
    assert [host.tls for host in spec.hosts] == [pair, pair, None]


def test_the_ca_needs_no_key_where_all_have_certificates() -> None:
    spec = parsed(f"fleet: acme\ntls: {{ca: {{cert: /ca}}, client: {PAIR}}}\nhosts: {{a: {{address: a, tls: {PAIR}}}}}")
    assert spec.tls.ca == KeyPair("/ca", None)


# -------------------------------------------------------------------------------------------- refused

CLIENTS = "needs tls.ca, its issuer: without that, clients would not know whom to trust"
NODES = "needs tls.ca, its issuer: without that, nodes would not know whom to trust"
UNSIGNED = "has no key to sign with: give it, or what it would sign:"
RENEWING = "else every fleet up would renew; it is"
SHARED = "does not belong in a file that is shared: use tls.ca_passphrase_command, FLEET_CA_PASSPHRASE or the prompt"

REFUSED: dict[str, tuple[str, list[str]]] = {
    "unlike any key": (
        f"{HEAD}tls:\n  renewdays: 1\n  key_type: rsa\n  ca:\n    cert: c\n    kye: k",
        [
            "5:tls.renewdays: unknown key (did you mean 'renew_days'?)",
            "6:tls.key_type: must be 'p256', 'p384' or 'rsa3072', not 'rsa'",
            f"7:tls.ca: {UNSIGNED} hosts.a.tls, tls.client",
            "9:tls.ca.kye: unknown key (did you mean 'key'?)",
        ],
    ),
    "text": (
        f"{HEAD}  b: {{address: b, tls: b.pem}}\ntls: ca.pem",
        [
            "4:hosts.b.tls: must be a mapping of keys to values, not 'b.pem'",
            "5:tls: must be a mapping of keys to values, not 'ca.pem'",
        ],
    ),
    "halves": (
        f"{HEAD}  b: {{address: b, tls: {{cert: c}}}}\ntls:\n  ca: {{key: k}}\n  client: {{cert: c}}",
        [
            "4:hosts.b.tls.key: required, but missing",
            "6:tls.ca.cert: required, but missing",
            "7:tls.client.key: required, but missing",
        ],
    ),
    "hosts without their issuer": (
        f"{HEAD}  b: {{address: b, tls: {PAIR}}}\n  c: {{connection: local, tls: {PAIR}}}\ntls: {{node_days: 90}}",
        [f"4:hosts.b.tls: {CLIENTS}", f"5:hosts.c.tls: {CLIENTS}"],
    ),
    "client without its issuer": (f"{HEAD}tls: {{client: {PAIR}}}", [f"4:tls.client: {NODES}"]),
    "client without its issuer, hosts malformed": (
        f"fleet: acme\nhosts: [a]\ntls: {{client: {PAIR}}}",
        ["2:hosts: must be a mapping of keys to values, not a list", f"3:tls.client: {NODES}"],
    ),
    "nothing to sign for some hosts": (
        f"{HEAD}  b: {{address: b, tls: {PAIR}}}\n  c: {{address: c}}\ntls:\n  client: {PAIR}\n  ca: {{cert: c}}",
        [f"8:tls.ca: {UNSIGNED} hosts.a.tls, hosts.c.tls"],
    ),
    "nothing to sign for the client": (
        f"fleet: acme\nhosts:\n  a: {{address: a, tls: {PAIR}}}\ntls:\n  ca: {{cert: c}}",
        [f"5:tls.ca: {UNSIGNED} tls.client"],
    ),
    "always renewed": (
        f"{HEAD}tls:\n  client_days: 91\n  node_days: 90\n  renew_days: 90",
        [f"7:tls.renew_days: must be less than node_days (90), {RENEWING} 90"],
    ),
    "always renewed, by default": (
        f"{HEAD}tls:\n  client_days: 30",
        [f"4:tls.renew_days: must be less than client_days (30), {RENEWING} 30"],
    ),
    "days": (
        f"{HEAD}tls:\n  node_days: 0\n  client_days: 3651\n  renew_days: 366",
        [
            "5:tls.node_days: must be at least 1, not 0",
            "6:tls.client_days: must be at most 3650, not 3651",
            "7:tls.renew_days: must be at most 365, not 366",
        ],
    ),
    "a passphrase": (
        f"{HEAD}tls:\n  passphrase: hunter2\n  ca_passphrase: hunter2\n  ca: {{cert: c, key: k, passphrase: hunter2}}",
        [f"5:tls.passphrase: {SHARED}", f"6:tls.ca_passphrase: {SHARED}", f"7:tls.ca.passphrase: {SHARED}"],
    ),
    "a passphrase for the command": (
        f"{HEAD}tls: {{ca_passphrase_command: hunter2}}",
        ["4:tls.ca_passphrase_command: must be a program and its arguments as a list, such as [pass, show, fleet/ca]"],
    ),
    "no command": (f"{HEAD}tls: {{ca_passphrase_command: []}}", ["4:tls.ca_passphrase_command: must not be empty"]),
    "words of the command": (
        f"{HEAD}tls: {{ca_passphrase_command: ['', 3]}}",
        [
            "4:tls.ca_passphrase_command[0]: must not be empty",
            "4:tls.ca_passphrase_command[1]: must be text, not the number 3 (text needs quotes here)",
        ],
    ),
}


@pytest.mark.parametrize(("text", "expected"), REFUSED.values(), ids=REFUSED)
def test_refused(text: str, expected: list[str]) -> None:
    error = refusal(text)
    assert [str(problem) for problem in error.problems] == expected
    assert "hunter2" not in str(error)


def test_missing_files_are_reported_where_they_are_named() -> None:
    text = f"{HEAD}  b:\n    address: b\n    tls:\n      cert: b.pem\n      key: b.key\n"
    text += "tls:\n  ca:\n    cert: ca.pem\n    key: ca.key\n  client:\n    cert: me.pem\n    key: me.key\n"
    with pytest.raises(InventoryError) as caught:
        parse(text, check_files=lambda path: path.suffix == ".key")
    assert [str(problem) for problem in caught.value.problems] == [
        "7:hosts.b.tls.cert: there is no file 'b.pem'",
        "11:tls.ca.cert: there is no file 'ca.pem'",
        "14:tls.client.cert: there is no file 'me.pem'",
    ]
    with pytest.raises(InventoryError) as caught:
        parse(text, check_files=lambda path: path.suffix == ".pem")
    assert [problem.path for problem in caught.value.problems] == ["hosts.b.tls.key", "tls.ca.key", "tls.client.key"]


# --------------------------------------------------------------------------------------------- schema


@pytest.mark.parametrize(
    "tls",
    [
        {"client": {"cert": "c", "key": "k"}},
        {"ca": {"key": "k"}},
        {"ca": {"cert": "c"}, "client": {"cert": "c"}},
        {"ca_passphrase_command": []},
        {"ca_passphrase_command": "pass"},
        {"key_type": "rsa"},
        {"renew_days": 0},
    ],
)
def test_editors_are_told_what_the_schema_can_say(tls: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        SCHEMA.validate({"fleet": "acme", "hosts": {"a": {"address": "a"}}, "tls": tls})


# --------------------------------------------------------------------------------------------- laws

pairs = st.just({"cert": "c", "key": "k"})
authorities = st.sampled_from([{"cert": "c"}, {"cert": "c", "key": "k"}])


@given(st.lists(st.none() | pairs, min_size=1, max_size=4), st.none() | authorities, st.none() | pairs)
def test_accepted_is_what_everyone_can_trust_and_somebody_signs(
    hosts: list[dict[str, str] | None], ca: dict[str, str] | None, client: dict[str, str] | None
) -> None:
    tls = {key: value for key, value in {"ca": ca, "client": client}.items() if value}
    machines = {
        f"h{index}": {"address": f"h{index}"} | ({"tls": pair} if pair else {}) for index, pair in enumerate(hosts)
    }
    tree = {"fleet": "acme", "tls": tls, "hosts": machines}
    brought = [*hosts, client]
    if (any(brought) and not ca) or (ca and "key" not in ca and not all(brought)):
        assert refusal(json.dumps(tree)).problems
    else:
        spec = parsed(json.dumps(tree))
        assert [bool(entry.tls) for entry in spec.hosts] == [bool(pair) for pair in hosts]
        SCHEMA.validate(tree)
