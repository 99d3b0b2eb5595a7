"""`fleet certs`: what there is, renewing it, exchanging the CA, withdrawing access, sealing the CA's key."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from fleet.cli import certs_output, output
from fleet.cli.progress import progress
from fleet.cli.world import load, load_any, world_of
from fleet.errors import VaultError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from fleet.applying.rotation import Exchange, Rotator
    from fleet.model.facts import Facts
    from fleet.model.spec import FleetSpec
    from fleet.model.vault import Asked, ClientFacts
    from fleet.ports import World

EXPIRED = 1
"""The exit code of `fleet certs list` when something has expired that the fleet needs."""

BUNDLES = "bundles"
"""Folder in the vault for the bundles that an exchange of the CA makes."""

LIST_TIME = 5.0
"""Seconds for nodes and hosts to say what they have; a silent one is shown as that."""


def show(inventory: Path, *, started: float, as_json: bool, verbose: bool) -> int:
    """`fleet certs list`; `started` in the time of time.monotonic()."""
    from fleet.certificates import State, entries
    from fleet.observing.observe import Connections, observe

    spec = load_any(inventory)
    world = world_of(spec, certificates=True)
    with progress(verbose=verbose) as told, Connections(world.connect) as connections:
        told.waiting("asking the nodes")
        facts = observe(spec, world, connections, deadline=started + LIST_TIME, enough=started)
    found = entries(spec, facts, () if spec.joined else world.vault.clients(), world.now())
    if as_json:
        output.as_json(certs_output.certificates_json(spec.name, found))
    else:
        certs_output.show_certificates(found)
    return EXPIRED if any(entry.needed and entry.state is State.EXPIRED for entry in found) else 0


def rotate(
    inventory: Path, what: str, *, force: bool, no_wait: bool, deadline: float | None, as_json: bool, verbose: bool
) -> int:
    """`fleet certs rotate`; `deadline` in the time of time.monotonic()."""
    spec = load(inventory)
    with _rotator(spec, f"certs rotate {what}", no_wait=no_wait, deadline=deadline, verbose=verbose) as rotator:
        match what:
            case "nodes":
                report = rotator.nodes()
            case "clients":
                bundles = rotator.clients()
            case _:
                done = rotator.exchange(force=force)
    match what:
        case "nodes":
            if as_json:
                output.as_json(output.report_json(spec.name, report))
            else:
                output.show_report(report)
            return report.exit_code
        case "clients":
            if as_json:
                output.as_json({"fleet": spec.name, "bundles": {name: str(path) for name, path in bundles.items()}})
            else:
                certs_output.show_bundles(bundles)
                if not spec.tls.client:
                    click.echo("this machine's certificate was renewed", err=True)
            return 0
        case _:
            return _show_exchange(spec, done, as_json=as_json)


def revoke(inventory: Path, name: str, *, yes: bool, as_json: bool, verbose: bool) -> int:
    """`fleet certs revoke`."""
    from fleet.applying.rotation import Exchange, live, revoked_but_trusted

    spec = load(inventory)
    vault = world_of(spec).vault
    if vault.read().external:
        raise VaultError(
            f"BuildKit knows no revocation, and the CA of {spec.name} is somebody else's (tls.ca) to exchange",
            "let certificates be short-lived (fleet certs issue --hours); to exchange it: docs/trust.md",
        )
    now = datetime.now(UTC)
    clients = vault.clients()
    withdrawn = revoked_but_trusted(clients, vault.read().trust, now)
    if name not in live(clients, now) and name not in withdrawn and (ended := _ended(clients, name, now)):
        if as_json:
            output.as_json(certs_output.exchange_json(spec.name, Exchange(None)))
        else:
            click.echo(f"{name}: {ended}: nothing to withdraw")
        return 0
    others = sorted(client for client in live(clients, now) if client != name)
    if name in live(clients, now) and not yes:
        again = f", and {', '.join(others)} must join again with a new bundle" if others else ""
        click.echo(
            f"BuildKit knows no revocation: to keep {name} out, the CA of {spec.name} is exchanged, every node is "
            f"restarted in turn{again}.",
            err=True,
        )
        output.ask("Go on?", "fleet certs revoke")
    done = Exchange(None)
    with _rotator(spec, "certs revoke", verbose=verbose) as rotator:
        if name in live(clients, now) or name not in {client.name for client in clients}:
            vault.revoke(name, now)
        # An exchange that was under way may have made NAME a bundle of the coming CA, too: then another follows.
        while done.step is None and name in revoked_but_trusted(vault.clients(), vault.read().trust, now):
            done = rotator.exchange(force=True)
    return _show_exchange(spec, done, as_json=as_json, revoked=name)


def _ended(clients: Sequence[ClientFacts], name: str, now: datetime) -> str | None:
    """Why none of NAME's certificates is of use any more; None: there was none."""
    theirs = [client for client in clients if client.name == name]
    if any(client.revoked and client.certificate.expires > now for client in theirs):
        return "its access was withdrawn"
    return f"its certificate ended on {max(c.certificate.expires for c in theirs):%Y-%m-%d}" if theirs else None


def seal(inventory: Path, *, remove: bool) -> int:
    """`fleet certs seal`."""
    from fleet.cli.passphrase import new_ca_passphrase

    spec = load(inventory)
    world = world_of(spec)
    with world.vault.locked():
        facts = world.vault.read()
        if facts.authority is None:
            raise VaultError(f"{spec.name} has no CA yet", "fleet up")
        world.vault.unlock()
        changed = world.vault.seal(None if remove else new_ca_passphrase(spec.name, spec.tls, sealed=facts.sealed))
    if remove:
        sealed = "is stored in the clear"
    elif facts.sealed:
        sealed = "is sealed with the new passphrase" if changed else "is sealed with this passphrase"
    else:
        sealed = "is sealed; what signs asks for the passphrase"
    unchanged = "" if changed else " already: nothing was changed"
    click.echo(f"the key of the CA of {spec.name} {sealed}{unchanged}", err=True)
    return 0


# ---------------------------------------------------------------------------------------------------- rotating


@contextmanager
def _rotator(
    spec: FleetSpec, command: str, *, no_wait: bool = False, deadline: float | None = None, verbose: bool
) -> Iterator[Rotator]:
    """With the vault locked and its key at hand, the connections open, and progress shown."""
    from fleet.applying.apply import Applier
    from fleet.applying.rotation import Rotator
    from fleet.observing.observe import Connections
    from fleet.planning.actions import GRACE

    world = world_of(spec)
    with world.vault.locked():
        if not world.vault.has_client():
            raise VaultError(f"there is no client certificate of {spec.name} here", "fleet up")
        # A prompt and a progress display cannot share a terminal.
        world.vault.unlock()
        try:
            with Connections(world.connect) as connections, progress(verbose=verbose) as told:
                applier = Applier(
                    *(spec, world, connections, told.event, command),
                    patience=0 if no_wait else GRACE,
                    deadline=deadline,
                )
                applier.hold()
                yield Rotator(spec, applier, VaultBundles(spec, world))
        except KeyboardInterrupt:
            if command in {"certs rotate ca", "certs revoke"}:
                click.echo(certs_output.WHERE[world.vault.read().rotation], err=True)
            raise


@dataclass(frozen=True, slots=True)
class VaultBundles:
    """Bundles in a folder of the vault."""

    spec: FleetSpec
    world: World

    def make(self, client: str, asked: Asked, facts: Facts) -> Path:
        """Make a new one in the place of what is there, with the nodes as the facts show them."""
        from fleet.adapters import pem_files
        from fleet.cli.access import hand_out

        path = self._path(client)
        with pem_files.translated():
            path.parent.mkdir(mode=0o700, exist_ok=True)
            pem_files.write(path, hand_out(self.spec, self.world, client, asked, facts))
        return path

    def find(self, client: ClientFacts) -> Path | None:
        """The one that holds just this certificate."""
        from certs.bundle import BundleError, unpack
        from certs.certificate import describe

        path = self._path(client.name)
        try:
            bundle = unpack(path.read_bytes(), now=self.world.now())
        except (OSError, BundleError):
            return None
        return path if describe(bundle.credential.certificate).serial == client.certificate.serial else None

    def keep(self, clients: Iterable[ClientFacts]) -> tuple[Path, ...]:
        """Remove those that hold none of these certificates, and say which."""
        from fleet.adapters import pem_files

        kept = {self.find(client) for client in clients}
        with pem_files.translated():
            removed = tuple(path for path in sorted(self._folder.glob("*.fleet-bundle")) if path not in kept)
            for path in removed:
                path.unlink()
        return removed

    def _path(self, client: str) -> Path:
        return self._folder / f"{self.spec.name}-{client}.fleet-bundle"

    @property
    def _folder(self) -> Path:
        from fleet.adapters.client_files import home

        return home() / self.spec.name / BUNDLES


def _show_exchange(spec: FleetSpec, done: Exchange, *, as_json: bool, revoked: str | None = None) -> int:
    if as_json:
        output.as_json(certs_output.exchange_json(spec.name, done))
    else:
        certs_output.show_exchange(spec.name, done, revoked)
    if done.step is None:
        return 0
    return (done.report.exit_code or output.PARTLY) if done.report else output.PARTLY
