"""The operator's keys and certificates as files: one directory a fleet (0700), files 0600, written atomically.

    authority.pem   the CA's certificate and key
    ca.pem          what clients and nodes trust
    client.pem      the operator's certificate and key

A certificate and its key share a file, so that neither a crash nor a dial in the middle of a renewal ever sees a
mismatched pair; BuildKit's, buildx's and Python's TLS all read both from one PEM file.
"""

from __future__ import annotations

import fcntl
import os
import re
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fleet.errors import VaultError
from fleet.model import CertificateFacts, VaultFacts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime

    from certs.authority import Credential

_OTHERS = 0o077


@contextmanager
def _translated() -> Iterator[None]:
    """What the file system refuses, as an error of the vault."""
    try:
        yield
    except TimeoutError:
        raise  # the lock's own
    except OSError as error:
        raise VaultError(f"{error.filename}: {error.strerror}", "is FLEET_HOME right, and is it yours?") from error


def home() -> Path:
    """FLEET_HOME, else fleet/ in the user's data directory (XDG_DATA_HOME, ~/.local/share)."""
    if configured := os.environ.get("FLEET_HOME"):
        return Path(configured).expanduser().absolute()
    return Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share").expanduser() / "fleet"


class FileVault:
    """The vault of one fleet."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._authority = directory / "authority.pem"
        self._trust = directory / "ca.pem"
        self._client = directory / "client.pem"

    @property
    def client_files(self) -> Mapping[str, str]:
        """`cacert`, `cert` and `key` as absolute paths: buildx's driver options."""
        return {"cacert": str(self._trust), "cert": str(self._client), "key": str(self._client)}

    def has_client(self) -> bool:
        """Whether there is something to speak mutual TLS with; exposed files raise VaultError."""
        with _translated():
            if not (self._client.is_file() and self._trust.is_file()):
                return False
        _refuse_exposed(self.directory, 0o700)
        _refuse_exposed(self._client, 0o600)
        return True

    @_translated()
    def read(self) -> VaultFacts:
        """What there is; torn, mismatched or exposed files raise VaultError, an absent vault does not."""
        from certs.authority import Role, describe, is_issued_by

        if not self.directory.exists():
            return VaultFacts(None, None, None, self.client_files)
        _refuse_exposed(self.directory, 0o700)
        authority = self._read_credential(self._authority)
        if authority is None:
            if self._client.exists():
                raise VaultError(
                    f"{self._client} is there but {self._authority.name} is not",
                    f"restore {self._authority} from a backup, or move {self.directory} away to start a new fleet",
                )
            return VaultFacts(None, None, None, self.client_files)
        if not self._trust.is_file() or self._trust.read_bytes() != authority.certificate:
            raise VaultError(
                f"{self._trust} is not the certificate in {self._authority.name}",
                f"restore {self.directory} from a backup",
            )
        client = self._read_credential(self._client)
        if client is not None and not (
            is_issued_by(client.certificate, authority.certificate) and describe(client.certificate).role is Role.CLIENT
        ):
            raise VaultError(
                f"{self._client} is not a client certificate of this vault's CA",
                f"move {self._client} away and run fleet up",
            )
        described = describe(authority.certificate)
        return VaultFacts(
            authority=CertificateFacts(described.serial, described.not_after),
            authority_fingerprint=described.fingerprint,
            client=None if client is None else _facts(client),
            driver_options=self.client_files,
        )

    @_translated()
    def create_authority(self, name: str, now: datetime) -> None:
        """Make the fleet's CA; raises VaultError rather than replace one."""
        from certs.authority import create_authority

        if self._authority.exists():
            raise VaultError(f"{self._authority} exists already", "run fleet plan again")
        authority = create_authority(f"{name} CA", now=now)
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write(self._trust, authority.certificate)
        _write(self._authority, authority.certificate + authority.key.reveal())

    @_translated()
    def issue_client(self, name: str, now: datetime) -> None:
        """Make or renew the operator's client certificate."""
        from certs.authority import issue_client

        client = issue_client(self._signer(), name, now=now)
        _write(self._client, client.certificate + client.key.reveal())

    @_translated()
    def issue_node(self, name: str, names: Sequence[str], now: datetime) -> tuple[Credential, bytes]:
        """A node's certificate and key, not kept here, and the CA certificates that it is to trust."""
        from certs.authority import issue_node

        signer = self._signer()
        return issue_node(signer, name, names=names, now=now), self._trust.read_bytes()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the vault against a second fleet on this machine; raises VaultError at once when it is held."""
        path = self.directory / "lock"
        with _translated():
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            try:
                # The kernel lets go of it when its holder ends, however it ends.
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise VaultError(
                    f"another fleet up or fleet down is at work on {self.directory.name} (it holds {path})",
                    "wait for it to end",
                ) from error
            yield
        finally:
            os.close(lock)

    def _signer(self) -> Credential:
        authority = self._read_credential(self._authority)
        if authority is None:
            raise VaultError(f"{self._authority} is missing", "only the operator who has it can issue certificates")
        return authority

    def _read_credential(self, path: Path) -> Credential | None:
        from certs.authority import CertificateError, Credential, PrivateKey, is_pair

        if not path.is_file():
            return None
        _refuse_exposed(path, 0o600)
        content = path.read_bytes()
        blocks = {kind: block for block, kind in _PEM.findall(content)}
        credential = Credential(
            blocks.get(b"CERTIFICATE", b"") + b"\n", PrivateKey(blocks.get(b"PRIVATE KEY", b"") + b"\n")
        )
        try:
            if is_pair(credential):
                return credential
            problem = "its key does not belong to its certificate"
        except CertificateError as error:
            problem = str(error)
        raise VaultError(f"{path} cannot be used: {problem}", f"restore {path} from a backup")


_PEM = re.compile(rb"(-----BEGIN ([A-Z ]+)-----.*?-----END \2-----)", re.DOTALL)


def _facts(credential: Credential) -> CertificateFacts:
    from certs.authority import describe

    described = describe(credential.certificate)
    return CertificateFacts(described.serial, described.not_after, described.names)


def _refuse_exposed(path: Path, mode: int) -> None:
    if path.stat().st_mode & _OTHERS:
        raise VaultError(
            f"{path} can be read by others (mode {path.stat().st_mode & 0o777:04o})",
            f"chmod {mode:o} {path}; if others may have read it, make a new CA",
        )


def _write(path: Path, content: bytes) -> None:
    """Replace `path` as a whole; mkstemp makes files 0600."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink()
        raise
