"""The fleet's certificates in one table: whose they are, how long they last, and where they are in use."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

from certs.lifetimes import CLOCK_TOLERANCE, MEMORY, days_left, needs_renewal
from fleet import notes
from fleet.model.facts import ApiFacts, Down, HostFacts, Stage
from fleet.model.spec import object_name
from fleet.model.vault import Rotation

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime

    from fleet.model.facts import CertificateFacts, Facts
    from fleet.model.spec import FleetSpec, HostSpec
    from fleet.model.vault import ClientFacts, VaultFacts


AUTHORITY_NOTICE = 90
"""Days: exchanging a CA takes every client a new bundle, so people need to hear of it early."""


class Role(StrEnum):
    """What a certificate is for."""

    CA = "CA"
    NODE = "node"
    CLIENT = "client"


class State(StrEnum):
    """How a certificate is at a moment."""

    VALID = "valid"
    RENEW = "renew"
    EXPIRED = "expired"
    FUTURE = "not yet valid"
    REVOKED = "revoked"
    MISSING = "unknown"


@dataclass(frozen=True, slots=True)
class Entry:
    """One certificate of the fleet."""

    role: Role
    name: str
    """Of the CA: its subject."""
    state: State
    certificate: CertificateFacts | None
    days_left: int | None
    in_use: str
    """Where, in words."""
    needed: bool = True
    """Whether the fleet does not work without it: another client's end is its own affair."""


def entries(spec: FleetSpec, facts: Facts, clients: Iterable[ClientFacts], now: datetime) -> tuple[Entry, ...]:
    """CAs, then nodes in the inventory's order, then clients by name, this machine first."""
    return (
        *_authorities(spec, facts.vault, now),
        *(_node(spec, host, facts, now) for host in spec.hosts),
        *_clients(spec, facts, clients, now),
    )


def seen_joining(facts: Facts) -> dict[tuple[str, str], list[str]]:
    """Client and serial number of its certificate -> the nodes that have seen it join with that one last."""
    seen: dict[tuple[str, str], list[str]] = {}
    for node, answers in facts.nodes.items():
        if isinstance(answers.api, ApiFacts):
            for joined in notes.joined(answers.api.notes or {}).items():
                seen.setdefault(joined, []).append(node)
    return seen


def problems(spec: FleetSpec, vault: VaultFacts, now: datetime) -> tuple[Down, ...]:
    """What a person should know of this machine's certificate and of the CA before it is too late."""
    found = []
    client, authority = vault.client, vault.authority
    days = spec.tls.renew_days
    if client and _ending(client, now, days):
        renew = "ask the fleet's operator for a new bundle" if spec.joined else "fleet up renews it"
        if spec.tls.client:
            renew = f"replace {spec.tls.client.cert}"
        found.append(Down(Stage.TLS, f"this machine's certificate {_ends(client.expires, now)}", renew))
    if authority and _ending(authority, now, max(days, AUTHORITY_NOTICE)):
        exchange = "have tls.ca renewed" if vault.external else "fleet certs rotate ca"
        found.append(Down(Stage.TLS, f"the fleet's CA {_ends(authority.expires, now)}", exchange))
    if (since := vault.nodes_since) != vault.at(now).nodes_since:
        ahead = f"nodes' certificates from before {since:%Y-%m-%d %H:%M} UTC are to be renewed, which is still to come"
        found.append(Down(Stage.TLS, ahead, "is this machine's clock right? then fleet certs rotate nodes"))
    if vault.rotation is not Rotation.SETTLED:
        found.append(Down(Stage.TLS, "the exchange of the CA is not finished", "fleet certs rotate ca"))
    return tuple(found)


def node_problem(spec: FleetSpec, host: HostSpec, certificate: CertificateFacts | None, now: datetime) -> Down | None:
    """A node's certificate that is near its end, or past it; None: it has time."""
    if certificate is None or not _ending(certificate, now, spec.tls.renew_days):
        return None
    renew = f"replace {host.tls.cert}, then fleet up" if host.tls else "fleet up renews it"
    return Down(Stage.TLS, f"its certificate {_ends(certificate.expires, now)}", renew)


def _ending(certificate: CertificateFacts, now: datetime, days: int) -> bool:
    return needs_renewal(certificate.expires, now, days=days, issued=certificate.issued)


def _ends(expires: datetime, now: datetime) -> str:
    if expires <= now:
        return f"expired on {expires:%Y-%m-%d}"
    left = expires - now
    return f"expires in {left.days} days" if left >= timedelta(days=2) else f"expires on {expires:%Y-%m-%d %H:%M} UTC"


def _state(certificate: CertificateFacts | None, now: datetime, days: int) -> State:
    if certificate is None:
        return State.MISSING
    if certificate.expires <= now:
        return State.EXPIRED
    if certificate.issued and certificate.issued - CLOCK_TOLERANCE > now:
        return State.FUTURE
    return State.RENEW if _ending(certificate, now, days) else State.VALID


def _entry(
    role: Role, name: str, certificate: CertificateFacts | None, in_use: str, *, now: datetime, days: int
) -> Entry:
    left = days_left(certificate.expires, now) if certificate else None
    return Entry(role, name, _state(certificate, now, days), certificate, left, in_use)


def _authorities(spec: FleetSpec, vault: VaultFacts, now: datetime) -> Iterator[Entry]:
    issuing = "issues, from the files of tls.ca" if vault.external else "issues"
    if not vault.can_sign:
        issuing = "is trusted, its key is elsewhere"
    sealed = ", its key is sealed" if vault.sealed else ""
    taking_over = "takes over: fleet certs rotate ca goes on"
    days = max(spec.tls.renew_days, AUTHORITY_NOTICE)
    for certificate, in_use in ((vault.authority, issuing + sealed), (vault.coming, taking_over)):
        if certificate:
            yield _entry(Role.CA, certificate.subject or spec.name, certificate, in_use, now=now, days=days)


def _node(spec: FleetSpec, host: HostSpec, facts: Facts, now: datetime) -> Entry:
    node = facts.nodes[host.name]
    served = node.api.certificate if isinstance(node.api, ApiFacts) else None
    daemons = node.host.daemons if isinstance(node.host, HostFacts) else ()
    stored = next((d.certificate for d in daemons if d.name == object_name(spec.name, host.name)), None)
    if served:
        in_use = f"served at {host.endpoint}"
        if stored and stored.serial != served.serial:
            in_use += f", though its container was made with {stored.serial[:8]}"
    elif stored and isinstance(node.api, ApiFacts):
        in_use = "in its container"
    else:
        silent = f"silent ({node.api.stage}: {node.api.reason})" if isinstance(node.api, Down) else "not heard"
        in_use = f"in its container, which is {silent}" if stored else silent
    return _entry(Role.NODE, host.name, served or stored, in_use, now=now, days=spec.tls.renew_days)


def _clients(spec: FleetSpec, facts: Facts, clients: Iterable[ClientFacts], now: datetime) -> Iterator[Entry]:
    name = spec.joined.client if spec.joined else "operator"
    days = spec.tls.renew_days
    yield _entry(Role.CLIENT, name, facts.vault.client, "this machine", now=now, days=days)
    seen = seen_joining(facts)
    listed = [client for client in clients if now - client.certificate.expires <= MEMORY]
    joined = {one.name: one for one in listed if (one.name, one.certificate.serial) in seen}
    for client in listed:
        certificate = client.certificate
        if client.revoked:
            trusted = client.authority in facts.vault.trust and certificate.expires > now
            in_use = "still let in: fleet certs revoke goes on" if trusted else "no node lets it in any more"
        elif nodes := seen.get((client.name, certificate.serial)):
            in_use = f"joined, known to {', '.join(nodes)}"
        elif (other := joined.get(client.name)) and _issued(other) >= _issued(client):
            in_use = f"replaced by {other.certificate.serial[:8]}"
        else:
            in_use = "no node has seen it join"
        entry = _entry(Role.CLIENT, client.name, certificate, in_use, now=now, days=days)
        yield replace(entry, state=State.REVOKED if client.revoked else entry.state, needed=False)


def _issued(client: ClientFacts) -> datetime:
    return client.certificate.issued or client.certificate.expires
