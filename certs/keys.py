"""Private keys: made, loaded, sealed with a passphrase, and never shown."""

from __future__ import annotations

import os
from base64 import b64encode
from enum import StrEnum
from typing import NoReturn, TypeAlias

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from cryptography.hazmat.primitives.padding import PKCS7
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

SigningKey: TypeAlias = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


class KeyType(StrEnum):
    """The kinds of key that are made here; the first is small, quick and known everywhere."""

    P256 = "p256"
    P384 = "p384"
    RSA3072 = "rsa3072"


class CertificateError(ValueError):
    """Certificates or keys that cannot be used; the text is one line and quotes nothing of what was read."""


class _Secret:
    """Bytes that never show in a repr, a log, an exception or a pickle; `reveal` is the one way out."""

    __slots__ = ("_content",)

    def __init__(self, content: bytes) -> None:
        self._content = content

    def __repr__(self) -> str:
        return f"{type(self).__name__}(…)"

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and isinstance(other, _Secret) and self._content == other._content

    def __hash__(self) -> int:
        return hash(self._content)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not to be pickled")

    def reveal(self) -> bytes:
        """The bytes themselves."""
        return self._content


class PrivateKey(_Secret):
    """A private key in PEM: PKCS #8, PKCS #1 or SEC 1, in the clear or sealed with a passphrase."""

    __slots__ = ()


class Passphrase(_Secret):
    """What seals a key or a bundle, in UTF-8."""

    __slots__ = ()

    def __init__(self, text: str) -> None:
        """Raises CertificateError when it is empty."""
        if not text:
            raise CertificateError("the passphrase is empty")
        super().__init__(text.encode())


def generate(kind: KeyType) -> SigningKey:
    """A new key."""
    match kind:
        case KeyType.P256:
            return ec.generate_private_key(ec.SECP256R1())
        case KeyType.P384:
            return ec.generate_private_key(ec.SECP384R1())
        case KeyType.RSA3072:
            return rsa.generate_private_key(65537, 3072)


def encode(key: SigningKey) -> PrivateKey:
    """The key as PKCS #8 PEM, in the clear."""
    return PrivateKey(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def load(key: PrivateKey) -> SigningKey:
    """The key as `cryptography` has it; raises CertificateError for one that is sealed, torn or of an unfit kind."""
    if is_sealed(key):
        raise CertificateError("its key is sealed with a passphrase")
    return _parse(key, None)


def is_sealed(key: PrivateKey) -> bool:
    """Whether a passphrase is needed; the older form says it in a header."""
    return b"-----BEGIN ENCRYPTED PRIVATE KEY-----" in key.reveal() or b"Proc-Type: 4,ENCRYPTED" in key.reveal()


def unseal_key(key: PrivateKey, passphrase: Passphrase) -> PrivateKey:
    """The key in the clear; raises CertificateError for the wrong passphrase. One in the clear stays as it is."""
    return encode(_parse(key, passphrase)) if is_sealed(key) else key


def seal_key(key: PrivateKey, passphrase: Passphrase) -> PrivateKey:
    """The key as encrypted PKCS #8 (scrypt, AES-256-CBC), which openssl reads; raises CertificateError.

    Written here because `cryptography` seals PKCS #8 with 2,048 rounds of PBKDF2 and has no way to ask for more.
    """
    plain = load(key).private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    salt, iv = os.urandom(16), os.urandom(16)
    secret = Scrypt(salt, length=32, n=_SCRYPT_N, r=_SCRYPT_R, p=_SCRYPT_P).derive(passphrase.reveal())
    padder, cipher = PKCS7(128).padder(), Cipher(algorithms.AES(secret), modes.CBC(iv)).encryptor()
    sealed = cipher.update(padder.update(plain) + padder.finalize()) + cipher.finalize()
    cost = b"".join(_der(_INTEGER, _unsigned(number)) for number in (_SCRYPT_N, _SCRYPT_R, _SCRYPT_P))
    derivation = _der(_SEQUENCE, _SCRYPT, _der(_SEQUENCE, _der(_OCTETS, salt), cost))
    scheme = _der(_SEQUENCE, _PBES2, _der(_SEQUENCE, derivation, _der(_SEQUENCE, _AES256_CBC, _der(_OCTETS, iv))))
    return PrivateKey(_armour(_der(_SEQUENCE, scheme, _der(_OCTETS, sealed))))


def public_bytes(key: SigningKey) -> bytes:
    """The public half (DER), to compare with a certificate's."""
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _parse(key: PrivateKey, passphrase: Passphrase | None) -> SigningKey:
    # The parser's own texts may quote the input, and a traceback may show local variables: neither gets the content.
    try:
        loaded = serialization.load_pem_private_key(key.reveal(), passphrase.reveal() if passphrase else None)
    except UnsupportedAlgorithm:
        raise CertificateError("its key is of a kind that cannot be read here") from None
    except (ValueError, TypeError):
        # A sealed key that is torn cannot be told from a wrong passphrase.
        text = "not a private key" if passphrase is None else "the passphrase does not open its key"
        raise CertificateError(text) from None
    if not isinstance(loaded, SigningKey):
        raise CertificateError("its key is neither EC nor RSA nor Ed25519")
    return loaded


# RFC 5958 (EncryptedPrivateKeyInfo), RFC 8018 (PBES2) and RFC 7914 (scrypt), as far as they are written here.

# OWASP's strength for scrypt in the shape that needs 16 MiB: openssl refuses keys that need more than 32.
_SCRYPT_N, _SCRYPT_R, _SCRYPT_P = 1 << 14, 8, 5

_SEQUENCE, _OCTETS, _INTEGER = 0x30, 0x04, 0x02
_PBES2 = bytes.fromhex("06092a864886f70d01050d")
_SCRYPT = bytes.fromhex("06092b06010401da47040b")
_AES256_CBC = bytes.fromhex("060960864801650304012a")


def _der(tag: int, *parts: bytes) -> bytes:
    content = b"".join(parts)
    length = len(content)
    if length < 0x80:
        return bytes((tag, length)) + content
    size = (length.bit_length() + 7) // 8
    return bytes((tag, 0x80 | size)) + length.to_bytes(size, "big") + content


def _unsigned(number: int) -> bytes:
    return number.to_bytes(number.bit_length() // 8 + 1, "big")


def _armour(der: bytes) -> bytes:
    text = b64encode(der)
    lines = [text[start : start + 64] for start in range(0, len(text), 64)]
    return b"\n".join((b"-----BEGIN ENCRYPTED PRIVATE KEY-----", *lines, b"-----END ENCRYPTED PRIVATE KEY-----", b""))
