"""Exchange the fleet's CA by overlap, and renew certificates: in steps, each of which may be interrupted and repeated.

Where an exchange stands is in the vault (`Rotation`) and on the nodes (their settings); nothing else is remembered.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from fleet.applying.report import Event
from fleet.certificates import seen_joining
from fleet.errors import VaultError
from fleet.health import CLOCK_LIMIT
from fleet.model.facts import HostFacts
from fleet.model.vault import Asked, Rotation
from fleet.observing.observe import observe
from fleet.planning.plan import plan

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from fleet.applying.apply import Applier
    from fleet.applying.report import Report
    from fleet.model.facts import Facts
    from fleet.model.spec import FleetSpec
    from fleet.model.vault import ClientFacts


class Step(StrEnum):
    """The steps of an exchange, in words."""

    BEGIN = "a new CA is made"
    TEACH = "every node trusts both"
    HAND_OUT = "every client has a bundle of the new CA"
    RENEW = "every node has a certificate of the new CA, and trusts it alone"
    END = "nobody trusts the old CA"


@dataclass(frozen=True, slots=True)
class Exchange:
    """How far an exchange has come: at `step`, which waits for these; None: it is done, or none is under way."""

    step: Step | None
    waiting: tuple[str, ...] = ()
    bundles: Mapping[str, Path] = field(default_factory=dict)
    """Client -> the file that is to be handed over; once it is done, these have no access until they join with it."""
    report: Report | None = None
    """Of the hosts, where they are what is waited for."""
    removed: tuple[Path, ...] = ()
    """Bundles, with keys in them, that nobody needs any more: see `Rotator.tidy`."""


def live(clients: Iterable[ClientFacts], now: datetime) -> dict[str, ClientFacts]:
    """The clients that may use the fleet, each with its newest certificate."""
    return {
        client.name: client
        for client in sorted(clients, key=lambda client: client.certificate.issued or now)
        if not client.revoked and client.certificate.expires > now
    }


def revoked_but_trusted(clients: Iterable[ClientFacts], trust: Sequence[str], now: datetime) -> tuple[str, ...]:
    """Clients whose access was withdrawn, and that still have it as long as these CAs are trusted."""
    return tuple(
        dict.fromkeys(
            client.name
            for client in clients
            if client.revoked and client.authority in trust and client.certificate.expires > now
        )
    )


def without_new_bundle(clients: Sequence[ClientFacts], coming: str, facts: Facts, now: datetime) -> tuple[str, ...]:
    """The clients that no node has seen join with a certificate of the coming CA."""
    seen = seen_joining(facts)
    taken = {c.name for c in clients if c.authority == coming and (c.name, c.certificate.serial) in seen}
    return tuple(name for name in live(clients, now) if name not in taken)


class Bundles(Protocol):
    """The bundles that were made for clients, a file each."""

    def make(self, client: str, asked: Asked, facts: Facts) -> Path:
        """Make a new one in the place of what is there, with the nodes as the facts show them."""
        ...

    def find(self, client: ClientFacts) -> Path | None:
        """The one that holds just this certificate."""
        ...

    def keep(self, clients: Iterable[ClientFacts]) -> tuple[Path, ...]:
        """Remove those that hold none of these certificates, and say which."""
        ...


@dataclass(frozen=True, slots=True)
class Rotator:
    """What rotating needs beside the vault."""

    spec: FleetSpec
    applier: Applier
    bundles: Bundles

    def exchange(self, *, force: bool = False) -> Exchange:
        """Go on with the exchange of the CA, or begin one, as far as it can go.

        `force`: do not wait for clients; they lose access until they join again. A node is always waited for: left
        behind, it would go on trusting the old CA. Raises VaultError and BuilderError.
        """
        world, vault = self.applier.world, self.applier.world.vault
        vault.unlock()
        if vault.read().rotation is Rotation.SETTLED:
            if not force and (bundles := self._not_taken()):
                return Exchange(Step.BEGIN, tuple(bundles), bundles)
            self._tell(Step.BEGIN)
            vault.begin_rotation(self.spec.name, world.now())
        if (kept := vault.read()).rotation is Rotation.OVERLAP:
            self._tell(Step.TEACH)
            report, facts = self._converge()
            if waiting := _unfinished(report):
                return Exchange(Step.TEACH, waiting, report=report)
            self._tell(Step.HAND_OUT)
            coming = kept.coming_fingerprint or ""
            if not self.spec.tls.client and kept.client_authority != coming:
                vault.issue_client("operator", world.now(), coming=True)
            bundles = self._hand_out(coming, facts)
            if bundles and not force:
                return Exchange(Step.HAND_OUT, tuple(bundles), bundles, removed=self.tidy(facts))
            vault.switch_authority()
        kept = vault.read()
        self._tell(Step.RENEW)
        report, facts = self._converge()
        if waiting := _unfinished(report):
            return Exchange(Step.RENEW, waiting, report=report)
        self._tell(Step.END)
        bundles = self._hand_out(kept.authority_fingerprint or "", facts)
        vault.end_rotation()
        return Exchange(None, bundles=bundles, removed=self.tidy(facts))

    def nodes(self) -> Report:
        """Give every node a new certificate; goes on with what an earlier run has begun. Raises VaultError."""
        now, facts = self.applier.world.now(), self._observe()
        since = facts.vault.at(now).nodes_since
        if since is None or not _older(self.spec, facts, since):
            _refuse_doubtful_clock(facts)
            self.applier.world.vault.renew_nodes(now)
        report, facts = self._converge()
        self.tidy(facts)
        return report

    def clients(self) -> dict[str, Path]:
        """Give every client a new bundle, for as long as it was first asked for, and this machine a new certificate."""
        now, vault = self.applier.world.now(), self.applier.world.vault
        vault.unlock()
        facts = self._observe()
        if not self.spec.tls.client:
            vault.issue_client("operator", now, coming=facts.vault.taught)
        made = {
            name: self.bundles.make(name, replace(client.asked, until=now + client.asked.lifetime), facts)
            for name, client in live(vault.clients(), now).items()
        }
        self.tidy(facts)
        return made

    def tidy(self, facts: Facts) -> tuple[Path, ...]:
        """Remove the bundles of clients that a node has seen join with them, or that may not join any more."""
        vault, seen = self.applier.world.vault, seen_joining(facts)
        may_join = [
            client
            for client in vault.clients()
            if not client.revoked
            and client.certificate.expires > self.applier.world.now()
            and (client.name, client.certificate.serial) not in seen
        ]
        return self.bundles.keep(may_join)

    def _not_taken(self) -> dict[str, Path]:
        """The bundles there are that no node has seen their clients join with; the nodes are asked if there are any."""
        clients = live(self.applier.world.vault.clients(), self.applier.world.now())
        found = {name: path for name, client in clients.items() if (path := self.bundles.find(client))}
        seen = seen_joining(self._observe()) if found else {}
        return {name: path for name, path in found.items() if (name, clients[name].certificate.serial) not in seen}

    def _hand_out(self, authority: str, facts: Facts) -> dict[str, Path]:
        """A bundle of that CA for each client that no node has seen join with one."""
        vault, now, bundles = self.applier.world.vault, self.applier.world.now(), {}
        clients = live(vault.clients(), now)
        for name in without_new_bundle(vault.clients(), authority, facts, now):
            # A run that was killed may have issued the certificate, and not come to write the bundle.
            known = self.bundles.find(clients[name]) if clients[name].authority == authority else None
            bundles[name] = known or self.bundles.make(name, clients[name].asked, facts)
        return bundles

    def _converge(self) -> tuple[Report, Facts]:
        """What `fleet up` does, and how things are afterwards."""
        facts = self._observe()
        report = self.applier.up(
            facts, plan(self.spec, facts, self.applier.world.now(), patience=self.applier.patience)
        )
        return report, self._observe()

    def _observe(self) -> Facts:
        return observe(self.spec, self.applier.world, self.applier.connections)

    def _tell(self, step: Step) -> None:
        self.applier.emit(Event("CA", str(step)))


def _unfinished(report: Report) -> tuple[str, ...]:
    """The nodes that are not yet as they are to be at this step."""
    return tuple(outcome.subject for outcome in report.nodes if not outcome.ok)


def _older(spec: FleetSpec, facts: Facts, since: datetime) -> bool:
    """Whether a node still has a certificate from before."""
    for host in spec.hosts:
        found = facts.nodes[host.name].host
        daemons = found.daemons if isinstance(found, HostFacts) else ()
        for daemon in daemons:
            certificate = daemon.certificate
            if host.tls is None and certificate and (certificate.issued is None or certificate.issued < since):
                return True
    return False


def _refuse_doubtful_clock(facts: Facts) -> None:
    """Raise VaultError where this machine's clock may be wrong: certificates are measured by what it says now."""
    hosts = [node.host for node in facts.nodes.values()]
    common = facts.common_skew
    skews = [host.clock_skew for host in hosts if isinstance(host, HostFacts)] if common is None else [common]
    if (most := max(map(abs, skews), default=0.0)) > CLOCK_LIMIT:
        raise VaultError(
            f"the clocks of this machine and its hosts disagree by {most:.0f} s, so nobody knows from when on "
            "certificates are to be new",
            "timedatectl set-ntp true where it is wrong: fleet check",
        )
