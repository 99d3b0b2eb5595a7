"""The composition root: the inventory, and the adapters that stand for the world."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from fleet.cli import remembered
from fleet.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from fleet.adapters.vault import FileVault
    from fleet.model import FleetSpec, HostSpec
    from fleet.ports import Host, World


def load(inventory: Path, only: Sequence[str] = ()) -> FleetSpec:
    """The inventory; every name of `only` has to be in it. Raises UsageError."""
    spec = remembered.load(inventory)
    names = [host.name for host in spec.hosts]
    for name in only:
        if name not in names:
            raise UsageError(f"the inventory has no host {name!r}", f"one of: {', '.join(names)}")
    return spec


def vault_of(spec: FleetSpec) -> FileVault:
    """The vault of this fleet, in FLEET_HOME."""
    from fleet.adapters.vault import FileVault, home

    return FileVault(home() / spec.name)


def world_of(spec: FleetSpec, *, certificates: bool = False) -> World:
    """The real adapters; `certificates`: see `BuildkitProber`."""
    from fleet.adapters.builder import BuildxBuilder
    from fleet.adapters.buildkit import BuildkitProber
    from fleet.model import Connection
    from fleet.ports import World

    if any(host.connection is Connection.SSH for host in spec.hosts):
        # Before threads contend for the interpreter: every login begins with it.
        import fleet.adapters.ssh  # noqa: F401
    vault = vault_of(spec)
    return World(
        connect=_connect,
        prober=BuildkitProber(vault.client_files, certificates=certificates),
        builder=BuildxBuilder(),
        vault=vault,
        now=lambda: datetime.now(UTC),
    )


def _connect(host: HostSpec) -> Host:
    from fleet.model import Connection

    if host.connection is Connection.LOCAL:
        from fleet.adapters.local import LocalHost

        return LocalHost()
    from fleet.adapters.ssh import connect

    return connect(host)
