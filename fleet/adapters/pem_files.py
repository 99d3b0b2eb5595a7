"""Files of keys and certificates: read whole and unexposed or refused by name, replaced as a whole."""

from __future__ import annotations

import hashlib
import os
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from fleet.errors import VaultError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from certs.certificate import Credential
    from certs.keys import PrivateKey
    from fleet.model.spec import KeyPair

_Found = TypeVar("_Found")

UNFINISHED = ".*.new"
"""What a write that was killed leaves behind, beside the file that it was for; it may hold a key."""

_OTHERS = 0o077


@contextmanager
def translated() -> Iterator[None]:
    """What the file system refuses, as an error of the vault."""
    try:
        yield
    except OSError as error:
        raise VaultError(f"{error.filename}: {error.strerror}", "is FLEET_HOME right, and is it yours?") from error


@contextmanager
def named(file: Path | str, remedy: str) -> Iterator[None]:
    """What is wrong with keys and certificates, as an error of the vault that begins with the file."""
    from certs.keys import CertificateError

    try:
        yield
    except CertificateError as error:
        raise VaultError(f"{file} cannot be used: {error}", remedy) from None


def refuse_exposed(path: Path, mode: int = 0o600, *, known: str = "make a new CA") -> None:
    """Raise VaultError for what others could read or change; `known`: what to do if they have."""
    if path.stat().st_mode & _OTHERS:
        raise VaultError(
            f"{path} can be read by others (mode {path.stat().st_mode & 0o777:04o})",
            f"chmod {mode:o} {path}; if others may have read it, {known}",
        )


def read(path: Path) -> bytes | None:
    """What is in a file that only its owner may read; None: there is none."""
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    refuse_exposed(path)
    return content


def read_credential(path: Path, *, sealed: bool = False, anew: str = "") -> Credential | None:
    """Certificate and key of one file, which belong together; None: there is none.

    `sealed`: whether the key may be, in which case it is not compared. `anew`: how else than from a backup it is had.
    """
    from certs import certificate, keys
    from certs.checks import check_pair

    content = read(path)
    if content is None:
        return None
    with named(path, f"restore {path} from a backup{anew and f', or {anew}'}"):
        credential = certificate.read_credential(content)
        if not (sealed and keys.is_sealed(credential.key)):
            check_pair(credential)
    return credential


def read_pair(pair: KeyPair, place: str) -> Credential:
    """Certificate and key that the inventory names at `place`; only the file of the key has to be the owner's alone.

    Without a key there is, as if it were sealed, nothing to compare: see `no_key`.
    """
    from certs import certificate
    from certs.certificate import Credential

    files = dict.fromkeys(Path(path) for path in (pair.cert, pair.key) if path)
    try:
        contents = [path.read_bytes() for path in files]
        if pair.key:
            refuse_exposed(Path(pair.key))
    except OSError as error:
        raise VaultError(f"{error.filename}: {error.strerror}", f"see {place} in the inventory") from error
    with named(" and ".join(map(str, files)), f"see {place} in the inventory"):
        if pair.key is None:
            return Credential(b"".join(certificate.split_pem(contents[0])), no_key())
        return certificate.read_credential(*contents)


def no_key() -> PrivateKey:
    """What stands for the key of a CA that signs elsewhere: like a sealed one, it cannot be compared or used."""
    from certs.keys import PrivateKey

    return PrivateKey(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")


def steadily(paths: Sequence[Path], look: Callable[[], _Found]) -> _Found:
    """What files say together, even while another fleet is at work on them."""
    while True:
        before = _stamps(paths)
        try:
            found = look()
        except (VaultError, FileNotFoundError):
            if _stamps(paths) == before:
                raise
        else:
            if _stamps(paths) == before:
                return found


def _stamps(paths: Sequence[Path]) -> Sequence[tuple[Path, int, int]]:
    found = []
    for path in paths:
        with suppress(OSError):
            status = path.stat()
            found.append((path, status.st_ino, status.st_mtime_ns))
    return found


def write(path: Path, content: bytes) -> None:
    """Replace a file as a whole; mkstemp makes files 0600."""
    import tempfile

    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".new")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(temporary).unlink()
        raise
    settle(path.parent)


def settle(folder: Path) -> None:
    """Make renamed and removed files of a folder outlive a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_moment(path: Path, moment: datetime) -> None:
    """Store a moment, in whole seconds (RFC 3339, UTC), with what tells it from a changed one."""
    text = moment.astimezone(UTC).replace(microsecond=0).isoformat()
    write(path, f"{text} {checksum(text)}\n".encode())


def read_moment(path: Path) -> datetime | None:
    """What `write_moment` stored; None: nothing."""
    content = read(path)
    if content is None:
        return None
    text, _, told = content.decode(errors="replace").rstrip("\n").partition(" ")
    if told != checksum(text):
        raise VaultError(f"{path} is torn or was changed", f"remove {path}, then fleet certs rotate nodes")
    return datetime.fromisoformat(text)


def checksum(text: str) -> str:
    """What tells a short text that was stored from one that was changed."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
