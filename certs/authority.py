"""A small certificate authority for mutual TLS: bytes in, bytes out, no files and no network.

The roles follow what Go's TLS stack, and so BuildKit, enforces: a certificate whose extended key usage is
serverAuth alone is refused as a client, and one with clientAuth alone is refused as a server.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Literal, NoReturn

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

if TYPE_CHECKING:
    from collections.abc import Sequence

AUTHORITY_LIFETIME = timedelta(days=3650)
"""Ten years: replacing a CA touches every node and client, so it should be a decision and not a deadline."""

LEAF_LIFETIME = timedelta(days=365)
"""A year: short enough that a lost key dies, long enough that a fleet left alone for months still works."""

RENEWAL_WINDOW = timedelta(days=30)
"""A certificate this close to its end is renewed: a month leaves room for holidays."""

CLOCK_TOLERANCE = timedelta(minutes=5)
"""How far not-before lies in the past, so that a host whose clock is slow accepts a new certificate."""


class Role(StrEnum):
    """What a certificate is good for."""

    AUTHORITY = "authority"
    NODE = "node"
    CLIENT = "client"
    UNKNOWN = "unknown"


class CertificateError(ValueError):
    """The bytes are no PEM certificate or key, or do not belong together."""


class PrivateKey:
    """A private key in PEM that never shows in a repr, a log, an exception or a pickle; `reveal` is the one way out."""

    __slots__ = ("_pem",)

    def __init__(self, pem: bytes) -> None:
        self._pem = pem

    def reveal(self) -> bytes:
        """The PEM bytes (PKCS #8, not encrypted)."""
        return self._pem

    def __repr__(self) -> str:
        return "PrivateKey(…)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PrivateKey) and self._pem == other._pem

    def __hash__(self) -> int:
        return hash(self._pem)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a private key is not to be pickled")


@dataclass(frozen=True, slots=True)
class Credential:
    """A certificate (PEM) with its private key."""

    certificate: bytes
    key: PrivateKey


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a certificate says; times in UTC, `serial` and `fingerprint` (SHA-256 of the DER) in hex."""

    subject: str
    issuer: str
    role: Role
    names: tuple[str, ...]
    serial: str
    fingerprint: str
    not_before: datetime
    not_after: datetime

    def days_left(self, now: datetime) -> int:
        """Whole days until it expires; negative once it has."""
        return (self.not_after - now) // timedelta(days=1)

    def needs_renewal(self, now: datetime, window: timedelta = RENEWAL_WINDOW) -> bool:
        """Whether it expires within `window`, or already has."""
        return self.not_after - now <= window


def create_authority(name: str, *, now: datetime, lifetime: timedelta = AUTHORITY_LIFETIME) -> Credential:
    """A self-signed CA that may sign leaves only (path length 0)."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _name(name)
    public = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    certificate = (
        _builder(subject, subject, key.public_key(), now, now + lifetime)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage("authority"), critical=True)
        .add_extension(public, critical=False)
        .sign(key, hashes.SHA256())
    )
    return _credential(certificate, key)


def issue_node(
    authority: Credential,
    name: str,
    *,
    names: Sequence[str],
    now: datetime,
    lifetime: timedelta = LEAF_LIFETIME,
) -> Credential:
    """A server certificate for `names` (DNS names and IP addresses); it cannot act as a client."""
    san = x509.SubjectAlternativeName([_general_name(entry) for entry in dict.fromkeys(names)])
    return _issue(authority, name, ExtendedKeyUsageOID.SERVER_AUTH, san, now, lifetime)


def issue_client(authority: Credential, name: str, *, now: datetime, lifetime: timedelta = LEAF_LIFETIME) -> Credential:
    """A client certificate; it cannot act as a server."""
    return _issue(authority, name, ExtendedKeyUsageOID.CLIENT_AUTH, None, now, lifetime)


def describe(certificate: bytes) -> Certificate:
    """Read a PEM or DER certificate; raises CertificateError when it is neither."""
    return _describe(_load_certificate(certificate))


def is_pair(credential: Credential) -> bool:
    """Whether the key belongs to the certificate; raises CertificateError for bytes that are neither."""
    public = _load_certificate(credential.certificate).public_key()
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return public.public_bytes(*form) == _load_key(credential.key).public_key().public_bytes(*form)


def is_issued_by(certificate: bytes, authority: bytes) -> bool:
    """Whether the signature of `certificate` was made with the key of `authority`; dates are not looked at."""
    try:
        _load_certificate(certificate).verify_directly_issued_by(_load_certificate(authority))
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _issue(
    authority: Credential,
    name: str,
    usage: x509.ObjectIdentifier,
    san: x509.SubjectAlternativeName | None,
    now: datetime,
    lifetime: timedelta,
) -> Credential:
    issuer = _load_certificate(authority.certificate)
    issuer_key = _load_key(authority.key)
    key = ec.generate_private_key(ec.SECP256R1())
    # A leaf that outlives its CA fails on the CA's last day with an error that blames neither.
    end = min(now + lifetime, issuer.not_valid_after_utc)
    issuer_id = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    builder = (
        _builder(_name(name), issuer.subject, key.public_key(), now, end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage("leaf"), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_id), critical=False)
    )
    if san is not None:
        builder = builder.add_extension(san, critical=False)
    return _credential(builder.sign(issuer_key, hashes.SHA256()), key)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, end: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now.astimezone(UTC) - CLOCK_TOLERANCE)
        .not_valid_after(end.astimezone(UTC))
    )


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
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "fleet"),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def _general_name(entry: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(entry))
    except ValueError:
        return x509.DNSName(entry)


def _credential(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Credential:
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Credential(certificate.public_bytes(serialization.Encoding.PEM), PrivateKey(pem))


def _load_certificate(data: bytes) -> x509.Certificate:
    try:
        if data.lstrip().startswith(b"-----BEGIN"):
            return x509.load_pem_x509_certificate(data)
        return x509.load_der_x509_certificate(data)
    except ValueError:
        raise CertificateError("not a certificate") from None


def _load_key(key: PrivateKey) -> ec.EllipticCurvePrivateKey:
    try:
        loaded = serialization.load_pem_private_key(key.reveal(), password=None)
    except (ValueError, TypeError):
        # The parser's own text may quote the input.
        raise CertificateError("not a private key") from None
    if not isinstance(loaded, ec.EllipticCurvePrivateKey):
        raise CertificateError("not an EC private key")
    return loaded


def _describe(certificate: x509.Certificate) -> Certificate:
    return Certificate(
        subject=_common_name(certificate.subject),
        issuer=_common_name(certificate.issuer),
        role=_role(certificate),
        names=_names(certificate),
        serial=f"{certificate.serial_number:x}",
        fingerprint=certificate.fingerprint(hashes.SHA256()).hex(),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
    )


def _common_name(name: x509.Name) -> str:
    values = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(values[0].value) if values else name.rfc4514_string()


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        san = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(str(entry.value) for entry in san)


def _role(certificate: x509.Certificate) -> Role:
    extensions = certificate.extensions
    try:
        if extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            return Role.AUTHORITY
        usages = set(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        return Role.UNKNOWN
    if usages == {ExtendedKeyUsageOID.SERVER_AUTH}:
        return Role.NODE
    if usages == {ExtendedKeyUsageOID.CLIENT_AUTH}:
        return Role.CLIENT
    return Role.UNKNOWN
