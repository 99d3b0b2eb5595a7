"""The operator's keys and certificates as files: one directory a fleet (0700), files 0600, each replaced as a whole.

    authority.pem, next.pem, previous.pem, ca.pem   the CAs: see `authorities`
    client.pem                                      the operator's certificate and key
    clients/                                        certificates that were handed out: see `ledger`
    nodes-since                                     the moment from which nodes' certificates have to be

A certificate and its key share a file, so that neither a crash nor a dial in the middle of a renewal ever sees a
mismatched pair; BuildKit's, buildx's and Python's TLS all read both from one PEM file.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar

from certs.lifetimes import MEMORY
from fleet.adapters import authorities, brought, lock, pem_files
from fleet.adapters.authorities import AUTHORITY, CLIENTS, NEXT, PREVIOUS, Authorities
from fleet.adapters.client_files import OWN_CA, ClientFiles
from fleet.adapters.ledger import Ledger
from fleet.adapters.signing import Signer
from fleet.errors import VaultError
from fleet.model.facts import CertificateFacts
from fleet.model.spec import NAME, TlsSpec
from fleet.model.vault import Asked, Rotation, VaultFacts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager
    from datetime import datetime

    from certs.certificate import Credential
    from certs.keys import Passphrase
    from fleet.model.spec import HostSpec
    from fleet.model.vault import ClientFacts

_Found = TypeVar("_Found")


def _no_passphrase() -> NoReturn:
    raise VaultError("the key of the CA is sealed, and there is nobody to ask", "set FLEET_CA_PASSPHRASE")


class FileVault(ClientFiles):
    """The vault of one fleet.

    `hosts`: those whose certificates the inventory may bring. `passphrase` is asked once, when something is to be
    signed and the CA's key is sealed.
    """

    def __init__(
        self,
        directory: Path,
        tls: TlsSpec = OWN_CA,
        hosts: Sequence[HostSpec] = (),
        *,
        passphrase: Callable[[], Passphrase] = _no_passphrase,
    ) -> None:
        super().__init__(directory, tls)
        self._hosts = hosts
        self._authority, self._next, self._previous = directory / AUTHORITY, directory / NEXT, directory / PREVIOUS
        self._since = directory / "nodes-since"
        self._ledger = Ledger(directory / CLIENTS)
        self._signer = Signer(tls, passphrase)

    @pem_files.translated()
    def read(self) -> VaultFacts:
        """What there is; torn, mismatched or exposed files raise VaultError, an absent vault does not."""
        return self._steadily(self._read)

    @pem_files.translated()
    def clients(self) -> tuple[ClientFacts, ...]:
        """What `issue_bundle_credential` made and has not been forgotten, by name, the oldest first."""
        return tuple(self._steadily(lambda: self._ledger.entries(self._authorities())).values())

    @pem_files.translated()
    def unlock(self) -> None:
        """Ask for the passphrase now if the CA's key is sealed, rather than at the first signature."""
        if self._signer.able and (known := self._authorities()):
            for path, credential in self._keys(known):
                self._signer.open(path, credential)

    # -------------------------------------------------------------------------------------------- issuing

    @pem_files.translated()
    def create_authority(self, name: str, now: datetime) -> None:
        """Make the fleet's CA, or take up the inventory's; raises VaultError rather than replace one."""
        if self._authorities() is not None:
            raise VaultError(f"{self._issuing} exists already", "run fleet plan again")
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        known = self._found()
        if known is None:
            made = self._signer.authority(name, now)
            pem_files.write(self._authority, made.certificate + made.key.reveal())
            known = Authorities(made)
        self._signer.check(self._issuing, known.issuing, now)
        pem_files.write(self._trust, known.clients_trust)

    @pem_files.translated()
    def issue_client(self, name: str, now: datetime, *, coming: bool = False) -> None:
        """Make or renew the operator's client certificate; `coming`: by the CA that is to take over."""
        client = self._issue_client(self._known(), name, now, timedelta(days=self._tls.client_days), coming=coming)
        pem_files.write(self._client, client.certificate + client.key.reveal())

    @pem_files.translated()
    def issue_bundle_credential(
        self,
        name: str,
        now: datetime,
        *,
        lifetime: timedelta,
        until: datetime | None = None,
        coming: bool = False,
    ) -> tuple[Credential, bytes]:
        """Another client's certificate and key, not kept, and the CA certificates that it is to trust (PEM).

        It ends at `until`, if that is given; `lifetime` is remembered for when it is prolonged.
        """
        if not NAME.fullmatch(name) or name == "operator":
            raise VaultError(
                f"{name!r} cannot be a client's name",
                "1 to 40 of a-z, 0-9 and -, beginning with a letter; operator is this machine's own",
            )
        known = self._known()
        asked = Asked(lifetime, until or now + lifetime)
        credential = self._issue_client(known, name, now, asked.until - now, coming=coming)
        # It is known who may have a certificate before anybody has it.
        self._ledger.remember(name, credential.certificate, asked)
        for path, entry in self._ledger.entries(known).items():
            if now - entry.certificate.expires > MEMORY:
                path.unlink()
        return credential, known.clients_trust

    @pem_files.translated()
    def issue_node(self, host: HostSpec, names: Sequence[str], now: datetime) -> tuple[Credential, bytes]:
        """A node's certificate and key, not kept here, and the CA certificates that it is to trust (PEM).

        A host that brings its own certificate gets that one, if it is good for the host's address.
        """
        known = self._known()
        issued = brought.node(host, known.nodes_trust, now) or self._signer.node(
            self._issuing, known.issuing, host, names, now
        )
        return issued, known.nodes_trust

    # -------------------------------------------------------------------------- renewing, rotating, withdrawing

    @pem_files.translated()
    def revoke(self, name: str, now: datetime) -> None:
        """Remember that what is still valid of NAME's is not to be used; exchanging the CA is what enforces it."""
        entries = self._ledger.entries(self._authorities())
        if not any(one.name == name for one in entries.values()):
            names = ", ".join(dict.fromkeys(one.name for one in entries.values()))
            raise VaultError(f"no certificate was issued to {name!r}", f"one of: {names}" if names else None)
        for path, one in entries.items():
            if one.name == name and not one.revoked and one.certificate.expires > now:
                self._ledger.revoke(path)

    @pem_files.translated()
    def renew_nodes(self, since: datetime) -> None:
        """Remember that every node is to have a certificate that was issued at `since` or later, to the second."""
        self._known()
        pem_files.write_moment(self._since, since)

    @pem_files.translated()
    def begin_rotation(self, name: str, now: datetime) -> None:
        """Make the CA that is to take over; from then on both are to be trusted."""
        known = self._known()
        if self._tls.ca:
            raise VaultError(
                f"{self._issuing} (tls.ca) is somebody else's, and fleet cannot make its successor",
                f"for another CA: fleet down with this one, move {self.directory} away, fleet up with the other",
            )
        if known.rotation is Rotation.SWITCHED:
            raise VaultError("the exchange of the CA before this one has not ended", "fleet certs rotate ca ends it")
        if known.rotation is Rotation.SETTLED:
            made = self._signer.authority(name, now)
            key = self._signer.seal_like(self._authority, known.issuing, made.key)
            pem_files.write(self._next, made.certificate + key.reveal())
        self._trust_all()

    @pem_files.translated()
    def switch_authority(self) -> None:
        """Let the coming CA issue from now on; the key of the other is gone with that."""
        known = self._known()
        if known.rotation is Rotation.SETTLED:
            raise VaultError("there is no CA to switch to", "fleet certs rotate ca begins with one")
        if known.rotation is Rotation.OVERLAP:
            self._trust_all()
            pem_files.write(self._previous, known.issuing.certificate)
            self._next.replace(self._authority)
            pem_files.settle(self.directory)

    @pem_files.translated()
    def end_rotation(self) -> None:
        """Trust the CA that was taken over from no more, and forget the clients that it issued."""
        known = self._known()
        if known.rotation is Rotation.OVERLAP:
            raise VaultError("the coming CA has not taken over yet", "fleet certs rotate ca goes on with that")
        if known.rotation is Rotation.SETTLED:
            return
        client = self._read_client(known)
        if client and known.issuer_of(client.certificate) == known.leaving_fingerprint:
            raise VaultError(f"{self._client} is still of the CA that leaves", "fleet up issues it anew")
        self._ledger.forget(lambda certificate: known.issuer_of(certificate) == known.leaving_fingerprint)
        pem_files.write(self._trust, known.nodes_trust)
        self._previous.unlink()
        pem_files.settle(self.directory)

    @pem_files.translated()
    def seal(self, passphrase: Passphrase | None) -> bool:
        """Seal the CA's key with another passphrase, or store it in the clear; whether that was to be done at all."""
        known = self._known()
        if self._tls.ca:
            raise VaultError(f"{self._issuing} (tls.ca) is not fleet's to seal", "openssl pkcs8 -topk8 seals its key")
        changed = False
        for path, credential in self._keys(known):
            key = self._signer.seal(path, credential, passphrase)
            if key != credential.key:
                pem_files.write(path, credential.certificate + key.reveal())
                changed = True
        self._signer.sealed(passphrase)
        return changed

    def locked(self) -> AbstractContextManager[None]:
        """Hold the vault against a second fleet on this machine; raises VaultError at once when it is held."""
        return lock.locked(self.directory)

    # -------------------------------------------------------------------------------------------- reading

    def _steadily(self, look: Callable[[], _Found]) -> _Found:
        files = (self._authority, self._next, self._previous, self._trust, self._client, self._ledger.folder)
        return pem_files.steadily(files, look)

    def _read(self) -> VaultFacts:
        from certs.certificate import describe, split_pem
        from certs.keys import is_sealed

        known = self._authorities()
        facts = VaultFacts(
            None, None, None, self.client_files, can_sign=self._signer.able, external=self._tls.ca is not None
        )
        if any(host.tls for host in self._hosts) and (issuer := self._found()):
            facts = replace(facts, brought=brought.nodes(self._hosts, issuer.nodes_trust))
        if known is None:
            return facts
        issuing, client = describe(known.issuing.certificate), self._read_client(known)
        coming = describe(known.coming.certificate) if known.coming else None
        return replace(
            facts,
            authority=CertificateFacts.of(issuing),
            authority_fingerprint=issuing.fingerprint,
            client=CertificateFacts.of(describe(client.certificate)) if client else None,
            # One that was brought may have issuers of its own in between.
            client_authority=(known.issuer_of(client.certificate) or issuing.fingerprint) if client else None,
            trust=tuple(describe(one).fingerprint for one in split_pem(known.nodes_trust)),
            rotation=known.rotation,
            coming=CertificateFacts.of(coming) if coming else None,
            coming_fingerprint=coming.fingerprint if coming else None,
            leaving_fingerprint=known.leaving_fingerprint,
            nodes_since=pem_files.read_moment(self._since),
            sealed=self._signer.able and is_sealed(known.issuing.key),
        )

    def _read_client(self, known: Authorities) -> Credential | None:
        from certs.certificate import Role, describe

        if self._tls.client:
            return brought.client(self._tls.client, known.clients_trust)
        anew = f"move {self._client} away and run fleet up"
        client = pem_files.read_credential(self._client, anew=anew)
        if client and not (known.issuer_of(client.certificate) and describe(client.certificate).role is Role.CLIENT):
            raise VaultError(f"{self._client} is not a client certificate of this vault's CA", anew)
        return client

    @property
    def _issuing(self) -> Path:
        """The file of the CA that issues."""
        return Path(self._tls.ca.cert) if self._tls.ca else self._authority

    def _found(self) -> Authorities | None:
        """The CAs there are, whether or not this machine trusts them yet."""
        return authorities.external(self._tls.ca) if self._tls.ca else authorities.own(self.directory)

    def _authorities(self) -> Authorities | None:
        if self.directory.exists():
            pem_files.refuse_exposed(self.directory, 0o700)
        return authorities.trusted(self.directory, self._found(), self._tls)

    def _known(self) -> Authorities:
        known = self._authorities()
        if known is None:
            raise VaultError(
                f"{self.directory} has no CA",
                "fleet up makes one; for a fleet that stands, set FLEET_HOME to the vault of its operator",
            )
        return known

    def _keys(self, known: Authorities) -> Sequence[tuple[Path, Credential]]:
        both = ((self._next, known.coming), (self._issuing, known.issuing))
        return [(path, credential) for path, credential in both if credential]

    def _issue_client(
        self, known: Authorities, name: str, now: datetime, lifetime: timedelta, *, coming: bool
    ) -> Credential:
        path, authority = (self._next, known.coming) if coming else (self._issuing, known.issuing)
        if authority is None:
            raise VaultError("no CA is about to take over", "fleet certs rotate ca makes one")
        return self._signer.client(path, authority, name, now, lifetime)

    def _trust_all(self) -> None:
        """Write what this machine is to trust, unless a run that was killed has done so."""
        trust = self._known().clients_trust
        if pem_files.read(self._trust) != trust:
            pem_files.write(self._trust, trust)
