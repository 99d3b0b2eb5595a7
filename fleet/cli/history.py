"""`fleet history`: who changed what, as the hosts have noted it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from fleet.applying.history import merged
from fleet.cli import output
from fleet.cli.progress import progress
from fleet.cli.world import chosen, load, world_of
from fleet.model.facts import Down

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from fleet.applying.history import Entry, History


def history(inventory: Path, nodes: Sequence[str], *, last: int | None, as_json: bool, verbose: bool) -> int:
    """`fleet history`; `verbose`: each action, too."""
    from fleet.applying.record import histories
    from fleet.observing.observe import Connections

    spec = load(inventory, nodes)
    with progress(verbose=False) as show, Connections(world_of(spec).connect) as connections:
        show.waiting("asking the hosts")
        found = histories(spec.name, chosen(spec, nodes), connections)
    entries = merged(said for said in found.values() if not isinstance(said, Down))
    entries = entries if last is None else entries[max(len(entries) - last, 0) :]
    if as_json:
        output.as_json(history_json(spec.name, entries, found))
    else:
        _show(entries, verbose=verbose)
        for name, said in found.items():
            if isinstance(said, Down):
                output.complain(name, said)
            elif said.unreadable:
                lines = "1 line" if said.unreadable == 1 else f"{said.unreadable} lines"
                click.echo(f"{name}: {lines} of its history cannot be read", err=True)
    return output.exit_code(not isinstance(said, Down) for said in found.values())


def _show(entries: Sequence[Entry], *, verbose: bool) -> None:
    titles = ("when (UTC)", "node", "who", "what", "outcome")
    rows = [(f"{entry.at:%Y-%m-%d %H:%M:%S}", entry.node, entry.by, entry.command, entry.outcome) for entry in entries]
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    click.secho(_line(titles, widths), bold=True)
    for entry, row in zip(entries, rows, strict=True):
        click.echo(_line(row, widths))
        for action in entry.actions if verbose else ():
            click.echo(f"  + {action}")


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()


def history_json(fleet: str, entries: Sequence[Entry], found: Mapping[str, History | Down]) -> dict[str, Any]:
    """The shape that docs/commands.md gives."""
    return {
        "fleet": fleet,
        "entries": [
            {
                "node": entry.node,
                "at": entry.at.isoformat(),
                "by": entry.by,
                "command": entry.command,
                "actions": list(entry.actions),
                "result": entry.result,
                "where": entry.where or None,
                "version": entry.version,
            }
            for entry in entries
        ],
        "nodes": [
            {
                "name": name,
                "unreadable": None if isinstance(said, Down) else said.unreadable,
                "failure": output.down_json(said if isinstance(said, Down) else None),
            }
            for name, said in found.items()
        ],
    }
