"""Whether certificates from elsewhere will do: what BuildKit (Go), gRPC (BoringSSL) and OpenSSL would refuse later.

Each check raises CertificateError with one line that says what is wrong and quotes no key.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, TypeVar

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from certs import keys
from certs.certificate import Credential, Role, describe, is_pair, key_type, load_all, may_certify, signed
from certs.keys import CertificateError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

_Extension = TypeVar("_Extension", bound=x509.ExtensionType)

_LONGEST_CHAIN = 8
"""Chains in use have two or three; the work of following one grows with its square."""

_USAGES = {Role.NODE: ExtendedKeyUsageOID.SERVER_AUTH, Role.CLIENT: ExtendedKeyUsageOID.CLIENT_AUTH}

_AUTHORITY_KEYS = frozenset({"p256", "p384", "p521", "ed25519"})

_LEAF_KEYS = frozenset({"p256", "p384"})
"""gRPC's BoringSSL offers no handshake with Ed25519 and P-521; as CA keys all three parties take them."""

_SHORTEST_RSA = 2048


def check_authority(authority: Credential, now: datetime) -> None:
    """Refuse what cannot sign for nodes and clients; a sealed key is not compared with its certificate."""
    issuer, *above = load_all(authority.certificate)
    if not may_certify(issuer):
        raise CertificateError("it is no certificate authority: its basicConstraints do not say CA")
    usage = _extension(issuer, x509.KeyUsage)
    if usage and not usage.key_cert_sign:
        raise CertificateError("it may not sign certificates: its keyUsage lacks keyCertSign")
    # Go and OpenSSL let no leaf do what an authority above it is not meant for.
    allowed = _extension(issuer, x509.ExtendedKeyUsage)
    if allowed and ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE not in allowed:
        for role, wanted in _USAGES.items():
            if wanted not in allowed:
                raise CertificateError(f"it may not sign for a {role}: its extendedKeyUsage lacks {_words(role)}")
    _check_key(issuer, _AUTHORITY_KEYS, "p256, p384, p521, ed25519")
    _check_dates(issuer, now, "it")
    for lower, upper in zip((issuer, *above), above, strict=False):
        if not signed(lower, upper):
            raise CertificateError(
                "its chain is out of order or broken: the certificate that signs comes first, then each one's issuer"
            )
    if not keys.is_sealed(authority.key):
        check_pair(authority)


def check_leaf(credential: Credential, role: Role, anchors: bytes, now: datetime, names: Iterable[str] = ()) -> None:
    """Refuse what cannot serve as a node or a client (`role`) among those who trust `anchors`, or not for `names`.

    `anchors`: PEM, one or more. The chain to one of them has to be in the credential. `names`: DNS names and IP
    addresses, wildcards in the certificate count as TLS has them.
    """
    leaf, *chain = load_all(credential.certificate)
    described = describe(credential.certificate)
    check_pair(credential)
    if described.role is not role:
        raise CertificateError(_wrong_role(described.role, role))
    usage = _extension(leaf, x509.KeyUsage)
    if usage and not usage.digital_signature:
        raise CertificateError("it may not sign handshakes: its keyUsage lacks digitalSignature")
    _check_key(leaf, _LEAF_KEYS, "p256, p384")
    _check_dates(leaf, now, "it")
    if missing := [name for name in names if not any(_covers(known, name) for known in described.names)]:
        raise CertificateError(f"it is not valid for {', '.join(missing)}, only for {', '.join(described.names)}")
    _check_chain(leaf, chain, load_all(anchors), now)


def check_pair(credential: Credential) -> None:
    """Refuse a key that is not the certificate's, or sealed."""
    if not is_pair(credential):
        raise CertificateError("its key does not belong to its certificate")


def check_names(authority: bytes, names: Iterable[str]) -> None:
    """Refuse names that the authority's nameConstraints keep it from certifying: peers would refuse the whole leaf."""
    constraints = _extension(load_all(authority)[0], x509.NameConstraints)
    if constraints is None:
        return
    for name in names:
        permitted, excluded = (
            [tree for tree in trees or () if isinstance(tree, x509.IPAddress if _is_ip(name) else x509.DNSName)]
            for trees in (constraints.permitted_subtrees, constraints.excluded_subtrees)
        )
        if any(_within(name, tree) for tree in excluded) or (
            permitted and not any(_within(name, tree) for tree in permitted)
        ):
            raise CertificateError(f"it may not sign for {name}: its nameConstraints leave that out")


def _check_key(certificate: x509.Certificate, known: frozenset[str], listed: str) -> None:
    kind = key_type(certificate)
    if kind.startswith("rsa"):
        if int(kind[3:]) < _SHORTEST_RSA:
            raise CertificateError(f"its RSA key has {kind[3:]} bits; at least {_SHORTEST_RSA} are needed")
    elif kind not in known:
        raise CertificateError(f"its key is {kind}, which not all of Go, gRPC and OpenSSL take: use {listed} or RSA")


def _check_dates(certificate: x509.Certificate, now: datetime, which: str) -> None:
    if now < certificate.not_valid_before_utc:
        raise CertificateError(f"{which} is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC")
    if now >= certificate.not_valid_after_utc:
        raise CertificateError(f"{which} expired on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC")


def _check_chain(
    leaf: x509.Certificate, chain: Sequence[x509.Certificate], anchors: Sequence[x509.Certificate], now: datetime
) -> None:
    if max(len(chain), len(anchors)) > _LONGEST_CHAIN:
        raise CertificateError(f"its chain or its trust has more than {_LONGEST_CHAIN} certificates")
    current, left = leaf, list(chain)
    while not (found := [one for one in anchors if may_certify(one) and signed(current, one)]):
        upper = next((one for one in left if may_certify(one) and signed(current, one)), None)
        if upper is None:
            raise CertificateError("it was not issued by a trusted CA, or its chain does not lead to one")
        _check_dates(upper, now, "one of its issuers")
        left.remove(upper)
        current = upper
    _check_dates(max(found, key=lambda one: one.not_valid_after_utc), now, "its CA")


def _wrong_role(found: Role, wanted: Role) -> str:
    asked = f"a {wanted}'s has exactly {_words(wanted)}"
    match found:
        case Role.AUTHORITY:
            return f"it is a certificate authority and not a {wanted}'s certificate"
        case Role.UNKNOWN:
            # With both roles, whoever takes a node could build on all the others.
            return f"its extendedKeyUsage is missing or has more than one role: {asked}"
        case _:
            return f"it is a {found}'s certificate: {asked}"


def _words(role: Role) -> str:
    return "serverAuth" if role is Role.NODE else "clientAuth"


def _extension(certificate: x509.Certificate, kind: type[_Extension]) -> _Extension | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _is_ip(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _covers(known: str, name: str) -> bool:
    """Whether a subject alternative name is good for `name`; a wildcard stands for one whole first label."""
    if _is_ip(name) or _is_ip(known):
        return _is_ip(name) and _is_ip(known) and ipaddress.ip_address(known) == ipaddress.ip_address(name)
    known, name = known.lower(), name.lower()
    return known == name or (known.startswith("*.") and name.partition(".")[2] == known[2:] != "")


def _within(name: str, tree: x509.GeneralName) -> bool:
    """Whether a name lies in a subtree of nameConstraints, RFC 5280 4.2.1.10."""
    if isinstance(tree, x509.IPAddress):
        return ipaddress.ip_address(name) in ipaddress.ip_network(str(tree.value))
    base = str(tree.value).lower().lstrip(".")
    return base in {"", name.lower()} or name.lower().endswith(f".{base}")
