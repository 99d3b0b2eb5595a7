"""The composition root: the inventory, and the adapters that stand for the world."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fleet.cli import remembered
from fleet.errors import UsageError, VaultError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from certs.keys import Passphrase
    from fleet.adapters.client_files import ClientFiles
    from fleet.adapters.dialling import Dialling
    from fleet.adapters.vault import FileVault
    from fleet.model.spec import FleetSpec, HostSpec
    from fleet.ports import Host, World


def described_by(inventory: Path | None, fleet: str | None) -> Path:
    """Where the fleet that is meant is described: an inventory, or what a bundle left here; raises UsageError.

    What is said on the command line counts, then FLEET_INVENTORY, then FLEET_NAME, then an inventory in this folder,
    then the one fleet that this machine has joined.
    """
    if inventory and fleet:
        raise UsageError("-i and --fleet each name a fleet", "say one of them")
    if not (inventory or fleet):
        inventory = Path(named) if (named := os.environ.get("FLEET_INVENTORY")) else None
        fleet = None if inventory else os.environ.get("FLEET_NAME")
    if inventory:
        return inventory
    if not fleet and (found := Path("inventory.yaml")).exists():
        return found
    from fleet.adapters import client_files

    known = client_files.joined()
    if fleet and fleet not in known:
        raise UsageError(
            f"this machine has not joined a fleet {fleet!r}",
            f"one of: {', '.join(known)}" if known else "fleet join BUNDLE, or name an inventory with -i",
        )
    if not known:
        raise UsageError(
            "there is no inventory inventory.yaml, and this machine has joined no fleet",
            "copy inventory.example.yaml and edit it, name another with -i or FLEET_INVENTORY, or fleet join BUNDLE",
        )
    if not fleet and len(known) > 1:
        raise UsageError(
            f"this machine has joined several fleets: {', '.join(known)}", "say --fleet NAME, or FLEET_NAME"
        )
    return client_files.described(fleet or known[0])


def load(described: Path, only: Sequence[str] = ()) -> FleetSpec:
    """The fleet for those who run it. Raises UsageError."""
    spec = load_any(described, only)
    if spec.joined:
        raise UsageError(
            f"this needs an operator of {spec.name}: this machine has joined it as {spec.joined.client}, by a bundle, "
            "which has neither the fleet's CA nor a way into its hosts",
            "on this machine: fleet status, fleet build, fleet leave",
        )
    return spec


def load_any(described: Path, only: Sequence[str] = ()) -> FleetSpec:
    """The fleet for those who run it or have joined it: `joined` tells which; every name of `only` has to be in it.

    Raises UsageError and VaultError.
    """
    from fleet.adapters import client_files

    if described == client_files.described(described.parent.name):
        spec = _joined(described.parent.name)
    else:
        spec = remembered.load(described)
        # Somebody else's inventory, such as in a checkout, does not make this machine the operator's.
        spec = _joined(spec.name) if client_files.has_joined(spec.name) else spec
    names = [host.name for host in spec.hosts]
    for name in only:
        if name not in names:
            where = f"fleet {spec.name}" if spec.joined else "the inventory"
            raise UsageError(f"{where} has no host {name!r}", f"one of: {', '.join(names)}")
    return spec


def _joined(fleet: str) -> FleetSpec:
    from fleet.adapters import membership

    return membership.load(fleet)


def chosen(spec: FleetSpec, only: Sequence[str]) -> list[HostSpec]:
    """The hosts of these names, in the order of the inventory; all when none is named."""
    return [host for host in spec.hosts if not only or host.name in only]


def entitled(spec: FleetSpec) -> ClientFiles:
    """The client certificate here, which daemons may accept; raises VaultError."""
    from fleet.adapters.client_files import ClientFiles, home

    vault = vault_of(spec) if spec.joined else ClientFiles(home() / spec.name, spec.tls)
    if not vault.has_client():
        remedy = "fleet join the bundle again" if spec.joined else "fleet up, or set FLEET_HOME"
        raise VaultError(f"there is no client certificate in {vault.directory}", remedy)
    if spec.joined and spec.joined.expires <= datetime.now(UTC):
        raise VaultError(
            f"the bundle with which this machine joined {spec.name} ended on {spec.joined.expires:%Y-%m-%d %H:%M} UTC",
            f"ask the fleet's operator for a new one (fleet certs issue {spec.joined.client}), and fleet join it",
        )
    return vault


def vault_of(spec: FleetSpec) -> FileVault:
    """The vault of this fleet, in FLEET_HOME."""
    from fleet.adapters.client_files import home
    from fleet.adapters.vault import FileVault

    if spec.joined:
        from fleet.adapters.membership import MemberVault

        return MemberVault(home() / spec.name)

    def passphrase() -> Passphrase:
        from fleet.cli.passphrase import ca_passphrase

        return ca_passphrase(spec.name, spec.tls)

    return FileVault(home() / spec.name, spec.tls, spec.hosts, passphrase=passphrase)


def world_of(
    spec: FleetSpec, *, certificates: bool = False, keep: bool = False, dial: Sequence[HostSpec] = ()
) -> World:
    """The real adapters; `certificates`, `keep`: see `BuildkitProber`; `dial`: hosts to be logged in to now."""
    from fleet.adapters.dialling import Dialling
    from fleet.model.spec import Connection

    remote = [host for host in dial if host.connection is Connection.SSH]
    dialling = Dialling([(host.address, host.ssh.port or 22) for host in remote], Path("~/.ssh/config").expanduser())
    from fleet.adapters.builder import BuildxBuilder
    from fleet.adapters.buildkit import BuildkitProber
    from fleet.adapters.registry import BuildxRegistry
    from fleet.ports import World

    if any(host.connection is Connection.SSH for host in spec.hosts):
        # Before threads contend for the interpreter: every login begins with it.
        import fleet.adapters.ssh  # noqa: F401 - loaded ahead
    vault = vault_of(spec)
    return World(
        connect=partial(_connect, dialling),
        prober=BuildkitProber(vault.client_files, certificates=certificates, keep=keep),
        builder=BuildxBuilder(),
        registry=BuildxRegistry(spec.buildkit.config.get("registry", {})),
        vault=vault,
        now=lambda: datetime.now(UTC),
        read_file=lambda path: Path(path).read_bytes(),
        operator=_operator(),
        version=_version,
    )


def _version() -> str:
    from importlib.metadata import version

    return version("fleet")


def _operator() -> str:
    import getpass
    import socket

    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in a container
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def _connect(dialling: Dialling, host: HostSpec) -> Host:
    from fleet.model.spec import Connection

    if host.connection is Connection.LOCAL:
        from fleet.adapters.local import LocalHost

        return LocalHost()
    from fleet.adapters.ssh import connect

    return connect(host, dialling=dialling)
