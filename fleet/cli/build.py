"""`fleet build`: its arguments are buildx's, so click has nothing to parse, and its import need not be waited for."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from fleet.cli.world import load, vault_of
from fleet.errors import VaultError

if TYPE_CHECKING:
    from collections.abc import Sequence

OWN_BUILDERS = "buildx"
"""Folder in the vault for the builder definitions that `fleet build` makes, apart from the user's."""


def build(arguments: Sequence[str]) -> int:
    """`fleet build`: buildx's own exit code; -i/--inventory, which buildx does not have, may come first."""
    from fleet.adapters.builder import BuildxBuilder, Fitness

    # buildx answers while Python imports, and while the nodes answer.
    fitness = Fitness()
    from fleet.adapters.buildkit import BuildkitProber
    from fleet.dispatch import Dispatcher

    inventory, arguments = _own_option(tuple(arguments))
    spec = load(inventory)
    vault = vault_of(spec)
    if not vault.has_client():
        raise VaultError(f"there is no client certificate in {vault.directory}", "fleet up, or set FLEET_HOME")
    registered = BuildxBuilder().read(spec.name).nodes
    return Dispatcher(
        spec=spec,
        prober=BuildkitProber(vault.client_files),
        builder=BuildxBuilder(vault.directory / OWN_BUILDERS, fitness),
        driver_options=vault.client_files,
        owners={platform: node.name for node in registered for platform in node.platforms},
        narrate=lambda text: print(f"fleet: {text}", file=sys.stderr, flush=True),
    ).build(arguments)


def _own_option(arguments: tuple[str, ...]) -> tuple[Path, tuple[str, ...]]:
    match arguments:
        case ("-i" | "--inventory", value, *rest):
            return Path(value), tuple(rest)
        case (first, *rest) if first.startswith("--inventory="):
            return Path(first.partition("=")[2]), tuple(rest)
        case _:
            return Path(os.environ.get("FLEET_INVENTORY") or "inventory.yaml"), arguments
