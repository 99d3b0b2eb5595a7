"""`fleet status --watch`: the dashboard's Snapshots, as the table of `fleet status`."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import click

from fleet.cli import output
from fleet.cli.world import load_any, world_of

if TYPE_CHECKING:
    from pathlib import Path

    from fleet.model.snapshot import Snapshot


def watch(inventory: Path, *, as_json: bool) -> int:
    """Until it is interrupted, which is its regular end."""
    from fleet.observing.watch import Watch

    spec = load_any(inventory)
    before: object = None
    try:
        with Watch(spec, world_of(spec, certificates=True, keep=True)) as watched:
            for taken in watched.snapshots():
                if not all(seen.heard or seen.looked for seen in taken.sightings.values()):
                    continue
                if sys.stdout.isatty() and not as_json:
                    # From the top, over what is there: clearing first would flicker.
                    click.echo("\x1b[H\x1b[J", nl=False)
                    _show(taken)
                elif as_json or before != _said(taken):
                    before = _said(taken)
                    if as_json:
                        click.echo(json.dumps(output.snapshot_json(taken)))
                    else:
                        _show(taken)
                    sys.stdout.flush()
    except KeyboardInterrupt:
        return 0
    return 0


def _show(taken: Snapshot) -> None:
    click.echo(f"{taken.taken:%Y-%m-%d %H:%M:%S} UTC")
    output.show_snapshot(taken)


def _said(taken: Snapshot) -> list[tuple[str, str, str | None]]:
    gates = [(f"{gate.host} {gate.arch}", gate.health, gate.reason) for gate in taken.gates]
    return [*((node.name, node.health, node.reason) for node in taken.nodes), *gates]
