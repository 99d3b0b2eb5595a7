"""The vault in memory: real certificates, and the same words for what is wrong."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING

from certs import authority
from certs.certificate import Credential, Role, anchor, describe, is_issued_by, split_pem
from certs.checks import check_authority, check_leaf
from certs.keys import CertificateError
from certs.lifetimes import MEMORY
from fleet.errors import Held, VaultError
from fleet.model.facts import CertificateFacts, Down, Stage
from fleet.model.spec import NAME, TlsSpec
from fleet.model.vault import Asked, ClientFacts, Rotation, VaultFacts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from certs.keys import Passphrase
    from fleet.model.spec import HostSpec

_OWN_CA = TlsSpec()

# It is read over and over, as if from files.
_describe, _is_issued_by = lru_cache(describe), lru_cache(is_issued_by)
_split_pem, _anchor = lru_cache(split_pem), lru_cache(anchor)


class FakeVault:
    """One fleet's; `files`: what the inventory's paths of certificates lead to."""

    def __init__(
        self,
        tls: TlsSpec = _OWN_CA,
        hosts: Sequence[HostSpec] = (),
        *,
        files: Mapping[str, Credential] | None = None,
        passphrase: Callable[[], Passphrase] | None = None,
    ) -> None:
        self.tls, self.hosts, self.files = tls, hosts, files or {}
        self.authority: Credential | None = None
        self.coming: Credential | None = None
        self.leaving: Credential | None = None
        self.client: Credential | None = None
        self.entries: list[ClientFacts] = []
        self.since: datetime | None = None
        self.held = False
        self._seal: Passphrase | None = None
        self._ask, self._known = passphrase, False

    @property
    def client_files(self) -> Mapping[str, str]:
        if pair := self.tls.client:
            return {"cacert": "/vault/ca.pem", "cert": pair.cert, "key": pair.key or pair.cert}
        return {"cacert": "/vault/ca.pem", "cert": "/vault/client.pem", "key": "/vault/client.pem"}

    def trust(self) -> bytes:
        """What its `cacert` file holds."""
        return self._clients_trust()

    def has_client(self) -> bool:
        return self.authority is not None and self._client is not None

    def read(self) -> VaultFacts:
        facts = VaultFacts(
            None, None, None, self.client_files, can_sign=self._can_sign, external=self.tls.ca is not None
        )
        if self.tls.ca:
            facts = replace(facts, brought={host.name: self._brought(host) for host in self.hosts if host.tls})
        if self.authority is None:
            if self.client is not None:
                raise VaultError("there is a client certificate, but no CA", "restore it from a backup")
            return facts
        client = self._client
        if client and not self.tls.client and not self._issuer(client):
            raise VaultError("the client's certificate is not of this CA", "restore it from a backup")
        return replace(
            facts,
            authority=_facts(self.authority),
            authority_fingerprint=_fingerprint(self.authority),
            client=_facts(client) if client else None,
            client_authority=(self._issuer(client) or _fingerprint(self.authority)) if client else None,
            trust=tuple(_describe(one).fingerprint for one in _split_pem(self._nodes_trust())),
            rotation=self._rotation,
            coming=_facts(self.coming) if self.coming else None,
            coming_fingerprint=_fingerprint(self.coming) if self.coming else None,
            leaving_fingerprint=_fingerprint(self.leaving) if self.leaving else None,
            nodes_since=self.since,
            sealed=self._seal is not None,
        )

    def clients(self) -> tuple[ClientFacts, ...]:
        return tuple(sorted(self.entries, key=lambda one: (one.name, one.certificate.issued, one.certificate.serial)))

    def unlock(self) -> None:
        if self._seal and not self._known:
            if self._ask is None or self._ask() != self._seal:
                raise VaultError("the passphrase does not open the key", "type it again")
            self._known = True

    def create_authority(self, name: str, now: datetime) -> None:
        if self.authority is not None:
            raise VaultError("there is a CA already", "run fleet plan again")
        if self.tls.ca:
            self._check(self.files[self.tls.ca.cert], now)
            self.authority = self.files[self.tls.ca.cert]
        else:
            self.authority = authority.create_authority(f"{name} CA", now=now)

    def forget_passphrase(self) -> None:
        """As if fleet had been started anew."""
        self._known = False

    def issue_client(self, name: str, now: datetime, *, coming: bool = False) -> None:
        signer = self._signer(now, coming=coming)
        self.client = authority.issue_client(signer, name, now=now, lifetime=timedelta(days=self.tls.client_days))

    def issue_node(self, host: HostSpec, names: Sequence[str], now: datetime) -> tuple[Credential, bytes]:
        if host.tls:
            credential = self.files[host.tls.cert]
            try:
                check_leaf(credential, Role.NODE, self._nodes_trust(), now, [host.address])
            except CertificateError as error:
                raise VaultError(f"{host.tls.cert} cannot be used: {error}", "see the inventory") from None
            return credential, self._nodes_trust()
        signer, lifetime = self._signer(now), timedelta(days=self.tls.node_days)
        return authority.issue_node(signer, host.name, names=names, now=now, lifetime=lifetime), self._nodes_trust()

    def issue_bundle_credential(
        self,
        name: str,
        now: datetime,
        *,
        lifetime: timedelta,
        until: datetime | None = None,
        coming: bool = False,
    ) -> tuple[Credential, bytes]:
        if not NAME.fullmatch(name) or name == "operator":
            raise VaultError(f"{name!r} cannot be a client's name", "use another")
        signer = self._signer(now, coming=coming)
        asked = Asked(lifetime, (until or now + lifetime).replace(microsecond=0))
        issued = authority.issue_client(signer, name, now=now, lifetime=asked.until - now)
        remembered = [one for one in self.entries if now - one.certificate.expires <= MEMORY]
        self.entries = [*remembered, ClientFacts(name, _facts(issued), _fingerprint(signer), asked)]
        return issued, self._clients_trust()

    def revoke(self, name: str, now: datetime) -> None:
        if name not in {one.name for one in self.entries}:
            known = ", ".join(sorted({one.name for one in self.entries}))
            raise VaultError(f"no certificate was issued to {name!r}", f"one of: {known}" if known else None)
        self.entries = [
            replace(one, revoked=one.revoked or (one.name == name and one.certificate.expires > now))
            for one in self.entries
        ]

    def renew_nodes(self, since: datetime) -> None:
        self._issuing()
        self.since = since.astimezone(UTC).replace(microsecond=0)

    def begin_rotation(self, name: str, now: datetime) -> None:
        self._issuing()
        if self.tls.ca or self._rotation is Rotation.SWITCHED:
            raise VaultError("the CA cannot be exchanged now", "end what was begun, or start anew")
        if self.coming is None:
            self.unlock()
            self.coming = authority.create_authority(f"{name} CA", now=now)

    def switch_authority(self) -> None:
        self._issuing()
        if self._rotation is Rotation.SETTLED:
            raise VaultError("there is no CA to switch to", "begin with one")
        if self.coming:
            self.leaving, self.authority, self.coming = self.authority, self.coming, None

    def end_rotation(self) -> None:
        self._issuing()
        if self.coming:
            raise VaultError("the coming CA has not taken over yet", "switch first")
        if self.leaving:
            gone = _fingerprint(self.leaving)
            if self._client and self._issuer(self._client) == gone:
                raise VaultError("the client's certificate is still of the CA that leaves", "issue it anew")
            self.entries = [one for one in self.entries if one.authority != gone]
            self.leaving = None

    def seal(self, passphrase: Passphrase | None) -> bool:
        self._issuing()
        if self.tls.ca:
            raise VaultError("the CA is somebody else's", "openssl seals its key")
        self.unlock()
        changed = self._seal != passphrase
        self._seal, self._known = passphrase, True
        return changed

    @contextmanager
    def locked(self) -> Iterator[None]:
        if self.held:
            raise Held("another fleet is at work on this fleet", "wait for it to end")
        self.held = True
        try:
            yield
        finally:
            self.held = False

    @property
    def _client(self) -> Credential | None:
        return self.files[self.tls.client.cert] if self.tls.client else self.client

    @property
    def _can_sign(self) -> bool:
        return self.tls.ca is None or self.tls.ca.key is not None

    @property
    def _rotation(self) -> Rotation:
        if self.coming:
            return Rotation.OVERLAP
        return Rotation.SWITCHED if self.leaving else Rotation.SETTLED

    def _nodes_trust(self) -> bytes:
        return _anchor(self._issuing().certificate) + (self.coming.certificate if self.coming else b"")

    def _clients_trust(self) -> bytes:
        return (self.leaving.certificate if self.leaving else b"") + self._nodes_trust()

    def _issuer(self, credential: Credential) -> str | None:
        known = _split_pem(self._clients_trust())
        return next((_describe(one).fingerprint for one in known if _is_issued_by(credential.certificate, one)), None)

    def _issuing(self) -> Credential:
        if self.authority is None:
            raise VaultError("there is no CA", "only the operator who has it can issue certificates")
        return self.authority

    def _signer(self, now: datetime, *, coming: bool = False) -> Credential:
        signer = self.coming if coming else self._issuing()
        if signer is None or not self._can_sign:
            raise VaultError("there is no CA that can sign this", "begin a rotation, or give the CA's key")
        self.unlock()
        self._check(signer, now)
        return signer

    def _check(self, signer: Credential, now: datetime) -> None:
        try:
            check_authority(signer, now)
        except CertificateError as error:
            raise VaultError(f"the CA cannot be used: {error}", "is the clock right?") from None

    def _brought(self, host: HostSpec) -> CertificateFacts | Down:
        assert host.tls
        assert self.tls.ca
        credential, trust = self.files[host.tls.cert], _anchor(self.files[self.tls.ca.cert].certificate)
        try:
            check_leaf(credential, Role.NODE, trust, _describe(credential.certificate).not_before, [host.address])
        except CertificateError as error:
            return Down(Stage.TLS, f"{host.tls.cert} cannot be used: {error}", "see the inventory")
        return _facts(credential)


def _facts(credential: Credential) -> CertificateFacts:
    return CertificateFacts.of(_describe(credential.certificate))


def _fingerprint(authority: Credential) -> str:
    return _describe(authority.certificate).fingerprint
