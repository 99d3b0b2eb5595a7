"""Certificates read: what they say, who issued them, and whose key they carry; no passphrase is needed for that."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from certs import keys
from certs.keys import CertificateError, PrivateKey

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)


class Role(StrEnum):
    """What a certificate is good for; unknown: neither of them, or more than one."""

    AUTHORITY = "authority"
    NODE = "node"
    CLIENT = "client"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Credential:
    """A certificate in PEM, followed by those of its issuers that are to be sent along, with its private key."""

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
    key_type: str
    """Such as p256, rsa3072 or ed25519."""


def describe(certificate: bytes) -> Certificate:
    """Read a DER certificate or the first of a PEM chain; raises CertificateError when it is neither."""
    loaded = load(certificate)
    return Certificate(
        subject=_common_name(loaded.subject),
        issuer=_common_name(loaded.issuer),
        role=_role(loaded),
        names=_names(loaded),
        serial=f"{loaded.serial_number:x}",
        fingerprint=loaded.fingerprint(hashes.SHA256()).hex(),
        not_before=loaded.not_valid_before_utc,
        not_after=loaded.not_valid_after_utc,
        key_type=key_type(loaded),
    )


def read_credential(*files: bytes) -> Credential:
    """The certificates, in their order, and the one key that PEM files hold together; raises CertificateError.

    Key and certificate are not compared: a sealed key could not be.
    """
    content = b"\n".join(files).replace(b"\r\n", b"\n")
    blocks = [(match[1], match[0] + b"\n") for match in _BLOCK.finditer(content)]
    private = [block for kind, block in blocks if kind.endswith(b"PRIVATE KEY")]
    if len(private) != 1:
        raise CertificateError("there is no private key" if not private else "there is more than one private key")
    return Credential(b"".join(split_pem(content)), PrivateKey(private[0]))


def split_pem(pem: bytes) -> tuple[bytes, ...]:
    """Each certificate of a chain or trust file as PEM of its own, in order; raises CertificateError for torn ones."""
    return tuple(certificate.public_bytes(Encoding.PEM) for certificate in load_all(pem))


def anchor(pem: bytes) -> bytes:
    """Of an authority's chain the certificate that signs, which alone is what nodes and clients are to trust.

    BuildKit knows no roles: who trusts the root above lets everyone build whom that root has ever had certified.
    """
    return split_pem(pem)[0]


def is_pair(credential: Credential) -> bool:
    """Whether the key belongs to the (first) certificate; raises CertificateError for bytes that are neither."""
    public = load(credential.certificate).public_key()
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return public.public_bytes(*form) == keys.load(credential.key).public_key().public_bytes(*form)


def is_issued_by(certificate: bytes, anchors: bytes) -> bool:
    """Whether the key of one of `anchors` (PEM) signed the (first) certificate; dates are not looked at."""
    try:
        loaded, issuers = load(certificate), load_all(anchors)
    except CertificateError:
        return False
    return any(signed(loaded, issuer) for issuer in issuers)


def signed(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether `issuer` is the one whom `certificate` names as its issuer, and signed it."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def load(certificate: bytes) -> x509.Certificate:
    """The DER certificate, or the first of a PEM chain, as `cryptography` has it; raises CertificateError."""
    if certificate.lstrip().startswith(b"-----BEGIN"):
        return load_all(certificate)[0]
    return _sound(lambda: [x509.load_der_x509_certificate(certificate)])[0]


def load_all(pem: bytes) -> list[x509.Certificate]:
    """All certificates of a PEM file, at least one; raises CertificateError."""
    loaded = _sound(lambda: x509.load_pem_x509_certificates(pem))
    # What is cut off at the end would go unnoticed.
    if len(loaded) < pem.count(b"-----BEGIN CERTIFICATE-----"):
        raise CertificateError("one of its certificates is cut off")
    return loaded


def _sound(read: Callable[[], list[x509.Certificate]]) -> list[x509.Certificate]:
    """Certificates of which each part can be read, which `cryptography` otherwise finds out when it is asked."""
    try:
        loaded = read()
        for certificate in loaded:
            _ = certificate.subject, certificate.issuer, certificate.extensions, certificate.public_key()
    # Where warnings are errors: of a serial number or a name such as no CA gives.
    except (ValueError, Warning, x509.DuplicateExtension, x509.InvalidVersion, x509.UnsupportedGeneralNameType):
        raise CertificateError("not a certificate") from None
    except UnsupportedAlgorithm:
        raise CertificateError("its key is of a kind that cannot be read here") from None
    return loaded


def may_certify(certificate: x509.Certificate) -> bool:
    """Whether it is an authority's: basicConstraints say so."""
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _role(certificate: x509.Certificate) -> Role:
    if may_certify(certificate):
        return Role.AUTHORITY
    try:
        usages = set(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        return Role.UNKNOWN
    if usages == {ExtendedKeyUsageOID.SERVER_AUTH}:
        return Role.NODE
    if usages == {ExtendedKeyUsageOID.CLIENT_AUTH}:
        return Role.CLIENT
    return Role.UNKNOWN


def _common_name(name: x509.Name) -> str:
    values = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(values[0].value) if values else name.rfc4514_string()


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        san = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(str(entry.value) for entry in san)


_CURVES = {"secp256r1": "p256", "secp384r1": "p384", "secp521r1": "p521"}


def key_type(certificate: x509.Certificate) -> str:
    """Such as p256, rsa3072 or ed25519."""
    match certificate.public_key():
        case ec.EllipticCurvePublicKey() as key:
            return _CURVES.get(key.curve.name, key.curve.name)
        case rsa.RSAPublicKey() as key:
            return f"rsa{key.key_size}"
        case key:
            return type(key).__name__.removesuffix("PublicKey").lower()
