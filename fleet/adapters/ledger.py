"""The certificates that clients were given, without their keys: clients/NAME-SERIAL.pem, later perhaps .revoked.

After the certificate stands how long access was asked for: where the CA ended earlier, the certificate does not tell.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from fleet.adapters import pem_files
from fleet.errors import VaultError
from fleet.model.facts import CertificateFacts
from fleet.model.vault import Asked, ClientFacts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from fleet.adapters.authorities import Authorities

LIVE, REVOKED = ".pem", ".revoked"

_SECOND = timedelta(seconds=1)
_FORM = "%Y-%m-%dT%H:%M:%SZ"
_ASKED = re.compile(r"(asked: ([0-9]{1,12}) s, until ([0-9-]{10}T[0-9:]{8}Z)) ([0-9a-f]{16})\n")


@dataclass(frozen=True, slots=True)
class Ledger:
    """The entries of one folder, which need not exist."""

    folder: Path

    def remember(self, name: str, certificate: bytes, asked: Asked) -> None:
        """Add a certificate that was issued to `name`; `asked` is kept to the second."""
        from certs.certificate import describe

        self.folder.mkdir(mode=0o700, exist_ok=True)
        line = f"asked: {asked.lifetime // _SECOND} s, until {asked.until.astimezone(UTC):{_FORM}}"
        content = certificate + f"{line} {pem_files.checksum(line)}\n".encode()
        pem_files.write(self.folder / f"{name}-{describe(certificate).serial}{LIVE}", content)

    def entries(self, known: Authorities | None) -> dict[Path, ClientFacts]:
        """What is remembered, by name, the oldest first; raises VaultError for what `known` did not issue."""
        found = [(path, _facts(path, content, known)) for path, content in self._contents()] if known else []
        return dict(sorted(found, key=lambda entry: (entry[1].name, entry[1].certificate.issued, entry[0])))

    def revoke(self, path: Path) -> None:
        """Mark an entry."""
        path.rename(path.with_suffix(REVOKED))
        pem_files.settle(self.folder)

    def forget(self, unwanted: Callable[[bytes], bool]) -> None:
        """Remove the entries whose certificates are `unwanted`."""
        for path, content in self._contents():
            if unwanted(content):
                path.unlink()

    def _contents(self) -> Iterator[tuple[Path, bytes]]:
        for path in sorted(self.folder.glob("*-*")):
            if path.suffix in {LIVE, REVOKED} and (content := pem_files.read(path)) is not None:
                yield path, content


def _facts(path: Path, content: bytes, known: Authorities) -> ClientFacts:
    from certs.certificate import Role, describe

    remedy = f"restore {path} from a backup; without it nobody knows who has that certificate"
    with pem_files.named(path, remedy):
        described, asked = describe(content), _asked(content)
    issuer = known.issuer_of(content)
    if issuer is None or described.role is not Role.CLIENT or path.stem != f"{described.subject}-{described.serial}":
        raise VaultError(f"{path} is not the certificate of that client and this vault's CA", remedy)
    certificate = CertificateFacts.of(described)
    return ClientFacts(described.subject, certificate, issuer, asked, path.suffix == REVOKED)


def _asked(content: bytes) -> Asked:
    """Raises CertificateError."""
    from certs.keys import CertificateError

    found = _ASKED.fullmatch(content.rpartition(b"-----\n")[2].decode(errors="replace"))
    if found is None or pem_files.checksum(found[1]) != found[4]:
        raise CertificateError("it does not say how long access was asked for")
    return Asked(timedelta(seconds=int(found[2])), datetime.strptime(found[3], _FORM).replace(tzinfo=UTC))
