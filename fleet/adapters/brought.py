"""Certificates that somebody else issued and the inventory names: tls.client, hosts.NAME.tls."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fleet.adapters import pem_files
from fleet.errors import VaultError
from fleet.model.facts import CertificateFacts, Down, Stage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from certs.certificate import Credential, Role
    from fleet.model.spec import HostSpec, KeyPair


def client(pair: KeyPair, trust: bytes) -> Credential:
    """The operator's, for those who trust `trust` (PEM); raises VaultError."""
    from certs.certificate import Role

    return _checked(pair, "tls.client", Role.CLIENT, trust)


def node(host: HostSpec, trust: bytes, now: datetime | None = None) -> Credential | None:
    """A host's own, for those who trust `trust` (PEM), if it brings one; raises VaultError. `now`: see `_checked`."""
    from certs.certificate import Role

    return _checked(host.tls, f"hosts.{host.name}.tls", Role.NODE, trust, now, host.address) if host.tls else None


def nodes(hosts: Sequence[HostSpec], trust: bytes) -> Mapping[str, CertificateFacts | Down]:
    """Every host's own; one that cannot be used is the trouble of that host alone."""
    from certs.certificate import describe

    found: dict[str, CertificateFacts | Down] = {}
    for host in hosts:
        try:
            if credential := node(host, trust):
                found[host.name] = CertificateFacts.of(describe(credential.certificate))
        except VaultError as error:
            found[host.name] = Down(Stage.TLS, error.message, error.remedy)
    return found


def _checked(
    pair: KeyPair, place: str, role: Role, trust: bytes, now: datetime | None = None, *names: str
) -> Credential:
    """Without `now`: as of the moment from which all of the chain is valid; whoever knows the time reads its dates."""
    from certs.certificate import describe, split_pem
    from certs.checks import check_leaf

    credential = pem_files.read_pair(pair, place)
    with pem_files.named(Path(pair.cert), f"see {place} in the inventory"):
        begun = max(describe(one).not_before for one in split_pem(credential.certificate + trust))
        check_leaf(credential, role, trust, now or begun, names)
    return credential
