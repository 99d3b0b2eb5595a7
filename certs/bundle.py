"""The one file that gives a person or a CI job access: whom to trust, a client certificate, the nodes.

A bundle is one line of JSON whose last member is a checksum of all before it, so that what was cut off or changed on
its way is told from what is wrong:

    {"format":"fleet-bundle","version":1,"bundle":{…},"checksum":"…"}
    {"format":"fleet-bundle","version":1,"sealed":"…","checksum":"…"}

Sealed: base64 of salt, nonce and the same {…} under scrypt and AES-256-GCM, what stands before it authenticated, too.
The cost of scrypt belongs to the version: a file that could name its own could ask for any amount of memory.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import re
from base64 import b64decode, b64encode
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from certs.certificate import Credential, Role, describe, split_pem
from certs.checks import check_leaf
from certs.keys import CertificateError, Passphrase, PrivateKey

if TYPE_CHECKING:
    from collections.abc import Mapping

LIMIT = 1 << 20
"""Bytes: three times what a fleet of a thousand nodes needs."""

MOST_NODES = 2000

_PREFIX = b'{"format":"fleet-bundle","version":1,'
_VERSION = re.compile(rb'\{"format":"fleet-bundle","version":([1-9][0-9]{0,8}),')
_END = re.compile(rb'(?P<covered>.*),"checksum":"(?P<checksum>[0-9a-f]{64})"\}', re.DOTALL)
_OPEN = _PREFIX + b'"bundle":'
_SEALED = _PREFIX + b'"sealed":'

_SALT, _NONCE = 16, 12


class BundleError(ValueError):
    """A bundle that cannot be used or made; the text is one line and quotes nothing of what was read."""


@dataclass(frozen=True, slots=True)
class BundleNode:
    """A node as a client reaches it."""

    name: str
    address: str
    port: int
    names: tuple[str, ...]
    """What its certificate is valid for."""
    platforms: tuple[str, ...]
    """Such as linux/arm64."""


@dataclass(frozen=True, slots=True)
class BundleGateway:
    """A proxy before the nodes of an architecture, on the machines of some nodes."""

    hosts: tuple[str, ...]
    """Names of these nodes."""
    ports: Mapping[str, int]
    """Architecture, such as arm64 -> its port on each."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """Access of one client to one fleet."""

    fleet: str
    client: str
    issued: datetime
    trust: bytes
    """The CA certificates to trust (PEM), two during a rotation."""
    credential: Credential
    nodes: tuple[BundleNode, ...]
    gateway: BundleGateway | None = None


def pack(bundle: Bundle, passphrase: Passphrase | None = None) -> bytes:
    """The file's content, sealed if there is a passphrase; raises BundleError for what `unpack` would refuse."""
    content = _written(bundle)
    _read(content, bundle.issued)
    covered = _OPEN + content if passphrase is None else _SEALED + b'"%s"' % _seal(content, passphrase)
    packed = covered + b',"checksum":"%s"}\n' % _checksum(covered)
    if len(packed) > LIMIT:
        raise BundleError(f"the bundle is larger than {LIMIT >> 20} MiB")
    return packed


def is_sealed_bundle(packed: bytes) -> bool:
    """Whether `unpack` will ask for a passphrase."""
    return packed.lstrip().startswith(_SEALED)


def unpack(packed: bytes, passphrase: Passphrase | None = None, *, now: datetime) -> Bundle:
    """The bundle in a file's content, white space around it ignored; raises BundleError.

    Certificate and trust are checked as of `now`. A passphrase for a bundle that is not sealed is ignored.
    """
    try:
        return _read(_content(packed, passphrase), now)
    except BundleError as error:
        refusal = str(error)
    # Raised anew, so that no frame below, with what it has read, hangs on the error.
    raise BundleError(refusal)


def _content(packed: bytes, passphrase: Passphrase | None) -> bytes:
    if len(packed) > LIMIT:
        raise BundleError(f"the bundle is larger than {LIMIT >> 20} MiB")
    packed = packed.strip()
    version = _VERSION.match(packed)
    if version is None:
        raise BundleError("the file is no bundle, or its beginning is missing")
    if int(version[1]) > 1:
        raise BundleError(f"the bundle is of version {int(version[1])}, and this fleet reads version 1: upgrade it")
    end = _END.fullmatch(packed)
    if end is None:
        raise BundleError("the bundle is cut off: its end is missing")
    covered = end["covered"]
    if _checksum(covered) != end["checksum"]:
        raise BundleError("the bundle was changed after it was made: its checksum does not fit")
    if covered.startswith(_OPEN):
        return covered[len(_OPEN) :]
    if not covered.startswith(_SEALED):
        raise BundleError("the file is no bundle: it has no content")
    if passphrase is None:
        raise BundleError("the bundle is sealed: it needs its passphrase")
    return _unseal(covered[len(_SEALED) :], passphrase)


def _checksum(covered: bytes) -> bytes:
    return hashlib.sha256(covered).hexdigest().encode()


def _seal(content: bytes, passphrase: Passphrase) -> bytes:
    salt, nonce = os.urandom(_SALT), os.urandom(_NONCE)
    return b64encode(salt + nonce + _cipher(passphrase, salt).encrypt(nonce, content, _SEALED))


def _unseal(quoted: bytes, passphrase: Passphrase) -> bytes:
    try:
        sealed = b64decode(quoted.removeprefix(b'"').removesuffix(b'"'), validate=True)
        salt, nonce, box = sealed[:_SALT], sealed[_SALT : _SALT + _NONCE], sealed[_SALT + _NONCE :]
        return _cipher(passphrase, salt).decrypt(nonce, box, _SEALED)
    except (ValueError, InvalidTag):
        raise BundleError("the passphrase does not open the bundle, or somebody tampered with it") from None


def _cipher(passphrase: Passphrase, salt: bytes) -> AESGCM:
    # 128 MiB and half a second for each guess, OWASP's recommendation.
    return AESGCM(Scrypt(salt, length=32, n=1 << 17, r=8, p=1).derive(passphrase.reveal()))


# -------------------------------------------------------------------------------------------- content

_LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST_NAME = re.compile(rf"(?=.{{1,253}}\Z)({_LABEL}\.)*(?![0-9]+\Z){_LABEL}")


def _address(value: str) -> str:
    if not _HOST_NAME.fullmatch(value) and ("%" in value or str(ipaddress.ip_address(value)) != value):
        raise ValueError
    return value


def _certificates(value: str) -> str:
    return b"".join(split_pem(value.encode())).decode()


_Name = Annotated[str, StringConstraints(pattern=r"^([a-z][a-z0-9-]{0,38}[a-z0-9]|[a-z])$")]
_Address = Annotated[str, StringConstraints(max_length=253), AfterValidator(_address)]
_Platform = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]{1,16}/[a-z0-9_]{1,16}(/[a-z0-9.]{1,16})?$")]
_Architecture = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]{1,16}$")]
_Certificates = Annotated[str, AfterValidator(_certificates)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", hide_input_in_errors=True)


class _Node(_Strict):
    name: _Name
    address: _Address
    port: int = Field(ge=1, le=65535)
    names: tuple[_Address, ...] = Field(max_length=32)
    platforms: tuple[_Platform, ...] = Field(max_length=32)


class _Gateway(_Strict):
    hosts: tuple[_Name, ...] = Field(min_length=1, max_length=32)
    ports: dict[_Architecture, Annotated[int, Field(ge=1, le=65535)]] = Field(min_length=1, max_length=16)


class _Content(_Strict):
    fleet: _Name
    client: _Name
    issued: AwareDatetime
    trust: _Certificates
    certificate: _Certificates
    key: str = Field(repr=False)
    nodes: tuple[_Node, ...] = Field(max_length=MOST_NODES)
    gateway: _Gateway | None = None

    @model_validator(mode="after")
    def _names_go_together(self) -> _Content:
        names = {node.name for node in self.nodes}
        if len(names) < len(self.nodes) or (self.gateway and not names.issuperset(self.gateway.hosts)):
            raise ValueError
        return self

    def text(self) -> bytes:
        """The one form that is used."""
        return self.model_dump_json(exclude_none=True).encode()


def _written(bundle: Bundle) -> bytes:
    nodes = tuple(
        {
            "name": node.name,
            "address": node.address,
            "port": node.port,
            "names": node.names,
            "platforms": node.platforms,
        }
        for node in bundle.nodes
    )
    content: dict[str, Any] = {
        "fleet": bundle.fleet,
        "client": bundle.client,
        "issued": bundle.issued.astimezone(UTC),
        "trust": bundle.trust.decode(errors="replace"),
        "certificate": bundle.credential.certificate.decode(errors="replace"),
        "key": bundle.credential.key.reveal().decode(errors="replace"),
        "nodes": nodes,
    }
    if gateway := bundle.gateway:
        content["gateway"] = {"hosts": gateway.hosts, "ports": dict(gateway.ports)}
    try:
        return _Content.model_validate(content).text()
    except ValidationError as error:
        where = _where(error)
    raise BundleError(f"no bundle can be made: {where} is not as a bundle has it")


def _read(content: bytes, now: datetime) -> Bundle:
    try:
        parsed = _Content.model_validate_json(content)
    except ValidationError as error:
        where = _where(error)
        raise BundleError(f"the bundle holds what fleet does not write: {where} is not as it must be") from None
    # A key that stands there twice, for one, which readers understand differently.
    if parsed.text() != content:
        raise BundleError("the bundle holds what fleet does not write: its JSON is not in the one form that is used")
    trust = parsed.trust.encode()
    credential = Credential(parsed.certificate.encode(), PrivateKey(parsed.key.encode()))
    try:
        if any(describe(one).role is not Role.AUTHORITY for one in split_pem(trust)):
            raise BundleError("the bundle's trust holds a certificate that is no CA's")
        check_leaf(credential, Role.CLIENT, trust, now)
    except CertificateError as error:
        raise BundleError(f"the bundle's client certificate cannot be used: {error}") from None
    nodes = tuple(BundleNode(node.name, node.address, node.port, node.names, node.platforms) for node in parsed.nodes)
    gateway = BundleGateway(parsed.gateway.hosts, parsed.gateway.ports) if parsed.gateway else None
    return Bundle(parsed.fleet, parsed.client, parsed.issued, trust, credential, nodes, gateway)


def _where(error: ValidationError) -> str:
    """The path of the first complaint, without a key that fleet does not know: it may hold anything."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    path = first["loc"][:-1] if first["type"] == "extra_forbidden" else first["loc"]
    return ".".join(map(str, path)) or "its content"
