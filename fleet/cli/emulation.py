"""`fleet emulation`: which foreign programs the hosts' kernels run, and having them run others or no more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from fleet.applying import emulation
from fleet.applying.record import Recorder
from fleet.applying.report import Event, Result
from fleet.cli import output
from fleet.cli.progress import progress
from fleet.cli.world import chosen, load, world_of
from fleet.model.facts import Down, HostFacts
from fleet.observing.observe import Connections

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from fleet.applying.emulation import Change
    from fleet.model.spec import FleetSpec


def show(inventory: Path, nodes: Sequence[str], *, as_json: bool, verbose: bool) -> int:
    """`fleet emulation list`."""
    spec = load(inventory, nodes)
    with progress(verbose=verbose) as narration, Connections(world_of(spec).connect) as connections:
        narration.waiting("asking the hosts")
        found = emulation.handlers(spec, chosen(spec, nodes), connections)
    return _told(spec, found, as_json=as_json)


def change(inventory: Path, node: str, wanted: Change, *, as_json: bool, verbose: bool) -> int:
    """`fleet emulation install` and `remove`."""
    spec = load(inventory, (node,))
    world, host = world_of(spec), spec.host(node)
    with progress(verbose=verbose) as narration, Connections(world.connect) as connections:
        began = world.now()
        narration.waiting(f"{node}: {wanted}")
        found = emulation.change(
            spec, host, wanted, connections, lambda text: narration.event(Event(node, text, "note"))
        )
        result = Result.FAILED if isinstance(found, Down) else Result.DONE
        recorder = Recorder(spec.name, f"emulation {wanted.verb}", world, connections)
        unnoted = recorder.note(host, began, (str(wanted),), result, str(wanted) if result is Result.FAILED else "")
    code = _told(spec, {node: found}, as_json=as_json)
    if unnoted:
        output.complain(node, unnoted)
    if wanted.verb == emulation.INSTALL and isinstance(found, HostFacts) and found.daemons:
        # BuildKit looks once a day: to look starts a program for each architecture.
        click.echo(f"its daemon learns of it when it starts: fleet restart {node}", err=True)
    return code


def _told(spec: FleetSpec, found: Mapping[str, HostFacts | Down], *, as_json: bool) -> int:
    failures = {name: said for name, said in found.items() if isinstance(said, Down)}
    if as_json:
        output.as_json({"fleet": spec.name, "nodes": [_json(spec, name, said) for name, said in found.items()]})
    else:
        _table(spec, found)
        for name, why in failures.items():
            output.complain(name, why)
    return output.exit_code(name not in failures for name in found)


def _table(spec: FleetSpec, found: Mapping[str, HostFacts | Down]) -> None:
    titles = ("node", "arch", "emulates", "builds")
    rows = [(name, *_cells(said, allowed=spec.host(name).emulation)) for name, said in found.items()]
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    for bold, row in zip((True, *[False] * len(rows)), (titles, *rows), strict=True):
        line = "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        click.secho(line, bold=bold or None)


def _cells(said: HostFacts | Down, *, allowed: bool) -> tuple[str, str, str]:
    if isinstance(said, Down):
        return "–", "–", "–"
    return said.arch, ", ".join(said.emulated) or "nothing", "native, or emulated" if allowed else "native only"


def _json(spec: FleetSpec, name: str, said: HostFacts | Down) -> dict[str, Any]:
    facts = said if isinstance(said, HostFacts) else None
    return {
        "name": name,
        "arch": facts and facts.arch,
        "emulates": facts and list(facts.emulated),
        "allowed": spec.host(name).emulation,
        "failure": output.down_json(said if isinstance(said, Down) else None),
    }
