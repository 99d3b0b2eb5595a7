"""`fleet du` and `fleet prune`: the nodes' build caches, asked and pruned over mutual TLS, so by whoever may build."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from fleet.applying.record import Recorder
from fleet.applying.report import Event, Result
from fleet.cache import CacheRecord, Pruning, Usage, summed, would_go
from fleet.cli import output
from fleet.cli.progress import progress
from fleet.cli.world import chosen, entitled, load_any, world_of
from fleet.errors import HostError, UsageError
from fleet.health import short_of_space
from fleet.model.facts import Down, HostFacts
from fleet.model.spec import Connection
from fleet.observing.observe import PROBE_TIMEOUT, Connections, observe_host
from fleet.parallel import Gathering, gather
from fleet.quantities import parse_duration, parse_size, size

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from fleet.model.spec import FleetSpec, HostSpec
    from fleet.ports import Prober, World


@dataclass(frozen=True, slots=True)
class Held:
    """A node's cache and the disk beneath it, in bytes; None: unknown."""

    name: str
    cache: Usage | Down
    free: int | None = None
    disk: int | None = None
    warning: Down | None = None
    """Why nothing is known of the disk, or that it fills up."""


@dataclass(frozen=True, slots=True)
class Freed:
    """What pruning a node has come to, also before it failed."""

    bytes: int = 0
    records: int = 0
    failure: Down | None = None


# ------------------------------------------------------------------------------------------------------ du


def du(inventory: Path, nodes: Sequence[str], *, as_json: bool, verbose: bool) -> int:
    """`fleet du`."""
    spec = load_any(inventory, nodes)
    entitled(spec)
    with progress(verbose=verbose) as show:
        show.waiting("asking the nodes")
        held = look(spec, chosen(spec, nodes), world_of(spec))
    if as_json:
        output.as_json({"fleet": spec.name, "nodes": [_held_json(one) for one in held]})
    else:
        _show_held(held)
    return output.exit_code(isinstance(one.cache, Usage) for one in held)


def look(spec: FleetSpec, hosts: Sequence[HostSpec], world: World) -> list[Held]:
    """What each node has cached, and how full its disk is where there is a login to the host."""
    with Connections(world.connect) as connections:
        asked = Gathering(
            {
                host.name: partial(observe_host, spec, host, connections)
                for host in hosts
                if host.connection is not Connection.NONE
            }
        )
        caches = _caches(hosts, world.prober)
        disks = asked.results()
    return [_held(host, caches[host.name], disks.get(host.name)) for host in hosts]


def _held(host: HostSpec, cache: tuple[CacheRecord, ...] | Down, disk: HostFacts | Down | None) -> Held:
    usage = cache if isinstance(cache, Down) else summed(cache)
    if not isinstance(disk, HostFacts):
        return Held(host.name, usage, warning=disk)
    reclaimable = usage.reclaimable if isinstance(usage, Usage) else None
    return Held(host.name, usage, disk.free_bytes, disk.disk_bytes, short_of_space(host, disk, reclaimable))


def _caches(hosts: Sequence[HostSpec], prober: Prober) -> Mapping[str, tuple[CacheRecord, ...] | Down]:
    prober.prepare()
    return gather({host.name: partial(_cache, host, prober) for host in hosts})


def _cache(host: HostSpec, prober: Prober) -> tuple[CacheRecord, ...] | Down:
    # A silent node is found out sooner by a probe.
    if isinstance(seen := prober.probe(host, timeout=PROBE_TIMEOUT), Down):
        return seen
    try:
        return prober.cache(host)
    except HostError as error:
        return Down(error.stage, error.message, error.remedy)


def _show_held(held: Sequence[Held]) -> None:
    titles = ("node", "cache", "reclaimable", "in use", "records", "free", "disk")
    rows = [(one.name, *_cells(one.cache), size(one.free), size(one.disk)) for one in held]
    width, *widths = (max(map(len, column)) for column in zip(titles, *rows, strict=True))
    for bold, (name, *cells) in zip((True, *[False] * len(rows)), (titles, *rows), strict=True):
        line = "  ".join((f"{name:<{width}}", *(f"{cell:>{space}}" for cell, space in zip(cells, widths, strict=True))))
        click.secho(line, bold=bold or None)
    for one in held:
        for why in filter(None, (one.cache if isinstance(one.cache, Down) else None, one.warning)):
            output.complain(one.name, why)


def _cells(cache: Usage | Down) -> tuple[str, ...]:
    if isinstance(cache, Down):
        return ("–",) * 4
    return size(cache.total), size(cache.reclaimable), size(cache.in_use), str(cache.records)


def _held_json(one: Held) -> dict[str, Any]:
    cache = one.cache if isinstance(one.cache, Usage) else None
    return {
        "name": one.name,
        "cache_bytes": cache and cache.total,
        "reclaimable_bytes": cache and cache.reclaimable,
        "in_use_bytes": cache and cache.in_use,
        "records": cache and cache.records,
        "free_bytes": one.free,
        "disk_bytes": one.disk,
        "failure": output.down_json(one.cache if isinstance(one.cache, Down) else None),
        "warning": output.down_json(one.warning),
    }


# --------------------------------------------------------------------------------------------------- prune


def prune(
    inventory: Path,
    nodes: Sequence[str],
    *,
    keep: str | None,
    everything: bool,
    older: str | None,
    yes: bool,
    as_json: bool,
    verbose: bool,
) -> int:
    """`fleet prune`."""
    wanted = _wanted(keep, older, everything=everything)
    spec = load_any(inventory, nodes)
    entitled(spec)
    world, hosts = world_of(spec), chosen(spec, nodes)
    with progress(verbose=verbose) as show:
        show.waiting("asking the nodes")
        caches = _caches(hosts, world.prober)
    going = {
        name: (summed(records), would_go(records, wanted, world.now()))
        for name, records in caches.items()
        if not isinstance(records, Down)
    }
    if any(part.records for _, part in going.values()) and not yes:
        _ask(spec, going)
    freed = {name: Freed(failure=found) for name, found in caches.items() if isinstance(found, Down)}
    began = world.now()
    with progress(verbose=verbose) as show:
        freed |= clean([host for host in hosts if host.name in going], world.prober, wanted, show.event)
    freed = {host.name: freed[host.name] for host in hosts}
    unnoted = {} if spec.joined else noted(spec, world, began, freed)
    if as_json:
        output.as_json({"fleet": spec.name, "nodes": [_freed_json(name, one) for name, one in freed.items()]})
    else:
        _show_freed(freed)
    for name, why in unnoted.items():
        output.complain(name, why)
    return output.exit_code(one.failure is None for one in freed.values())


def noted(spec: FleetSpec, world: World, began: datetime, freed: Mapping[str, Freed]) -> dict[str, Down]:
    """Note on the hosts what is gone; where that was not possible, and why."""
    with Connections(world.connect) as connections:
        recorder = Recorder(spec.name, "prune", world, connections)
        for name, one in freed.items():
            action = f"remove {size(one.bytes)} of build cache"
            if one.records:
                ending = (Result.FAILED, action) if one.failure else (Result.DONE, "")
                recorder.begin(spec.host(name), began, (action,), *ending)
        return recorder.missing()


def clean(
    hosts: Sequence[HostSpec], prober: Prober, wanted: Pruning, tell: Callable[[Event], None]
) -> dict[str, Freed]:
    """Prune all of these nodes at once."""

    def one(host: HostSpec) -> Freed:
        gone: list[int] = []

        def freed(count: int) -> None:
            gone.append(count)
            tell(Event(host.name, f"freed {size(sum(gone))}", "note"))

        try:
            prober.prune(host, wanted, freed)
        except HostError as error:
            return Freed(sum(gone), len(gone), Down(error.stage, error.message, error.remedy))
        return Freed(sum(gone), len(gone))

    return gather({host.name: partial(one, host) for host in hosts})


def _wanted(keep: str | None, older: str | None, *, everything: bool) -> Pruning:
    """What the options say; raises UsageError."""
    try:
        option = "--keep"
        bytes_kept = parse_size(keep) if keep else 0
        option = "--older"
        return Pruning(bytes_kept, everything, parse_duration(older) if older else timedelta(0))
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from error


def _ask(spec: FleetSpec, going: Mapping[str, tuple[Usage, Usage]]) -> None:
    """Say what will go, and stop unless a person agrees; `going`: node -> the whole cache, what would go."""
    width = max(map(len, going))
    for name, (whole, part) in going.items():
        of = f"about {size(part.total)} of {size(whole.total)} ({part.records} of {whole.records} records)"
        click.echo(f"{name:<{width}}  {of}", err=True)
    click.echo("Everybody who builds there shares this cache; builds under way keep what they use.", err=True)
    output.ask(f"Remove it from {spec.name}?", "fleet prune")


def _show_freed(freed: Mapping[str, Freed]) -> None:
    width = max(map(len, freed))
    for name, one in freed.items():
        click.echo(f"{name:<{width}}  freed {size(one.bytes)} ({one.records} record{'s' if one.records != 1 else ''})")
        if one.failure:
            output.complain(name, one.failure)


def _freed_json(name: str, one: Freed) -> dict[str, Any]:
    return {
        "name": name,
        "freed_bytes": one.bytes,
        "records": one.records,
        "failure": output.down_json(one.failure),
    }
