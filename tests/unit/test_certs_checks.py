"""Certificates from elsewhere: each defect is named before a handshake would blame something else."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Sequence
from datetime import datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from certs.authority import create_authority, issue_client, issue_node
from certs.certificate import Credential, Role, anchor, describe, is_issued_by, is_pair, split_pem
from certs.checks import check_authority, check_leaf
from certs.keys import CertificateError, Passphrase, SigningKey, seal_key
from tests.support.tls import CA, NOW, forge, key_usage

DAY = timedelta(days=1)
SERVER, CLIENT = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH
LEAF = x509.BasicConstraints(ca=False, path_length=None)

ROOT = forge("Company root", CA, key_usage("key_cert_sign", "crl_sign"), at=NOW)
POLICY = forge("Policy CA", CA, key_usage("key_cert_sign"), at=NOW, signer=ROOT)
ISSUING = forge("Issuing CA", CA, key_usage("key_cert_sign"), at=NOW, signer=POLICY)
SIBLING = forge("Other department", CA, key_usage("key_cert_sign"), at=NOW, signer=POLICY)
OURS = create_authority("acme CA", now=NOW)


def chained(*credentials: Credential) -> Credential:
    return Credential(b"".join(one.certificate for one in credentials), credentials[0].key)


def usage(*oids: x509.ObjectIdentifier) -> x509.ExtendedKeyUsage:
    return x509.ExtendedKeyUsage(oids)


def san(*names: str) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([x509.DNSName(name) for name in names])


# --------------------------------------------------------------------------------------------- authorities


def authority(*extensions: x509.ExtensionType, key: SigningKey | None = None, at: datetime = NOW) -> Credential:
    return forge("Theirs", *extensions, key=key, at=at, days=10)


GOOD_AUTHORITIES = {
    "our own": OURS,
    "an intermediate with its chain": chained(ISSUING, POLICY, ROOT),
    "an intermediate without its root": chained(ISSUING, POLICY),
    "an intermediate alone": ISSUING,
    "without keyUsage": authority(CA),
    "meant for servers and clients": authority(CA, usage(SERVER, CLIENT)),
    "meant for anything": authority(CA, usage(ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE)),
    "RSA": authority(CA, key=rsa.generate_private_key(65537, 2048)),
    "P-384": authority(CA, key=ec.generate_private_key(ec.SECP384R1())),
    "P-521": authority(CA, key=ec.generate_private_key(ec.SECP521R1())),
    "Ed25519": authority(CA, key=ed25519.Ed25519PrivateKey.generate()),
    "path length 0": authority(x509.BasicConstraints(ca=True, path_length=0)),
    "sealed": Credential(OURS.certificate, seal_key(OURS.key, Passphrase("x"))),
}


@pytest.mark.parametrize("good", GOOD_AUTHORITIES.values(), ids=GOOD_AUTHORITIES)
def test_an_authority_that_can_sign_passes(good: Credential) -> None:
    check_authority(good, NOW + DAY)


BAD_AUTHORITIES = {
    "a leaf": (issue_node(OURS, "n", names=["n"], now=NOW), "it is no certificate authority: its basicConstraints"),
    "without basicConstraints": (authority(key_usage("key_cert_sign")), "it is no certificate authority"),
    "without keyCertSign": (authority(CA, key_usage("digital_signature")), "its keyUsage lacks keyCertSign"),
    "for servers only": (authority(CA, usage(SERVER)), "it may not sign for a client: .* lacks clientAuth"),
    "for clients only": (authority(CA, usage(CLIENT)), "it may not sign for a node: .* lacks serverAuth"),
    "another's key": (Credential(OURS.certificate, ROOT.key), "its key does not belong to its certificate"),
    "expired": (authority(CA, at=NOW - 10 * DAY), "it expired on 2030-05-01 12:00 UTC"),
    "not yet valid": (authority(CA, at=NOW + 2 * DAY), "it is not valid before 2030-05-03 12:00 UTC"),
    "a short RSA key": (
        authority(CA, key=rsa.generate_private_key(65537, 1024)),  # noqa: S505 - it is to be refused
        "1024 bits; at least 2048",
    ),
    "a rare curve": (authority(CA, key=ec.generate_private_key(ec.SECP256K1())), "its key is secp256k1, which not all"),
    "the root first": (Credential(ROOT.certificate + ISSUING.certificate, ROOT.key), "out of order or broken"),
    "a gap in the chain": (chained(ISSUING, ROOT), "out of order or broken"),
    "a stranger in the chain": (chained(ISSUING, POLICY, OURS), "out of order or broken"),
    "no certificate": (Credential(b"?", OURS.key), "not a certificate"),
}


@pytest.mark.parametrize(("bad", "complaint"), BAD_AUTHORITIES.values(), ids=BAD_AUTHORITIES)
def test_an_authority_that_cannot_sign_is_refused(bad: Credential, complaint: str) -> None:
    with pytest.raises(CertificateError, match=complaint) as caught:
        check_authority(bad, NOW + DAY)
    assert "\n" not in str(caught.value)


def test_nothing_is_signed_with_a_key_that_is_not_the_authoritys() -> None:
    with pytest.raises(CertificateError, match="its key does not belong to its certificate"):
        issue_client(Credential(OURS.certificate, ROOT.key), "c", now=NOW)


def test_nothing_is_signed_with_an_authority_that_has_ended() -> None:
    with pytest.raises(CertificateError, match=r"^it expired on 2040-04-28 12:00 UTC$"):
        issue_client(OURS, "c", now=NOW + 3651 * DAY)


# ----------------------------------------------------------------------------------------- someone else's CA


@pytest.mark.parametrize(
    "signer",
    [chained(ISSUING, POLICY, ROOT), chained(ISSUING, POLICY)],
    ids=["with its root", "without its root"],
)
def test_an_intermediates_leaf_carries_the_chain_without_the_root(signer: Credential) -> None:
    for leaf in (issue_node(signer, "n", names=["n"], now=NOW), issue_client(signer, "c", now=NOW)):
        first, *rest = split_pem(leaf.certificate)
        assert describe(first).issuer == "Issuing CA"
        assert rest == [ISSUING.certificate, POLICY.certificate]
        assert is_pair(leaf)
        assert is_issued_by(leaf.certificate, anchor(signer.certificate))
        assert not is_issued_by(leaf.certificate, SIBLING.certificate)


def test_a_root_issues_leaves_alone() -> None:
    leaf = issue_node(OURS, "n", names=["n"], now=NOW)
    assert len(split_pem(leaf.certificate)) == 1


def test_the_anchor_is_the_certificate_that_signs() -> None:
    assert anchor(chained(ISSUING, POLICY, ROOT).certificate) == ISSUING.certificate
    assert anchor(OURS.certificate) == OURS.certificate


def test_an_authority_without_a_key_identifier_is_known_by_that_of_its_key() -> None:
    leaf = x509.load_pem_x509_certificate(issue_client(ROOT, "c", now=NOW).certificate)
    root = x509.load_pem_x509_certificate(ROOT.certificate)
    found = leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert found.key_identifier == x509.SubjectKeyIdentifier.from_public_key(root.public_key()).digest


CONSTRAINED = forge(
    "Constrained",
    CA,
    x509.NameConstraints(
        permitted_subtrees=[
            x509.DNSName("corp.example"),
            x509.IPAddress(ipaddress.ip_network("10.0.0.0/8")),
        ],
        excluded_subtrees=[x509.DNSName(".lab.corp.example")],
    ),
    at=NOW,
)


@pytest.mark.parametrize(
    ("names", "refused"),
    [
        pytest.param(["corp.example", "a.corp.example", "A.B.CORP.EXAMPLE", "10.1.2.3"], None, id="all permitted"),
        pytest.param(["a.corp.example", "amd-1"], "amd-1", id="another domain"),
        pytest.param(["notcorp.example"], "notcorp.example", id="a domain with the same end"),
        pytest.param(["11.0.0.1"], "11.0.0.1", id="another network"),
        pytest.param(["fd00::1"], "fd00::1", id="another family"),
        pytest.param(["x.lab.corp.example"], "x.lab.corp.example", id="excluded"),
    ],
)
def test_names_that_an_authority_may_not_certify_are_refused(names: list[str], refused: str | None) -> None:
    if refused is None:
        assert is_pair(issue_node(CONSTRAINED, "n", names=names, now=NOW))
        return
    with pytest.raises(CertificateError, match=f"^it may not sign for {refused}: its nameConstraints leave that out$"):
        issue_node(CONSTRAINED, "n", names=names, now=NOW)


def test_names_without_a_constraint_of_their_kind_are_free() -> None:
    only_dns = forge("x", CA, x509.NameConstraints([x509.DNSName("a.example")], None), at=NOW)
    assert is_pair(issue_node(only_dns, "n", names=["10.0.0.1", "n.a.example"], now=NOW))


# -------------------------------------------------------------------------------------- someone else's leaves

NODE = issue_node(OURS, "amd-1", names=["amd-1", "10.0.0.1"], now=NOW)
WILD = forge("n", LEAF, usage(SERVER), san("*.corp.example"), at=NOW, signer=OURS)


def leaf(*extensions: x509.ExtensionType, key: SigningKey | None = None, days: float = 10) -> Credential:
    return forge("leaf", LEAF, *extensions, key=key, at=NOW, signer=OURS, days=days)


@pytest.mark.parametrize(
    ("credential", "role", "anchors", "names"),
    [
        pytest.param(NODE, Role.NODE, OURS.certificate, ("amd-1", "10.0.0.1"), id="a node of our own"),
        pytest.param(issue_client(OURS, "c", now=NOW), Role.CLIENT, OURS.certificate, (), id="a client of our own"),
        pytest.param(NODE, Role.NODE, SIBLING.certificate + OURS.certificate, ("AMD-1",), id="one of two anchors"),
        pytest.param(
            issue_client(chained(ISSUING, POLICY), "c", now=NOW),
            Role.CLIENT,
            ISSUING.certificate,
            (),
            id="intermediate",
        ),
        pytest.param(
            issue_client(chained(ISSUING, POLICY), "c", now=NOW), Role.CLIENT, ROOT.certificate, (), id="up to the root"
        ),
        pytest.param(WILD, Role.NODE, OURS.certificate, ("a.corp.example", "B.Corp.Example"), id="a wildcard"),
        pytest.param(
            leaf(usage(CLIENT), key=rsa.generate_private_key(65537, 2048)), Role.CLIENT, OURS.certificate, (), id="RSA"
        ),
    ],
)
def test_a_leaf_that_will_do_passes(credential: Credential, role: Role, anchors: bytes, names: Sequence[str]) -> None:
    check_leaf(credential, role, anchors, NOW + DAY, names)


LAPSED = forge("Lapsed", CA, at=NOW - 30 * DAY, signer=ROOT, days=30)
NO_CA = forge("No CA", LEAF, usage(CLIENT), at=NOW, signer=ROOT)

BAD_LEAVES: dict[str, tuple[Credential, Role, bytes, tuple[str, ...], str]] = {
    "another's key": (
        Credential(NODE.certificate, OURS.key),
        Role.NODE,
        OURS.certificate,
        (),
        "its key does not belong to its certificate",
    ),
    "a node as a client": (
        NODE,
        Role.CLIENT,
        OURS.certificate,
        (),
        "it is a node's certificate: a client's has exactly clientAuth",
    ),
    "a client as a node": (
        leaf(usage(CLIENT), san("n")),
        Role.NODE,
        OURS.certificate,
        ("n",),
        "it is a client's certificate: a node's has exactly serverAuth",
    ),
    "both roles": (
        leaf(usage(SERVER, CLIENT), san("n")),
        Role.NODE,
        OURS.certificate,
        (),
        "its extendedKeyUsage is missing or has more than one role: a node's has exactly serverAuth",
    ),
    "no role": (leaf(san("n")), Role.NODE, OURS.certificate, (), "its extendedKeyUsage is missing"),
    "an authority": (OURS, Role.NODE, OURS.certificate, (), "it is a certificate authority and not a node's"),
    "no signatures": (
        leaf(usage(CLIENT), key_usage("key_encipherment")),
        Role.CLIENT,
        OURS.certificate,
        (),
        "its keyUsage lacks digitalSignature",
    ),
    "Ed25519": (
        leaf(usage(CLIENT), key=ed25519.Ed25519PrivateKey.generate()),
        Role.CLIENT,
        OURS.certificate,
        (),
        "its key is ed25519, which not all of Go, gRPC and OpenSSL take: use p256, p384 or RSA",
    ),
    "P-521": (
        leaf(usage(CLIENT), key=ec.generate_private_key(ec.SECP521R1())),
        Role.CLIENT,
        OURS.certificate,
        (),
        "its key is p521",
    ),
    "expired": (leaf(usage(CLIENT), days=1), Role.CLIENT, OURS.certificate, (), "it expired on 2030-05-02"),
    "not yet valid": (
        forge("c", LEAF, usage(CLIENT), at=NOW + 2 * DAY, signer=OURS),
        Role.CLIENT,
        OURS.certificate,
        (),
        "it is not valid before 2030-05-03",
    ),
    "another name": (
        NODE,
        Role.NODE,
        OURS.certificate,
        ("amd-1", "amd-2"),
        "it is not valid for amd-2, only for amd-1",
    ),
    "another address": (NODE, Role.NODE, OURS.certificate, ("10.0.0.2",), r"it is not valid for 10\.0\.0\.2"),
    "two labels for a wildcard": (WILD, Role.NODE, OURS.certificate, ("a.b.corp.example",), "it is not valid for"),
    "a wildcard's own domain": (WILD, Role.NODE, OURS.certificate, ("corp.example",), "it is not valid for"),
    "a foreign CA": (NODE, Role.NODE, SIBLING.certificate, (), "it was not issued by a trusted CA"),
    "the sibling of its CA": (
        issue_client(chained(ISSUING, POLICY), "c", now=NOW),
        Role.CLIENT,
        SIBLING.certificate,
        (),
        "it was not issued by a trusted CA",
    ),
    "a gap in its chain": (
        issue_client(ISSUING, "c", now=NOW),
        Role.CLIENT,
        ROOT.certificate,
        (),
        "its chain does not lead to one",
    ),
    "an expired issuer on the way": (
        chained(forge("c", LEAF, usage(CLIENT), at=NOW, signer=LAPSED), LAPSED),
        Role.CLIENT,
        ROOT.certificate,
        (),
        "one of its issuers expired on 2030-05-01",
    ),
    "an issuer that is no CA": (
        chained(forge("c", LEAF, usage(CLIENT), at=NOW, signer=NO_CA), NO_CA),
        Role.CLIENT,
        ROOT.certificate,
        (),
        "its chain does not lead to one",
    ),
    "an anchor that is no CA": (
        forge("c", LEAF, usage(CLIENT), at=NOW, signer=NO_CA),
        Role.CLIENT,
        NO_CA.certificate,
        (),
        "it was not issued by a trusted CA",
    ),
    "an expired CA": (
        forge("c", LEAF, usage(CLIENT), at=NOW, signer=LAPSED),
        Role.CLIENT,
        LAPSED.certificate,
        (),
        "its CA expired on 2030-05-01",
    ),
    "an endless chain": (
        Credential(NODE.certificate + ROOT.certificate * 9, NODE.key),
        Role.NODE,
        OURS.certificate,
        (),
        "more than 8 certificates",
    ),
}


@pytest.mark.parametrize(
    ("credential", "role", "anchors", "names", "complaint"), BAD_LEAVES.values(), ids=list(BAD_LEAVES)
)
def test_a_leaf_that_will_not_do_is_refused(
    credential: Credential, role: Role, anchors: bytes, names: Sequence[str], complaint: str
) -> None:
    with pytest.raises(CertificateError, match=complaint) as caught:
        check_leaf(credential, role, anchors, NOW + DAY, names)
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------------------ trust files


def test_a_trust_file_is_taken_apart_in_its_order() -> None:
    both = b"# old\n" + OURS.certificate + b"\n# new\n" + ROOT.certificate
    assert split_pem(both) == (OURS.certificate, ROOT.certificate)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(OURS.key.reveal(), id="a key"),
        pytest.param(OURS.certificate[:300], id="cut off"),
        pytest.param(OURS.certificate + ROOT.certificate[:300], id="the second cut off"),
        pytest.param(OURS.certificate[:300] + b"\n" + ROOT.certificate, id="the first cut off"),
    ],
)
def test_a_torn_trust_file_is_refused(content: bytes) -> None:
    with pytest.raises(CertificateError, match="certificate"):
        split_pem(content)


def test_a_serial_number_that_no_ca_gives_is_no_certificate() -> None:
    der = bytearray(ssl.PEM_cert_to_DER_cert(OURS.certificate.decode()))
    serial = x509.load_der_x509_certificate(bytes(der)).serial_number
    place = der.index(serial.to_bytes((serial.bit_length() + 7) // 8, "big"))
    der[place] |= 0x80  # negative
    with pytest.raises(CertificateError, match="not a certificate"):
        describe(bytes(der))
