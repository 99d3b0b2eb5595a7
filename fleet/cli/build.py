"""`fleet build`: its arguments are buildx's, so click has nothing to parse, and its import need not be waited for."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from fleet.cli.world import described_by, entitled, load_any

if TYPE_CHECKING:
    from collections.abc import Sequence

OWN_BUILDERS = "buildx"
"""Folder in the vault for the builder definitions that `fleet build` makes, apart from the user's."""


def build(arguments: Sequence[str]) -> int:
    """`fleet build`: buildx's own exit code; -i/--inventory or --fleet, which buildx does not have, may come first."""
    from fleet.adapters.builder import BuildxBuilder, Fitness

    # buildx answers while Python imports, and while the nodes answer.
    fitness = Fitness()
    from fleet.adapters.buildkit import BuildkitProber
    from fleet.dispatch import Dispatcher

    inventory, fleet, arguments = _own_option(tuple(arguments))
    spec = load_any(described_by(inventory, fleet))
    vault = entitled(spec)
    registered = BuildxBuilder().read(spec.name).nodes
    return Dispatcher(
        spec=spec,
        prober=BuildkitProber(vault.client_files),
        builder=BuildxBuilder(vault.directory / OWN_BUILDERS, fitness),
        driver_options=vault.client_files,
        owners={platform: node.name for node in registered for platform in node.platforms},
        narrate=lambda text: print(f"fleet: {text}", file=sys.stderr, flush=True),
    ).build(arguments)


def _own_option(arguments: tuple[str, ...]) -> tuple[Path | None, str | None, tuple[str, ...]]:
    """The inventory, the fleet, and what is left for buildx."""
    match arguments:
        case ("-i" | "--inventory", value, *rest):
            return Path(value), None, tuple(rest)
        case ("--fleet", value, *rest):
            return None, value, tuple(rest)
        case (first, *rest) if first.startswith("--inventory="):
            return Path(first.partition("=")[2]), None, tuple(rest)
        case (first, *rest) if first.startswith("--fleet="):
            return None, first.partition("=")[2], tuple(rest)
        case _:
            return None, None, arguments
