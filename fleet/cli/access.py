"""Handing out access: `fleet certs issue`, and the bundles that a rotation hands out."""

from __future__ import annotations

import os
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fleet.cli import output
from fleet.cli.world import load, world_of
from fleet.errors import UsageError, VaultError
from fleet.model.spec import NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from certs.bundle import Bundle, BundleNode
    from certs.keys import Passphrase
    from fleet.model.facts import Facts
    from fleet.model.spec import FleetSpec
    from fleet.model.vault import Asked
    from fleet.ports import World

OPERATOR = "operator"
"""The name of the operator's own certificate, which no bundle has."""


def issue(
    inventory: Path,
    client: str,
    *,
    lifetime: timedelta | None,
    output: Path | None,
    seal: bool,
    force: bool,
    as_json: bool,
) -> int:
    """`fleet certs issue`."""
    spec = load(inventory)
    if not NAME.fullmatch(client) or client == OPERATOR:
        raise UsageError(
            f"{client!r} cannot be a client's name",
            "a lower-case letter, then lower-case letters, digits and -, at most 40 characters; not operator",
        )
    world = world_of(spec)
    if not world.vault.has_client():
        raise VaultError(f"there is no client certificate of {spec.name} here, to ask the nodes with", "fleet up")
    from fleet.cli.passphrase import bundle_passphrase

    passphrase = bundle_passphrase(new=True) if seal else None
    path = output or Path(f"{spec.name}-{client}.fleet-bundle")
    with world.vault.locked(), _reserved(path, force=force) as write:
        world.vault.unlock()
        asked = lifetime or timedelta(days=spec.tls.client_days)
        bundle = _bundle(spec, world, client, _nodes(spec, world), asked)
        write(_packed(bundle, passphrase))
    _show_issued(path, bundle, sealed=seal, as_json=as_json)
    return 0


def hand_out(spec: FleetSpec, world: World, client: str, asked: Asked, facts: Facts) -> bytes:
    """A new bundle for a client, with the nodes as the facts show them; the vault is locked already."""
    from fleet.membership import handed_out

    nodes = handed_out(spec, {name: node.api for name, node in facts.nodes.items()}, facts.builder)
    return _packed(_bundle(spec, world, client, nodes, asked.lifetime, asked.until), None)


def _nodes(spec: FleetSpec, world: World) -> tuple[BundleNode, ...]:
    from fleet.membership import handed_out
    from fleet.observing.observe import PROBE_TIMEOUT
    from fleet.parallel import gather

    answers = gather({host.name: partial(world.prober.probe, host, timeout=PROBE_TIMEOUT) for host in spec.hosts})
    return handed_out(spec, answers, world.builder.read(spec.name))


def _bundle(
    spec: FleetSpec,
    world: World,
    client: str,
    nodes: tuple[BundleNode, ...],
    lifetime: timedelta,
    until: datetime | None = None,
) -> Bundle:
    from certs.bundle import Bundle, BundleGateway

    now = world.now().replace(microsecond=0)
    credential, trust = world.vault.issue_bundle_credential(
        # The coming CA is the one that outlasts the rotation, once nodes let its clients in.
        *(client, now),
        lifetime=lifetime,
        until=until,
        coming=world.vault.read().taught,
    )
    gateway = BundleGateway(spec.gateway.hosts, spec.gateway.ports) if spec.gateway else None
    return Bundle(spec.name, client, now, trust, credential, nodes, gateway)


def _packed(bundle: Bundle, passphrase: Passphrase | None) -> bytes:
    from certs.bundle import BundleError, pack

    try:
        return pack(bundle, passphrase)
    except BundleError as error:
        problem = str(error)
    raise UsageError(problem)


def _show_issued(path: Path, bundle: Bundle, *, sealed: bool, as_json: bool) -> None:
    from certs.certificate import describe

    expires = describe(bundle.credential.certificate).not_after
    if as_json:
        printed = {
            "fleet": bundle.fleet,
            "client": bundle.client,
            "file": str(path),
            "sealed": sealed,
            "expires": expires.isoformat(),
            "nodes": [node.name for node in bundle.nodes],
        }
        output.as_json(printed)
        return
    click.echo(f"{path}: {bundle.client} may use {bundle.fleet} {output.until(expires, bundle.issued)}")
    how = ", and the passphrase by another way" if sealed else " as you would a private key: it holds one"
    click.echo(
        "Who has it may build on every node, prune it, and read what others have built there: BuildKit has no roles.\n"
        f"Hand it over{how}; there: fleet join {path.name}",
        err=True,
    )


@contextmanager
def _reserved(path: Path, *, force: bool) -> Iterator[Callable[[bytes], None]]:
    """What writes a file as a whole; its name is taken before, so that nothing is issued in vain or overwritten."""
    from fleet.adapters import pem_files

    fresh = True
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        fresh = False
        if not path.is_file():
            raise UsageError(f"{path} is there, and is no file", "name another one with -o") from None
        if not force:
            raise UsageError(
                f"{path} is there already", "name another one with -o, or overwrite it with --force"
            ) from None
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}", "name another file with -o") from error
    try:
        yield partial(pem_files.write, path)
    except BaseException:
        if fresh:
            path.unlink(missing_ok=True)
        raise
