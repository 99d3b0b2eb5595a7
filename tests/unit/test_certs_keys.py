"""Keys: every form that openssl writes is read, sealed ones are standard and open with their passphrase alone."""

from __future__ import annotations

import subprocess
import traceback

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa, x25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from certs import keys
from certs.authority import create_authority, issue_client
from certs.certificate import Credential, describe, is_pair, read_credential
from certs.keys import CertificateError, KeyType, Passphrase, PrivateKey, is_sealed, seal_key, unseal_key
from tests.support.tls import NOW

WORD = Passphrase("correct horse ü battery")
KEY = keys.encode(keys.generate(KeyType.P256))
SEALED = seal_key(KEY, WORD)
RSA = keys.encode(rsa.generate_private_key(65537, 2048))


def openssl(*arguments: str, given: bytes = b"") -> bytes:
    return subprocess.run(("openssl", *arguments), input=given, check=True, capture_output=True).stdout


# ------------------------------------------------------------------------------------------------- sealing


@pytest.mark.parametrize("kind", KeyType)
def test_a_sealed_key_opens_with_its_passphrase(kind: KeyType) -> None:
    key = keys.encode(keys.generate(kind))
    sealed = seal_key(key, WORD)
    assert (is_sealed(key), is_sealed(sealed)) == (False, True)
    assert unseal_key(sealed, WORD) == key


def test_openssl_opens_a_sealed_key() -> None:
    opened = openssl("pkey", "-passin", f"pass:{WORD.reveal().decode()}", given=SEALED.reveal())
    assert opened == KEY.reveal()


def test_the_seal_is_scrypt_and_aes_256_of_owasps_strength() -> None:
    shown = openssl("asn1parse", given=SEALED.reveal()).decode()
    assert [word for word in ("PBES2", "1.3.6.1.4.1.11591.4.11", "scrypt", "aes-256-cbc") if word in shown] in (
        ["PBES2", "scrypt", "aes-256-cbc"],
        ["PBES2", "1.3.6.1.4.1.11591.4.11", "aes-256-cbc"],
    )
    numbers = [int(line.rpartition(":")[2], 16) for line in shown.splitlines() if "INTEGER" in line]
    assert numbers == [1 << 14, 8, 5]


def test_no_two_seals_are_alike() -> None:
    assert seal_key(KEY, WORD) != SEALED


@pytest.mark.parametrize(
    "form",
    [
        pytest.param(("pkcs8", "-topk8", "-v2", "aes-256-cbc"), id="PBKDF2"),
        pytest.param(("pkcs8", "-topk8", "-scrypt"), id="scrypt"),
        pytest.param(("ec", "-aes256"), id="the older form"),
    ],
)
def test_keys_that_openssl_sealed_open(form: tuple[str, ...]) -> None:
    sealed = PrivateKey(openssl(*form, "-passout", "pass:open sesame", given=KEY.reveal()))
    assert is_sealed(sealed)
    assert unseal_key(sealed, Passphrase("open sesame")) == KEY
    with pytest.raises(CertificateError, match=r"^the passphrase does not open its key$"):
        unseal_key(sealed, WORD)


@pytest.mark.parametrize("word", ["correct horse ü batterz", "CORRECT HORSE Ü BATTERY", " ", "x" * 5000])
def test_another_passphrase_opens_nothing(word: str) -> None:
    with pytest.raises(CertificateError, match=r"^the passphrase does not open its key$"):
        unseal_key(SEALED, Passphrase(word))


@pytest.mark.parametrize("cut", [60, 120, 200])
def test_a_torn_sealed_key_opens_with_nothing(cut: int) -> None:
    with pytest.raises(CertificateError, match=r"^the passphrase does not open its key$"):
        unseal_key(PrivateKey(SEALED.reveal()[:cut]), WORD)


def test_a_key_in_the_clear_needs_no_passphrase() -> None:
    assert unseal_key(KEY, WORD) is KEY


def test_a_sealed_key_is_not_sealed_again() -> None:
    with pytest.raises(CertificateError, match=r"^its key is sealed with a passphrase$"):
        seal_key(SEALED, WORD)


def test_nothing_is_signed_with_a_sealed_key_and_all_else_is_read() -> None:
    authority = create_authority("acme CA", now=NOW)
    sealed = Credential(authority.certificate, seal_key(authority.key, WORD))
    assert describe(sealed.certificate) == describe(authority.certificate)
    with pytest.raises(CertificateError, match=r"^its key is sealed with a passphrase$"):
        issue_client(sealed, "c", now=NOW)
    opened = Credential(sealed.certificate, unseal_key(sealed.key, WORD))
    assert is_pair(issue_client(opened, "c", now=NOW))


def test_a_passphrase_is_not_empty() -> None:
    with pytest.raises(CertificateError, match="empty"):
        Passphrase("")


def test_a_passphrase_never_shows() -> None:
    assert repr(WORD) == str(WORD) == f"{WORD}" == "Passphrase(…)"
    assert PrivateKey(WORD.reveal()) != WORD
    try:
        unseal_key(SEALED, Passphrase("hunter2"))
    except CertificateError as error:
        shown = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
        assert "hunter2" not in shown.replace('Passphrase("hunter2")', "")
        assert SEALED.reveal().splitlines()[1].decode() not in shown


# ------------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize(
    ("key", "form", "begins"),
    [
        pytest.param(KEY, PrivateFormat.PKCS8, b"-----BEGIN PRIVATE KEY", id="PKCS 8"),
        pytest.param(KEY, PrivateFormat.TraditionalOpenSSL, b"-----BEGIN EC PRIVATE KEY", id="SEC 1"),
        pytest.param(RSA, PrivateFormat.TraditionalOpenSSL, b"-----BEGIN RSA PRIVATE KEY", id="PKCS 1"),
        pytest.param(RSA, PrivateFormat.PKCS8, b"-----BEGIN PRIVATE KEY", id="RSA in PKCS 8"),
    ],
)
def test_every_form_of_a_key_is_read(key: PrivateKey, form: PrivateFormat, begins: bytes) -> None:
    content = keys.load(key).private_bytes(Encoding.PEM, form, NoEncryption())
    assert content.startswith(begins)
    assert keys.encode(keys.load(PrivateKey(content))) == key
    assert not is_sealed(PrivateKey(content))


def test_a_key_with_openssls_parameters_before_it_is_read() -> None:
    content = openssl("ecparam", "-genkey", "-name", "prime256v1")
    assert b"EC PARAMETERS" in content
    authority = create_authority("x", now=NOW)
    found = read_credential(authority.certificate, content).key
    assert isinstance(keys.load(found), ec.EllipticCurvePrivateKey)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        pytest.param(b"", "not a private key", id="nothing"),
        pytest.param(KEY.reveal()[:100], "not a private key", id="torn"),
        pytest.param(
            x25519.X25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            "its key is neither EC nor RSA nor Ed25519",
            id="a key that signs nothing",
        ),
        pytest.param(SEALED.reveal(), "its key is sealed with a passphrase", id="sealed"),
    ],
)
def test_what_is_no_usable_key_is_refused(content: bytes, complaint: str) -> None:
    with pytest.raises(CertificateError, match=f"^{complaint}$"):
        keys.load(PrivateKey(content))


AUTHORITY = create_authority("acme CA", now=NOW)


def test_one_file_or_two_make_a_credential() -> None:
    both = AUTHORITY.certificate + AUTHORITY.key.reveal()
    assert read_credential(both) == AUTHORITY
    assert read_credential(AUTHORITY.key.reveal() + AUTHORITY.certificate) == AUTHORITY
    assert read_credential(AUTHORITY.certificate, AUTHORITY.key.reveal()) == AUTHORITY
    assert read_credential(b"  subject=acme\n" + both.replace(b"\n", b"\r\n")) == AUTHORITY


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        pytest.param(AUTHORITY.certificate, "there is no private key", id="no key"),
        pytest.param(AUTHORITY.key.reveal(), "not a certificate", id="no certificate"),
        pytest.param(
            AUTHORITY.certificate + KEY.reveal() + RSA.reveal(), "there is more than one private key", id="two"
        ),
        pytest.param(AUTHORITY.certificate + KEY.reveal()[:-30], "there is no private key", id="a torn key"),
        pytest.param(AUTHORITY.certificate[:-30] + KEY.reveal(), "not a certificate", id="a torn certificate"),
        pytest.param(
            AUTHORITY.certificate + AUTHORITY.certificate[:200] + b"\n" + KEY.reveal(),
            "(not a certificate|one of its certificates is cut off)",
            id="a torn chain",
        ),
    ],
)
def test_what_is_no_credential_is_refused(content: bytes, complaint: str) -> None:
    with pytest.raises(CertificateError, match=f"^{complaint}$"):
        read_credential(content)


def test_serialization_of_the_library_is_weaker_than_ours() -> None:
    """When this fails, `cryptography` seals as well as we do, and `seal_key` is one line."""
    key = keys.load(KEY)
    library = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x"))
    assert "INTEGER           :0800" in openssl("asn1parse", given=library).decode()
