"""Certificates that fleet would never make, and handshakes in memory."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from certs import keys
from certs.certificate import Credential
from certs.keys import SigningKey

NOW = datetime(2030, 5, 1, 12, 0, tzinfo=UTC)
CA = x509.BasicConstraints(ca=True, path_length=None)


def forge(
    name: str,
    *extensions: x509.ExtensionType,
    at: datetime,
    signer: Credential | None = None,
    key: SigningKey | None = None,
    days: float = 365,
) -> Credential:
    """A certificate with just these extensions, valid for `days` from `at`, self-signed without a `signer`."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    issuer = x509.load_pem_x509_certificate(signer.certificate).subject if signer else subject
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(at)
        .not_valid_after(at + timedelta(days=days))
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
    signing = keys.load(signer.key) if signer else key
    made = builder.sign(signing, None if isinstance(signing, ed25519.Ed25519PrivateKey) else hashes.SHA256())
    return Credential(made.public_bytes(Encoding.PEM), keys.encode(key))


def namesake(authority: Credential) -> Credential:
    """The same certificate in all but its key."""
    old = x509.load_pem_x509_certificate(authority.certificate)
    key = ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateBuilder(
        old.issuer, old.subject, key.public_key(), old.serial_number, old.not_valid_before_utc, old.not_valid_after_utc
    )
    for extension in old.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    return Credential(builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM), keys.encode(key))


def key_usage(*names: str) -> x509.KeyUsage:
    """The named bits and no others."""
    known = (
        *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
        *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
    )
    return x509.KeyUsage(**{name: name in names for name in known})


def context(
    folder: Path,
    side: str,
    credential: Credential | None,
    trust: bytes,
    version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
) -> ssl.SSLContext:
    """One end of mutual TLS; as Go and gRPC do, it takes an intermediate certificate for an anchor."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if side == "server" else ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = made.maximum_version = version
    made.verify_mode = ssl.CERT_REQUIRED
    made.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    made.load_verify_locations(cadata=trust.decode())
    if credential:
        file = folder / f"{side}.pem"
        file.write_bytes(credential.certificate + credential.key.reveal())
        made.load_cert_chain(file)
    return made


def shake_hands(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> str:
    """The TLS version that both ends agree on, after a byte each way; raises what either end complains of."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    near = client.wrap_bio(to_client, to_server, server_hostname=name)
    far = server.wrap_bio(to_server, to_client, server_side=True)
    steps: list[Callable[[], object]] = [near.do_handshake, far.do_handshake]
    # In TLS 1.3 a client learns of its refusal only when it reads.
    steps += [lambda: near.write(b"a"), lambda: far.read(1), lambda: far.write(b"b"), lambda: near.read(1)]
    while steps:
        stuck = True
        for step in list(steps):
            try:
                step()
            except ssl.SSLWantReadError:
                continue
            steps.remove(step)
            stuck = False
        if stuck and not (to_server.pending or to_client.pending):
            break
    return near.version() or "none"
