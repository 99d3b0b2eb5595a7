"""Certificates: every extension, every refusal in a real TLS handshake, and keys that never show."""

from __future__ import annotations

import copy
import ipaddress
import pickle
import re
import ssl
import traceback
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from certs.authority import create_authority, issue_client, issue_node
from certs.certificate import Credential, Role, describe, is_issued_by, is_pair
from certs.keys import CertificateError, KeyType, PrivateKey
from certs.lifetimes import days_left, needs_renewal
from tests.support.tls import NOW, context, namesake, shake_hands

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

DAY = timedelta(days=1)

AUTHORITY = create_authority("acme CA", now=NOW)
NODE = issue_node(AUTHORITY, "amd-1", names=("10.0.0.11", "amd-1", "fd00::1"), now=NOW)
CLIENT = issue_client(AUTHORITY, "operator", now=NOW)
ALL = {"authority": AUTHORITY, "node": NODE, "client": CLIENT}

every_certificate = pytest.mark.parametrize("credential", ALL.values(), ids=ALL)
leaves = pytest.mark.parametrize("credential", [NODE, CLIENT], ids=["node", "client"])


def parsed(credential: Credential) -> x509.Certificate:
    return x509.load_pem_x509_certificate(credential.certificate)


def extension_names(credential: Credential) -> dict[str, bool]:
    """Extension -> whether it is critical."""
    return {entry.oid._name: entry.critical for entry in parsed(credential).extensions}


def key_usages(credential: Credential) -> set[str]:
    usage = parsed(credential).extensions.get_extension_for_class(x509.KeyUsage).value
    names = (
        *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"),
        *("key_agreement", "key_cert_sign", "crl_sign"),
    )
    return {name for name in names if getattr(usage, name)}


# -------------------------------------------------------------------------------------------- extensions


def test_the_authority_has_exactly_these_extensions() -> None:
    assert extension_names(AUTHORITY) == {
        "basicConstraints": True,
        "keyUsage": True,
        "subjectKeyIdentifier": False,
    }


def test_a_node_has_exactly_these_extensions() -> None:
    assert extension_names(NODE) == {
        "basicConstraints": True,
        "keyUsage": True,
        "extendedKeyUsage": False,
        "authorityKeyIdentifier": False,
        "subjectAltName": False,
    }


def test_a_client_has_exactly_these_extensions() -> None:
    assert extension_names(CLIENT) == {
        "basicConstraints": True,
        "keyUsage": True,
        "extendedKeyUsage": False,
        "authorityKeyIdentifier": False,
    }


def test_the_authority_signs_leaves_only() -> None:
    value = parsed(AUTHORITY).extensions.get_extension_for_class(x509.BasicConstraints).value
    assert (value.ca, value.path_length) == (True, 0)


@leaves
def test_a_leaf_is_no_authority(credential: Credential) -> None:
    value = parsed(credential).extensions.get_extension_for_class(x509.BasicConstraints).value
    assert (value.ca, value.path_length) == (False, None)


def test_the_authority_signs_certificates_and_revocations_and_nothing_else() -> None:
    assert key_usages(AUTHORITY) == {"key_cert_sign", "crl_sign"}


@leaves
def test_a_leaf_signs_handshakes_and_nothing_else(credential: Credential) -> None:
    assert key_usages(credential) == {"digital_signature"}


@pytest.mark.parametrize(
    ("credential", "usage"),
    [
        pytest.param(NODE, ExtendedKeyUsageOID.SERVER_AUTH, id="node"),
        pytest.param(CLIENT, ExtendedKeyUsageOID.CLIENT_AUTH, id="client"),
    ],
)
def test_a_leaf_has_one_role(credential: Credential, usage: x509.ObjectIdentifier) -> None:
    assert list(parsed(credential).extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [usage]


def test_a_nodes_names_are_addresses_and_dns_names_each_once() -> None:
    credential = issue_node(AUTHORITY, "n", names=("10.0.0.11", "amd-1", "fd00::1", "amd-1"), now=NOW)
    names = parsed(credential).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [
        x509.IPAddress(ipaddress.ip_address("10.0.0.11")),
        x509.DNSName("amd-1"),
        x509.IPAddress(ipaddress.ip_address("fd00::1")),
    ]


def test_the_authoritys_key_identifier_is_that_of_its_key() -> None:
    value = parsed(AUTHORITY).extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    assert value == x509.SubjectKeyIdentifier.from_public_key(parsed(AUTHORITY).public_key())


@leaves
def test_a_leaf_names_its_issuers_key(credential: Credential) -> None:
    own = parsed(credential).extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    issuers = parsed(AUTHORITY).extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    assert own.key_identifier == issuers.digest
    assert own.authority_cert_issuer is None
    assert own.authority_cert_serial_number is None


# ------------------------------------------------------------------------------------------- other fields


@every_certificate
def test_keys_are_p256_and_signatures_sha256(credential: Credential) -> None:
    certificate = parsed(credential)
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert isinstance(key.curve, ec.SECP256R1)
    assert isinstance(certificate.signature_hash_algorithm, hashes.SHA256)
    assert certificate.version is x509.Version.v3


@every_certificate
def test_a_serial_number_is_positive_and_of_at_most_twenty_bytes(credential: Credential) -> None:
    assert 0 < parsed(credential).serial_number < 1 << 159


def test_serial_numbers_and_keys_are_new_each_time() -> None:
    issued = [issue_client(AUTHORITY, "operator", now=NOW) for _ in range(5)]
    assert len({describe(one.certificate).serial for one in issued}) == 5
    assert len({one.key.reveal() for one in issued}) == 5
    assert min(parsed(one).serial_number.bit_length() for one in issued) > 100


@every_certificate
def test_it_is_valid_from_five_minutes_ago(credential: Credential) -> None:
    assert parsed(credential).not_valid_before_utc == NOW - timedelta(minutes=5)


@pytest.mark.parametrize(
    ("credential", "days"),
    [
        pytest.param(AUTHORITY, 3650, id="authority"),
        pytest.param(NODE, 365, id="node"),
        pytest.param(CLIENT, 365, id="client"),
    ],
)
def test_it_lives_this_long(credential: Credential, days: int) -> None:
    assert parsed(credential).not_valid_after_utc == NOW + days * DAY


def test_a_leaf_never_outlives_its_authority() -> None:
    late = NOW + 3600 * DAY
    for leaf in (issue_node(AUTHORITY, "n", names=["n"], now=late), issue_client(AUTHORITY, "o", now=late)):
        assert parsed(leaf).not_valid_after_utc == parsed(AUTHORITY).not_valid_after_utc


def test_times_of_other_zones_are_converted() -> None:
    elsewhere = NOW.astimezone(timezone(timedelta(hours=9)))
    assert parsed(create_authority("x", now=elsewhere)).not_valid_before_utc == NOW - timedelta(minutes=5)


@pytest.mark.parametrize(
    ("credential", "name"),
    [
        pytest.param(AUTHORITY, "acme CA 2030-05-01 [0-9a-f]{4}", id="authority"),
        pytest.param(NODE, "amd-1", id="node"),
        pytest.param(CLIENT, "operator", id="client"),
    ],
)
def test_its_subject_is_its_name(credential: Credential, name: str) -> None:
    (common,) = parsed(credential).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert re.fullmatch(name, str(common.value))
    assert parsed(credential).issuer == parsed(AUTHORITY).subject


def test_two_authorities_of_one_name_and_day_have_subjects_of_their_own() -> None:
    made = {describe(create_authority("acme CA", now=NOW).certificate).subject for _ in range(3)}
    assert len(made) > 1


@pytest.mark.parametrize("name", ["x" * 49, "x" * 100])
def test_a_name_that_does_not_fit_is_refused(name: str) -> None:
    assert len(describe(create_authority("x" * 48, now=NOW).certificate).subject) == 64
    with pytest.raises(CertificateError, match="1 to 64 characters"):
        create_authority(name, now=NOW)


@pytest.mark.parametrize("kind", KeyType)
def test_keys_are_of_the_kind_that_is_asked_for(kind: KeyType) -> None:
    authority = create_authority("x", now=NOW, key_type=kind)
    made = (
        authority,
        issue_node(authority, "n", names=["n"], now=NOW, key_type=kind),
        issue_client(authority, "c", now=NOW, key_type=kind),
    )
    assert [describe(one.certificate).key_type for one in made] == [kind] * 3
    hashed = parsed(authority).signature_hash_algorithm
    assert hashed
    assert hashed.name == ("sha384" if kind is KeyType.P384 else "sha256")
    assert all(is_pair(one) for one in made)
    assert is_issued_by(made[1].certificate, authority.certificate)


# ------------------------------------------------------------------------------------------------ reading


def test_describe_says_what_a_node_certificate_says() -> None:
    described = describe(NODE.certificate)
    assert (described.subject, described.role, described.key_type) == ("amd-1", Role.NODE, "p256")
    assert described.issuer == describe(AUTHORITY.certificate).subject
    assert described.names == ("10.0.0.11", "amd-1", "fd00::1")
    assert described.serial == f"{parsed(NODE).serial_number:x}"
    assert described.fingerprint == parsed(NODE).fingerprint(hashes.SHA256()).hex()
    assert (described.not_before, described.not_after) == (NOW - timedelta(minutes=5), NOW + 365 * DAY)


@pytest.mark.parametrize(
    ("certificate", "role"),
    [
        pytest.param(AUTHORITY.certificate, Role.AUTHORITY, id="authority"),
        pytest.param(NODE.certificate, Role.NODE, id="node"),
        pytest.param(CLIENT.certificate, Role.CLIENT, id="client"),
        pytest.param(
            trustme.CA().issue_cert("x").cert_chain_pems[0].bytes(), Role.UNKNOWN, id="server and client at once"
        ),
    ],
)
def test_describe_tells_the_roles_apart(certificate: bytes, role: Role) -> None:
    assert describe(certificate).role is role


def test_describe_reads_der_too() -> None:
    der = parsed(NODE).public_bytes(serialization.Encoding.DER)
    assert describe(der) == describe(NODE.certificate)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"hello", id="text"),
        pytest.param(NODE.certificate[:200], id="a torn certificate"),
        pytest.param(NODE.key.reveal(), id="a key"),
    ],
)
def test_describe_refuses_what_is_no_certificate(content: bytes) -> None:
    with pytest.raises(CertificateError, match=r"^not a certificate$"):
        describe(content)


@pytest.mark.parametrize(
    ("after", "left", "renew"),
    [
        pytest.param(timedelta(0), 365, False, id="new"),
        pytest.param(334 * DAY, 31, False, id="a month and a day before its end"),
        pytest.param(335 * DAY - timedelta(seconds=1), 30, False, id="a second before the window"),
        pytest.param(335 * DAY, 30, True, id="at the window"),
        pytest.param(365 * DAY - timedelta(hours=1), 0, True, id="in its last hour"),
        pytest.param(365 * DAY + timedelta(hours=1), -1, True, id="an hour too late"),
    ],
)
def test_renewal_is_due_in_the_last_month(after: timedelta, left: int, renew: bool) -> None:
    expires = describe(NODE.certificate).not_after
    assert (days_left(expires, NOW + after), needs_renewal(expires, NOW + after)) == (left, renew)


def test_renewal_is_due_within_the_days_that_are_asked_for() -> None:
    assert needs_renewal(NOW + 7 * DAY, NOW, days=7)
    assert not needs_renewal(NOW + 8 * DAY, NOW, days=7)


def test_a_certificate_that_ends_with_its_authority_is_not_renewed_over_and_over() -> None:
    assert not needs_renewal(NOW + DAY, NOW, authority_expires=NOW + DAY)
    assert needs_renewal(NOW + DAY, NOW, authority_expires=NOW + 2 * DAY)


@every_certificate
def test_a_key_belongs_to_its_certificate(credential: Credential) -> None:
    assert is_pair(credential)


def test_a_key_of_another_certificate_does_not_belong() -> None:
    assert not is_pair(Credential(NODE.certificate, CLIENT.key))


@pytest.mark.parametrize(
    ("credential", "complaint"),
    [
        pytest.param(Credential(b"?", NODE.key), "not a certificate", id="no certificate"),
        pytest.param(Credential(NODE.certificate, PrivateKey(b"?")), "not a private key", id="no key"),
        pytest.param(Credential(NODE.certificate[:200], NODE.key), "not a certificate", id="a torn certificate"),
        pytest.param(
            Credential(NODE.certificate, PrivateKey(NODE.key.reveal()[:80])), "not a private key", id="a torn key"
        ),
    ],
)
def test_a_pair_of_what_is_neither_is_an_error(credential: Credential, complaint: str) -> None:
    with pytest.raises(CertificateError, match=f"^{complaint}$"):
        is_pair(credential)


def test_a_key_of_another_kind_does_not_belong() -> None:
    foreign = trustme.CA().issue_cert("x", key_type=trustme.KeyType.RSA)
    assert not is_pair(Credential(NODE.certificate, PrivateKey(foreign.private_key_pem.bytes())))
    assert is_pair(Credential(foreign.cert_chain_pems[0].bytes(), PrivateKey(foreign.private_key_pem.bytes())))


def test_issued_by_looks_at_the_signature_and_not_at_the_name() -> None:
    assert is_issued_by(NODE.certificate, AUTHORITY.certificate)
    assert is_issued_by(AUTHORITY.certificate, AUTHORITY.certificate)
    assert not is_issued_by(NODE.certificate, namesake(AUTHORITY).certificate)
    assert not is_issued_by(NODE.certificate, CLIENT.certificate)
    assert not is_issued_by(b"?", AUTHORITY.certificate)
    assert not is_issued_by(NODE.certificate, b"?")


def test_issued_by_takes_any_of_several_authorities() -> None:
    new = create_authority("acme CA", now=NOW)
    both = AUTHORITY.certificate + new.certificate
    assert is_issued_by(NODE.certificate, both)
    assert is_issued_by(issue_client(new, "c", now=NOW).certificate, both)
    assert not is_issued_by(NODE.certificate, new.certificate)


# --------------------------------------------------------------------------------------------------- keys


def secret_lines(key: PrivateKey) -> list[str]:
    return [line for line in key.reveal().decode().splitlines() if "-----" not in line]


def raised(key: PrivateKey) -> str:
    try:
        raise ValueError(key)
    except ValueError:
        return traceback.format_exc()


@pytest.mark.parametrize(
    "show",
    [
        pytest.param(repr, id="repr"),
        pytest.param(str, id="str"),
        pytest.param(lambda key: f"{key}", id="format"),
        pytest.param(lambda key: f"{key!r:>60}", id="format with a width"),
        pytest.param(lambda key: "%s %r" % (key, key), id="percent"),  # noqa: UP031 - logging does it so
        pytest.param(lambda key: repr(Credential(b"", key)), id="inside a credential"),
        pytest.param(raised, id="in a traceback"),
    ],
)
def test_a_private_key_never_shows(show: Callable[[PrivateKey], str]) -> None:
    text = show(NODE.key)
    assert "PrivateKey(…)" in text
    assert not [line for line in secret_lines(NODE.key) if line in text]


def test_a_traceback_with_local_variables_shows_no_key() -> None:
    key = PrivateKey(NODE.key.reveal()[:80])
    try:
        is_pair(Credential(NODE.certificate, key))
    except CertificateError as error:
        shown = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
    assert "not a private key" in shown
    assert secret_lines(NODE.key)[0][:20] not in shown


@pytest.mark.parametrize("copier", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_private_key_is_not_pickled(copier: Callable[[PrivateKey], object]) -> None:
    with pytest.raises(TypeError, match="not to be pickled"):
        copier(NODE.key)


def test_private_keys_compare_by_content() -> None:
    assert PrivateKey(b"a") == PrivateKey(b"a")
    assert hash(PrivateKey(b"a")) == hash(PrivateKey(b"a"))
    assert PrivateKey(b"a") != PrivateKey(b"b")
    assert PrivateKey(b"a") != b"a"


# --------------------------------------------------------------------------------------------- handshakes

TODAY = datetime.now(UTC)
LIVE = create_authority("live CA", now=TODAY)
STRANGER = namesake(LIVE)
"""Another authority of the same name."""


def live_node(authority: Credential = LIVE, **when: timedelta) -> Credential:
    return issue_node(authority, "amd-1", names=("amd-1", "127.0.0.1"), now=TODAY + when.get("at", timedelta(0)))


def live_client(authority: Credential = LIVE, **when: timedelta) -> Credential:
    return issue_client(authority, "operator", now=TODAY + when.get("at", timedelta(0)))


versions = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])


@versions
@pytest.mark.parametrize("name", ["amd-1", "127.0.0.1"])
def test_a_node_and_a_client_of_one_authority_trust_each_other(
    tmp_path: Path, version: ssl.TLSVersion, name: str
) -> None:
    server = context(tmp_path, "server", live_node(), LIVE.certificate, version)
    client = context(tmp_path, "client", live_client(), LIVE.certificate, version)
    assert shake_hands(server, client, name) == f"TLSv1.{version - ssl.TLSVersion.TLSv1}"


TLS_FOREIGN = trustme.CA()


def foreign_client() -> Credential:
    issued = TLS_FOREIGN.issue_cert("operator")
    return Credential(issued.cert_chain_pems[0].bytes(), PrivateKey(issued.private_key_pem.bytes()))


def foreign_node() -> Credential:
    issued = TLS_FOREIGN.issue_cert("amd-1")
    return Credential(issued.cert_chain_pems[0].bytes(), PrivateKey(issued.private_key_pem.bytes()))


REFUSALS = {
    "a client without a certificate": (live_node(), None, "amd-1", "did not return a certificate"),
    "a client of a foreign authority": (
        live_node(),
        foreign_client(),
        "amd-1",
        "unable to get local issuer|self.signed",
    ),
    "a client of another authority of the same name": (
        live_node(),
        live_client(STRANGER),
        "amd-1",
        "certificate verify failed",
    ),
    "a node of a foreign authority": (foreign_node(), live_client(), "amd-1", "unable to get local issuer|self.signed"),
    "a node of another authority of the same name": (
        live_node(STRANGER),
        live_client(),
        "amd-1",
        "certificate verify failed",
    ),
    "a node that acts as a client": (live_node(), live_node(), "amd-1", "unsuitable certificate purpose|unsupported"),
    "a client that acts as a node": (live_client(), live_client(), "amd-1", "unsuitable certificate purpose"),
    "the authority that acts as a node": (LIVE, live_client(), "amd-1", "certificate verify failed|no shared cipher"),
    "a node of another name": (live_node(), live_client(), "amd-2", "Hostname mismatch"),
    "a node at another address": (live_node(), live_client(), "127.0.0.2", "IP address mismatch"),
    "a node whose certificate has expired": (live_node(at=-366 * DAY), live_client(), "amd-1", "has expired"),
    "a node whose certificate is not yet valid": (live_node(at=DAY), live_client(), "amd-1", "not yet valid"),
    "a client whose certificate has expired": (live_node(), live_client(at=-366 * DAY), "amd-1", "has expired"),
    "a client whose certificate is not yet valid": (live_node(), live_client(at=DAY), "amd-1", "not yet valid"),
}


@versions
@pytest.mark.parametrize(("node", "client", "name", "complaint"), REFUSALS.values(), ids=REFUSALS)
def test_a_handshake_refuses(
    tmp_path: Path,
    version: ssl.TLSVersion,
    node: Credential,
    client: Credential | None,
    name: str,
    complaint: str,
) -> None:
    far = context(tmp_path, "server", node, LIVE.certificate, version)
    near = context(tmp_path, "client", client, LIVE.certificate, version)
    with pytest.raises(ssl.SSLError, match=complaint):
        shake_hands(far, near, name)


@pytest.mark.parametrize("minutes", [0, 4])
def test_a_host_whose_clock_is_slow_accepts_a_new_certificate(tmp_path: Path, minutes: int) -> None:
    made = TODAY + timedelta(minutes=minutes)
    node = issue_node(LIVE, "amd-1", names=["amd-1"], now=made)
    server = context(tmp_path, "server", node, LIVE.certificate, ssl.TLSVersion.TLSv1_3)
    client = context(tmp_path, "client", live_client(), LIVE.certificate, ssl.TLSVersion.TLSv1_3)
    assert shake_hands(server, client, "amd-1") == "TLSv1.3"
