"""`fleet drain` and `fleet resume`: whether new builds come to a node, as all operators and clients see it."""

from __future__ import annotations

import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import click

from fleet import notes
from fleet.applying.report import Result
from fleet.cli import output
from fleet.cli.progress import progress
from fleet.cli.world import chosen, load, world_of
from fleet.errors import HostError
from fleet.model.facts import Facts, NodeFacts
from fleet.model.health import Health
from fleet.planning.actions import Drain, Resume

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from fleet.applying.record import Recorder
    from fleet.applying.report import Outcome
    from fleet.cli.progress import Progress
    from fleet.model.spec import FleetSpec, HostSpec
    from fleet.ports import World

LOOK_EVERY = 1.0
"""Seconds between two looks at a node whose builds are waited for."""


def drain(inventory: Path, names: Sequence[str], *, wait: bool, as_json: bool, verbose: bool) -> int:
    """`fleet drain`."""
    spec = load(inventory, names)
    world = world_of(spec)
    drained = notes.Drain(world.operator, world.now()).text()
    # This machine's builder is changed, too.
    with world.vault.locked(), progress(verbose=verbose) as show, _recorder(spec, world, "drain") as recorder:
        failed = note_all(recorder, chosen(spec, names), drained, show)
        registered = reregister(spec, world, show)
        if wait:
            _await_idle(world, [host for host in chosen(spec, names) if host.name not in failed], show)
    return _show(spec, world, failed, registered, len(names), as_json=as_json)


def resume(inventory: Path, names: Sequence[str], *, as_json: bool, verbose: bool) -> int:
    """`fleet resume`."""
    spec = load(inventory, names)
    world = world_of(spec)
    # This machine's builder is changed, too.
    with world.vault.locked(), progress(verbose=verbose) as show, _recorder(spec, world, "resume") as recorder:
        failed = note_all(recorder, chosen(spec, names), None, show)
        registered = reregister(spec, world, show)
    return _show(spec, world, failed, registered, len(names), as_json=as_json)


@contextmanager
def _recorder(spec: FleetSpec, world: World, command: str) -> Iterator[Recorder]:
    """Notes on the hosts what is done, and tells at the end where that was not possible."""
    from fleet.applying.record import Recorder
    from fleet.observing.observe import Connections

    with Connections(world.connect) as connections:
        recorder = Recorder(spec.name, command, world, connections)
        yield recorder
        for name, why in recorder.missing().items():
            output.complain(name, why)


def note_all(recorder: Recorder, hosts: Sequence[HostSpec], text: str | None, show: Progress) -> dict[str, HostError]:
    """Leave the note at each node, or take it away; the nodes where that failed."""
    from fleet.parallel import gather

    began = recorder.world.now()

    def note(host: HostSpec) -> HostError | None:
        action = str(Resume(host.name) if text is None else Drain(host.name))
        try:
            recorder.world.prober.note(host, notes.DRAIN, text)
        except HostError as error:
            recorder.begin(host, began, (action,), Result.FAILED, action)
            return error
        recorder.begin(host, began, (action,), Result.DONE)
        return None

    show.waiting("telling the nodes")
    told = gather({host.name: partial(note, host) for host in hosts})
    return {name: error for name, error in told.items() if error}


def _found(spec: FleetSpec, world: World) -> Facts:
    """What is known without logging in."""
    from fleet.containers.proxy import gates
    from fleet.observing.observe import PROBE_TIMEOUT
    from fleet.parallel import Gathering, gather

    ways = {key: partial(world.prober.probe, gate, timeout=PROBE_TIMEOUT) for key, gate in gates(spec).items()}
    through = Gathering(ways)
    said = gather({host.name: partial(world.prober.probe, host, timeout=PROBE_TIMEOUT) for host in spec.hosts})
    nodes = {name: NodeFacts(api=api) for name, api in said.items()}
    return Facts(nodes, world.builder.read(spec.name), world.vault.read(), gates=through.results())


def reregister(spec: FleetSpec, world: World, show: Progress) -> Outcome | None:
    """Let this machine's builder follow, so that plain buildx goes to the others, too; None: there is no builder."""
    from fleet.applying.apply import Applier
    from fleet.observing.observe import Connections
    from fleet.planning.gateway import ways
    from fleet.planning.lane import Lane
    from fleet.planning.plan import able_platforms, builder_steps

    if not world.builder.read(spec.name).registered:
        return None
    found = _found(spec, world)
    able = able_platforms(spec, found, {host.name: Lane() for host in spec.hosts}, {})
    # Somebody may be replacing the daemon of one, which is drained only for a while.
    able = {name: platforms for name, platforms in able.items() if not notes.drain(found.nodes[name].api)}
    with Connections(world.connect) as none:
        steps = builder_steps(spec, able, found.builder, found.vault, ways(spec, found))
        return Applier(spec, world, none, show.event).register(*steps)


def _await_idle(world: World, hosts: Sequence[HostSpec], show: Progress) -> None:
    from fleet.applying.act import SETTLING
    from fleet.health import at_rest
    from fleet.observing.observe import PROBE_TIMEOUT
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
    asked: int,
    *,
    as_json: bool,
) -> int:
    from fleet.fleet_health import snapshot

    taken = snapshot(spec, _found(spec, world), world.now())
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
    if spec.gateway:
        click.echo("gateway: it hears of this at the next fleet up", err=True)
    for name, error in failed.items():
        click.echo(f"{name}: {error.stage}: {error.message}", err=True)
        if error.remedy:
            click.echo(f"  try: {error.remedy}", err=True)
    if registered and registered.failure:
        click.echo(f"builder: {registered.failure.reason}", err=True)
    trouble = bool(failed) or bool(registered and registered.failure)
    return output.PARTLY if trouble and len(failed) < asked else int(trouble)
