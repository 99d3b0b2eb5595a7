"""A small certificate authority for mutual TLS: bytes in, bytes out, no files and no network.

The roles follow what Go's TLS stack, and so BuildKit, enforces: a certificate whose extended key usage is
serverAuth alone is refused as a client, and one with clientAuth alone is refused as a server.
"""

from __future__ import annotations

import ipaddress
import secrets
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from certs import keys
from certs.certificate import Credential, load_all
from certs.checks import check_names, check_pair
from certs.keys import CertificateError, KeyType
from certs.lifetimes import AUTHORITY_LIFETIME, CLOCK_TOLERANCE, LEAF_LIFETIME

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta

    from certs.keys import SigningKey


def create_authority(
    name: str, *, now: datetime, lifetime: timedelta = AUTHORITY_LIFETIME, key_type: KeyType = KeyType.P256
) -> Credential:
    """A self-signed CA that may sign leaves only (path length 0).

    Its subject ends in its day and four random digits: peers look for an issuer by subject, and during a rotation a
    person has to tell two of them apart. Raises CertificateError for a name of more than 48 characters.
    """
    key = keys.generate(key_type)
    subject = _name(f"{name} {now.astimezone(UTC):%Y-%m-%d} {secrets.token_hex(2)}")
    public = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    builder = (
        _builder(subject, subject, key, now, now + lifetime)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage("authority"), critical=True)
        .add_extension(public, critical=False)
    )
    return Credential(_signed(builder, key).public_bytes(Encoding.PEM), keys.encode(key))


def issue_node(
    authority: Credential,
    name: str,
    *,
    names: Sequence[str],
    now: datetime,
    lifetime: timedelta = LEAF_LIFETIME,
    key_type: KeyType = KeyType.P256,
) -> Credential:
    """A server certificate for `names` (DNS names and IP addresses); it cannot act as a client.

    `authority` is one that `check_authority` lets pass. Raises CertificateError when its key is sealed or not its own,
    when it ends before `now`, or when it may not sign for these names.
    """
    check_names(authority.certificate, names)
    san = x509.SubjectAlternativeName([_general_name(entry) for entry in dict.fromkeys(names)])
    return _issue(authority, name, ExtendedKeyUsageOID.SERVER_AUTH, san, now, lifetime, key_type)


def issue_client(
    authority: Credential,
    name: str,
    *,
    now: datetime,
    lifetime: timedelta = LEAF_LIFETIME,
    key_type: KeyType = KeyType.P256,
) -> Credential:
    """A client certificate; it cannot act as a server. Raises CertificateError as `issue_node` does."""
    return _issue(authority, name, ExtendedKeyUsageOID.CLIENT_AUTH, None, now, lifetime, key_type)


def _issue(
    authority: Credential,
    name: str,
    usage: x509.ObjectIdentifier,
    san: x509.SubjectAlternativeName | None,
    now: datetime,
    lifetime: timedelta,
    key_type: KeyType,
) -> Credential:
    check_pair(authority)
    issuer_key = keys.load(authority.key)
    issuer, *above = load_all(authority.certificate)
    key = keys.generate(key_type)
    # A leaf that outlives its CA fails on the CA's last day with an error that blames neither.
    end = min(now + lifetime, issuer.not_valid_after_utc)
    if end <= now:
        raise CertificateError(f"it expired on {end:%Y-%m-%d %H:%M} UTC")
    builder = (
        _builder(_name(name), issuer.subject, key, now, end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage("leaf"), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(_identifier(issuer), critical=False)
    )
    if san is not None:
        builder = builder.add_extension(san, critical=False)
    # Whoever trusts a self-signed root has it; to send it along would be for nothing.
    sent = [_signed(builder, issuer_key), *(one for one in (issuer, *above) if one.subject != one.issuer)]
    return Credential(b"".join(one.public_bytes(Encoding.PEM) for one in sent), keys.encode(key))


def _builder(
    subject: x509.Name, issuer: x509.Name, key: SigningKey, now: datetime, end: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now.astimezone(UTC) - CLOCK_TOLERANCE)
        .not_valid_after(end.astimezone(UTC))
    )


def _signed(builder: x509.CertificateBuilder, key: SigningKey) -> x509.Certificate:
    match key:
        case ed25519.Ed25519PrivateKey():
            return builder.sign(key, None)
        case ec.EllipticCurvePrivateKey() if key.curve.key_size > 256:
            return builder.sign(key, hashes.SHA384())
        case _:
            return builder.sign(key, hashes.SHA256())


def _identifier(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    try:
        known = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key())  # type: ignore[arg-type]
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(known)


def _key_usage(kind: Literal["authority", "leaf"]) -> x509.KeyUsage:
    authority = kind == "authority"
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str) -> x509.Name:
    try:
        return x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "fleet"),
                x509.NameAttribute(NameOID.COMMON_NAME, common_name),
            ]
        )
    except ValueError:
        raise CertificateError("a certificate's name has 1 to 64 characters") from None


def _general_name(entry: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(entry))
    except ValueError:
        return x509.DNSName(entry)
