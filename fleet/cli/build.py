"""`fleet build` and `bake`: their arguments are buildx's, so click, slow to import, has nothing to parse."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fleet.cli.world import described_by, entitled, load_any
from fleet.errors import BuilderError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

    from fleet.adapters.builder import BuildxBuilder
    from fleet.adapters.turns import Turn
    from fleet.dispatching.build_arguments import BuildArguments
    from fleet.dispatching.dispatch import Dispatched

OWN_BUILDERS = "buildx"
"""Folder in the vault for the builder definitions that `fleet build` makes, apart from the user's."""

RESERVED = "reserved"
"""Folder beside them for what this machine's builds have on which node."""


def build(command: str, arguments: Sequence[str]) -> int:
    """`fleet build` or `fleet bake`: buildx's own exit code."""
    from fleet.adapters.turns import Turn

    with Turn() as turn:
        return _build(command, arguments, turn)


def _build(command: str, arguments: Sequence[str], turn: Turn) -> int:
    from fleet.adapters.builder import BuildxBuilder, Fitness

    # buildx answers while Python imports, and while the nodes answer.
    fitness = Fitness()
    from fleet.adapters.buildkit import BuildkitProber
    from fleet.adapters.project import branches, project
    from fleet.adapters.reservations import Reservations
    from fleet.dispatching.build_arguments import baked, parse
    from fleet.dispatching.dispatch import Dispatcher
    from fleet.model.platforms import Platform

    signal.signal(signal.SIGTERM, _interrupted)
    bakes = command == "bake"
    asked = parse(arguments, "" if bakes else os.environ.get("DOCKER_DEFAULT_PLATFORM", ""))
    spec = load_any(described_by(Path(asked.inventory) if asked.inventory else None, asked.fleet))
    vault = entitled(spec)
    registered = BuildxBuilder().read(spec.name).nodes
    own = vault.directory / OWN_BUILDERS
    builder = BuildxBuilder(own, fitness)
    # Not kept: whoever replaces a daemon waits until nobody is connected, and a build may take an hour elsewhere.
    prober = BuildkitProber(vault.client_files, caches=False)

    def narrate(text: str) -> None:
        # What is told before the choice is what is waited for.
        turn.end()
        _narrate(text)

    def dispatcher(platform: Platform | None = None) -> Dispatcher:
        return Dispatcher(
            spec=spec,
            prober=prober,
            builder=builder,
            driver_options=vault.client_files,
            owners={platform: node.name for node in registered for platform in node.platforms},
            reservations=Reservations(own / RESERVED),
            narrate=narrate,
            label=str(platform or ""),
            decided=turn.end,
        )

    here = Platform.parse(os.uname().machine)
    if bakes:
        # buildx works now, and may fetch the definition from afar.
        turn.end()
        if asked.has("--print", "--list"):
            with builder.start(("bake", *asked.words)) as run:
                return run.wait()
        asked = baked(asked, _printed(builder, asked), here)
    key = asked.affinity or project(asked.context)
    asked = replace(asked, branches=branches(asked.context)) if asked.cache else asked
    if asked.apart:
        from fleet.adapters.registry import BuildxRegistry
        from fleet.dispatching.split import Splitter

        registry = BuildxRegistry(spec.buildkit.config.get("registry", {}))
        done = Splitter(dispatcher, builder, registry).build(asked, key, here)
    else:
        done = dispatcher().build(asked, key)
    _tell(spec.name, done, asked)
    return done.code


def _printed(builder: BuildxBuilder, asked: BuildArguments) -> str:
    """The targets of a bake as buildx reads them; raises BuilderError."""
    try:
        return builder.run(("bake", "--print", *asked.words))
    except BuilderError as error:
        # What was typed may hold secrets.
        raise BuilderError(error.message, "docker buildx bake --print says more") from None


def _tell(fleet: str, done: Dispatched, asked: BuildArguments) -> None:
    """Who built what: on stderr, in buildx's metadata file, and with --json on stdout."""
    from fleet.cli.build_output import add_metadata, as_json, lines

    if done.shares and not asked.quiet:
        for line in lines(done.shares):
            _narrate(line)
    told = as_json(fleet, done.code, done.shares)
    if done.shares and (path := asked.values("--metadata-file")):
        add_metadata(Path(path[-1]), told, done.digest)
    if asked.as_json:
        import json

        print(json.dumps(told, indent=2))


def _narrate(text: str) -> None:
    print(f"fleet: {text}", file=sys.stderr, flush=True)


def _interrupted(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
