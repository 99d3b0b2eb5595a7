"""What a vault signs with its CAs' keys, which may be sealed with a passphrase: asked for once, when it is needed."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import TYPE_CHECKING

from fleet.adapters import pem_files
from fleet.errors import VaultError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime
    from pathlib import Path

    from certs.certificate import Credential
    from certs.keys import KeyType, Passphrase, PrivateKey
    from fleet.model.spec import HostSpec, TlsSpec

_PASSPHRASE = "check FLEET_CA_PASSPHRASE or tls.ca_passphrase_command, or type it again"  # noqa: S105 - a sentence


class Signer:
    """Makes what the inventory wants of certificates; for any thread. Every method raises VaultError.

    `file` is always where an authority is from, for whoever is told what is wrong with it.
    """

    def __init__(self, tls: TlsSpec, ask: Callable[[], Passphrase]) -> None:
        self._tls, self._ask = tls, ask
        self._asking = threading.Lock()
        self._passphrase: Passphrase | None = None
        self._opened: dict[PrivateKey, PrivateKey] = {}

    @property
    def able(self) -> bool:
        """Whether there is a key to sign with."""
        return self._tls.ca is None or self._tls.ca.key is not None

    def authority(self, name: str, now: datetime) -> Credential:
        """A new CA of the fleet's own, its key in the clear."""
        from certs.authority import create_authority

        return create_authority(f"{name} CA", now=now, key_type=self._key_type())

    def check(self, file: Path, authority: Credential, now: datetime) -> None:
        """Refuse a CA that cannot sign now."""
        from certs.checks import check_authority

        with pem_files.named(file, "see fleet certs; is this machine's clock right?"):
            check_authority(authority, now)

    def client(self, file: Path, authority: Credential, name: str, now: datetime, lifetime: timedelta) -> Credential:
        """A client's certificate and key."""
        from certs.authority import issue_client

        signer = self._ready(file, authority, now)
        return issue_client(signer, name, now=now, lifetime=lifetime, key_type=self._key_type())

    def node(
        self, file: Path, authority: Credential, host: HostSpec, names: Sequence[str], now: datetime
    ) -> Credential:
        """A node's certificate and key, good for `names`."""
        from certs.authority import issue_node

        signer, lifetime = self._ready(file, authority, now), timedelta(days=self._tls.node_days)
        with pem_files.named(file, f"use a CA that may sign for it, or bring its certificate: hosts.{host.name}.tls"):
            return issue_node(signer, host.name, names=names, now=now, lifetime=lifetime, key_type=self._key_type())

    # ----------------------------------------------------------------------------------------- passphrase

    def open(self, file: Path, authority: Credential) -> Credential:
        """The same with its key in the clear."""
        from certs.certificate import Credential
        from certs.checks import check_pair
        from certs.keys import is_sealed, unseal_key

        if not is_sealed(authority.key):
            return authority
        with self._asking:
            if authority.key not in self._opened:
                if self._passphrase is None:
                    self._passphrase = self._ask()
                with pem_files.named(file, _PASSPHRASE):
                    key = unseal_key(authority.key, self._passphrase)
                    check_pair(Credential(authority.certificate, key))
                self._opened[authority.key] = key
            return Credential(authority.certificate, self._opened[authority.key])

    def seal_like(self, file: Path, authority: Credential, key: PrivateKey) -> PrivateKey:
        """Another key, sealed as the authority's is; a passphrase that does not open that one seals nothing."""
        from certs.keys import is_sealed, seal_key

        self.open(file, authority)
        return seal_key(key, self._passphrase) if self._passphrase and is_sealed(authority.key) else key

    def seal(self, file: Path, authority: Credential, passphrase: Passphrase | None) -> PrivateKey:
        """The authority's key sealed with another passphrase, or in the clear; if it is so already, it stays."""
        from certs.keys import CertificateError, is_sealed, seal_key, unseal_key

        if passphrase and is_sealed(authority.key):
            try:
                unseal_key(authority.key, passphrase)
            except CertificateError:
                pass
            else:
                return authority.key
        key = self.open(file, authority).key
        return seal_key(key, passphrase) if passphrase else key

    def sealed(self, passphrase: Passphrase | None) -> None:
        """Use this passphrase from now on; None: ask when it is needed."""
        self._passphrase = passphrase

    # ------------------------------------------------------------------------------------------------ parts

    def _ready(self, file: Path, authority: Credential, now: datetime) -> Credential:
        if not self.able:
            raise VaultError(
                f"{file} has no key here to sign with (tls.ca.key)",
                "give it, or bring what it would sign: tls.client, and tls of each host",
            )
        opened = self.open(file, authority)
        self.check(file, opened, now)
        return opened

    def _key_type(self) -> KeyType:
        from certs.keys import KeyType

        return KeyType(self._tls.key_type)
