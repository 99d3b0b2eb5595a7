"""`fleet drain` and `fleet resume`: whether new builds come to a node, as all operators and clients see it."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

import click

from fleet import notes
from fleet.cli import output
from fleet.cli.progress import progress
from fleet.cli.world import load, world_of
from fleet.errors import HostError
from fleet.model import ApiFacts, Facts, Health, NodeFacts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from fleet.cli.progress import Progress
    from fleet.model import Down, FleetSpec, HostSpec
    from fleet.ports import World
    from fleet.report import Outcome

LOOK_EVERY = 1.0
"""Seconds between two looks at a node whose builds are waited for."""


def drain(inventory: Path, names: Sequence[str], *, wait: bool, as_json: bool, verbose: bool) -> int:
    """`fleet drain`."""
    spec = load(inventory, names)
    world = world_of(spec)
    drained = notes.Drain(world.operator, world.now()).text()
    # This machine's builder is changed, too.
    with world.vault.locked(), progress(verbose=verbose) as show:
        failed = _note(world, _chosen(spec, names), drained, show)
        registered = _reregister(spec, world, show)
        if wait:
            _await_idle(world, [host for host in _chosen(spec, names) if host.name not in failed], show)
    return _show(spec, world, failed, registered, len(names), as_json=as_json)


def resume(inventory: Path, names: Sequence[str], *, as_json: bool, verbose: bool) -> int:
    """`fleet resume`."""
    spec = load(inventory, names)
    world = world_of(spec)
    # This machine's builder is changed, too.
    with world.vault.locked(), progress(verbose=verbose) as show:
        failed = _note(world, _chosen(spec, names), None, show)
        registered = _reregister(spec, world, show)
    return _show(spec, world, failed, registered, len(names), as_json=as_json)


def _chosen(spec: FleetSpec, names: Sequence[str]) -> list[HostSpec]:
    return [host for host in spec.hosts if host.name in names]


def _note(world: World, hosts: Sequence[HostSpec], text: str | None, show: Progress) -> dict[str, HostError]:
    """Leave the note at each node, or take it away; the nodes where that failed."""
    from fleet.parallel import gather

    def note(host: HostSpec) -> HostError | None:
        try:
            world.prober.note(host, notes.DRAIN, text)
        except HostError as error:
            return error
        return None

    show.waiting("telling the nodes")
    told = gather({host.name: partial(note, host) for host in hosts})
    return {name: error for name, error in told.items() if error}


def _asked(spec: FleetSpec, world: World) -> dict[str, ApiFacts | Down]:
    from fleet.observe import PROBE_TIMEOUT
    from fleet.parallel import gather

    return gather({host.name: partial(world.prober.probe, host, timeout=PROBE_TIMEOUT) for host in spec.hosts})


def _reregister(spec: FleetSpec, world: World, show: Progress) -> Outcome | None:
    """Let this machine's builder follow, so that plain buildx goes to the others, too; None: there is no builder."""
    from fleet.apply import Applier
    from fleet.lane import Lane
    from fleet.observe import Connections
    from fleet.plan import able_platforms, builder_steps

    builder = world.builder.read(spec.name)
    if not builder.registered:
        return None
    found = Facts({name: NodeFacts(api=api) for name, api in _asked(spec, world).items()}, builder, world.vault.read())
    able = able_platforms(spec, found, {host.name: Lane() for host in spec.hosts}, {})
    # Somebody may be replacing the daemon of one, which is drained only for a while.
    able = {name: platforms for name, platforms in able.items() if not notes.drain(found.nodes[name].api)}
    with Connections(world.connect) as none:
        return Applier(spec, world, none, show.event).register(*builder_steps(spec, able, builder, found.vault))


def _await_idle(world: World, hosts: Sequence[HostSpec], show: Progress) -> None:
    from fleet.act import SETTLING
    from fleet.health import at_rest
    from fleet.observe import PROBE_TIMEOUT
    from fleet.parallel import gather

    # A build that was sent there just before has begun by then.
    time.sleep(SETTLING)
    while True:
        said = gather({host.name: partial(world.prober.probe, host, timeout=PROBE_TIMEOUT) for host in hosts})
        if not (busy := [name for name, api in said.items() if not at_rest(api)]):
            return
        show.waiting(f"waiting for builds to end on {', '.join(busy)}")
        time.sleep(LOOK_EVERY)


def _show(
    spec: FleetSpec,
    world: World,
    failed: Mapping[str, HostError],
    registered: Outcome | None,
    chosen: int,
    *,
    as_json: bool,
) -> int:
    from fleet.health import snapshot

    nodes = {name: NodeFacts(api=api) for name, api in _asked(spec, world).items()}
    taken = snapshot(spec, Facts(nodes, world.builder.read(spec.name), world.vault.read()), world.now())
    if as_json:
        output.as_json(output.snapshot_json(taken))
    else:
        output.show_snapshot(taken)
        at_work = [node for node in taken.nodes if node.health in {Health.READY, Health.DEGRADED}]
        lost = {p for node in taken.nodes if node.health is Health.DRAINED for p in node.platforms}
        if lost := lost - {p for node in at_work for p in node.platforms}:
            alone = output.platforms(sorted(lost))
            click.secho(
                f"nobody builds {alone} now: fleet build refuses it until a node is back", fg="yellow", err=True
            )
    for name, error in failed.items():
        click.echo(f"{name}: {error.stage}: {error.message}", err=True)
        if error.remedy:
            click.echo(f"  try: {error.remedy}", err=True)
    if registered and registered.failure:
        click.echo(f"builder: {registered.failure.reason}", err=True)
    trouble = bool(failed) or bool(registered and registered.failure)
    return output.PARTLY if trouble and len(failed) < chosen else int(trouble)
