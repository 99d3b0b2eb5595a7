"""What it takes to speak to daemons, in a folder a fleet: a client certificate with its key, and whom it trusts.

Apart from the vault that makes and keeps them, which is slow to import: every build reads these.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from fleet.adapters import pem_files
from fleet.model.spec import NAME, TlsSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

TRUST, CLIENT = "ca.pem", "client.pem"

MEMBERSHIP = "membership.json"
"""What a bundle said of the fleet: it marks the folder of one that this machine has joined."""

OWN_CA = TlsSpec()


def home() -> Path:
    """FLEET_HOME, else fleet/ in the user's data directory (XDG_DATA_HOME, ~/.local/share)."""
    if configured := os.environ.get("FLEET_HOME"):
        return Path(configured).expanduser().absolute()
    return Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share").expanduser() / "fleet"


def joined() -> list[str]:
    """The fleets that this machine has joined."""
    with pem_files.translated():
        found = [folder.name for folder in home().glob("*") if (folder / MEMBERSHIP).is_file()]
    return sorted(name for name in found if NAME.fullmatch(name))


def has_joined(fleet: str) -> bool:
    """Whether this machine has joined it; `fleet` is a name that was checked."""
    return described(fleet).is_file()


def described(fleet: str) -> Path:
    """Where it is kept what the bundle said of a fleet."""
    return home() / fleet / MEMBERSHIP


class ClientFiles:
    """Of one fleet."""

    def __init__(self, directory: Path, tls: TlsSpec = OWN_CA) -> None:
        self.directory = directory
        self._tls = tls
        self._trust, self._client = directory / TRUST, directory / CLIENT

    @property
    def client_files(self) -> Mapping[str, str]:
        """`cacert`, `cert` and `key` as absolute paths: buildx's driver options."""
        cert = key = str(self._client)
        if pair := self._tls.client:
            cert, key = pair.cert, pair.key or pair.cert
        return {"cacert": str(self._trust), "cert": cert, "key": key}

    def has_client(self) -> bool:
        """Whether there is something to speak mutual TLS with; exposed files raise VaultError."""
        with pem_files.translated():
            if not all(Path(file).is_file() for file in self.client_files.values()):
                return False
            pem_files.refuse_exposed(self.directory, 0o700)
            pem_files.refuse_exposed(Path(self.client_files["key"]))
        return True
