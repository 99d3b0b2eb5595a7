"""What the operator's vault holds: the CAs, the certificates that were handed out, and how far an exchange has come."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime, timedelta

    from fleet.model.facts import CertificateFacts, Down


@dataclass(frozen=True, slots=True)
class Asked:
    """How long access was to last when it was asked for; a certificate may end earlier, with its CA."""

    lifetime: timedelta
    until: datetime


@dataclass(frozen=True, slots=True)
class ClientFacts:
    """A certificate that was handed out to a person or a CI job, as the vault remembers it."""

    name: str
    certificate: CertificateFacts
    authority: str
    """Fingerprint of the CA that issued it."""
    asked: Asked
    revoked: bool = False


class Rotation(StrEnum):
    """Where the exchange of the CA stands."""

    SETTLED = "settled"
    """There is one CA."""
    OVERLAP = "overlap"
    """Another is coming: nodes keep a certificate of the one, and learn to trust both."""
    SWITCHED = "switched"
    """The other has taken its place: nodes get a certificate of it, and trust it alone."""


@dataclass(frozen=True, slots=True)
class VaultFacts:
    """The operator's keys and certificates: what there is, and where the client's files are.

    Fingerprints are SHA-256 in hex, and name CAs.
    """

    authority: CertificateFacts | None
    """The CA that issues; None: none was made, or the inventory's was not yet taken up."""
    authority_fingerprint: str | None
    client: CertificateFacts | None
    driver_options: Mapping[str, str]
    """`cacert`, `cert` and `key` as absolute paths, for buildx."""
    trust: tuple[str, ...] = ()
    """Fingerprints of the CAs that nodes are to trust."""
    client_authority: str | None = None
    """Fingerprint of the CA that issued the client's certificate."""
    rotation: Rotation = Rotation.SETTLED
    coming: CertificateFacts | None = None
    """The CA that is to take over; there during the overlap."""
    coming_fingerprint: str | None = None
    leaving_fingerprint: str | None = None
    """Of the CA that was taken over from; there from the switch to the end."""
    nodes_since: datetime | None = None
    """Certificates of nodes that were issued before this are to be renewed; whole seconds, UTC."""
    can_sign: bool = True
    """Whether there is a key to issue with, or will be; not where tls.ca has none."""
    sealed: bool = False
    """Whether that key needs a passphrase."""
    external: bool = False
    """Whether the CA is somebody else's, which the inventory names (tls.ca)."""
    brought: Mapping[str, CertificateFacts | Down] = field(default_factory=dict)
    """Node -> the certificate that the inventory brings for it (hosts.NAME.tls), or why it cannot be used."""

    @property
    def taught(self) -> bool:
        """Whether every node lets in clients of the coming CA: then the operator's certificate is of it."""
        return self.coming_fingerprint is not None and self.client_authority == self.coming_fingerprint

    def at(self, now: datetime) -> VaultFacts:
        """The same without a `nodes_since` that is still to come: no certificate could be new enough for it."""
        return replace(self, nodes_since=None) if self.nodes_since and self.nodes_since > now else self
