"""`fleet builds`: what runs on which node now, of all clients, and what ran."""

from __future__ import annotations

import json
import queue
import threading
import time
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from fleet.adapters.builder import configuration
from fleet.adapters.remembered_builds import context_of
from fleet.builds import BuildRecord, Outcome, in_order
from fleet.cli import output
from fleet.cli.build import OWN_BUILDERS
from fleet.cli.progress import progress
from fleet.cli.world import chosen, entitled, load_any, world_of
from fleet.errors import HostError
from fleet.model.facts import Down
from fleet.observing.observe import PROBE_TIMEOUT
from fleet.parallel import gather
from fleet.quantities import lasting

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from fleet.model.spec import HostSpec
    from fleet.ports import Prober

AGAIN = 2.0
"""Seconds until a node that did not answer is asked again for its feed."""

_TITLES = ("began (UTC)", "node", "state", "took", "steps", "cached", "platforms", "project", "asked by")
_RIGHT = frozenset({3, 4, 5})
_COLOURS = {Outcome.RUNNING: "cyan", Outcome.DONE: "green", Outcome.FAILED: "red", Outcome.CANCELED: "yellow"}


def builds(
    inventory: Path, nodes: Sequence[str], *, follow: bool, last: int | None, as_json: bool, verbose: bool
) -> int:
    """`fleet builds`; interrupting what is followed is its regular end."""
    spec = load_any(inventory, nodes)
    vault = entitled(spec)
    world, hosts = world_of(spec), chosen(spec, nodes)
    memory = (configuration(), vault.directory / OWN_BUILDERS)
    with progress(verbose=verbose) as narration:
        narration.waiting("asking the nodes")
        found = look(hosts, world.prober)
    known = partial(_known, memory)
    records = [known(record) for said in found.values() if not isinstance(said, Down) for record in said]
    failures = {name: said for name, said in found.items() if isinstance(said, Down)}
    shown = in_order(records, last)
    if as_json and not follow:
        output.as_json(
            {
                "fleet": spec.name,
                "builds": [build_json(record) for record in shown],
                "nodes": [{"name": name, "failure": output.down_json(failures.get(name))} for name in found],
            }
        )
    else:
        show = _print_json if as_json else _table(shown, world.now)
        for record in shown:
            show(record)
        for name, why in failures.items():
            output.complain(name, why)
        if follow:
            _follow(hosts, world.prober, {record.ref: record.outcome for record in records}, lambda r: show(known(r)))
    return output.exit_code(name not in failures for name in found)


def look(hosts: Sequence[HostSpec], prober: Prober) -> Mapping[str, tuple[BuildRecord, ...] | Down]:
    """What each node has to tell, all asked at once."""
    prober.prepare()
    return gather({host.name: partial(_ask, host, prober) for host in hosts})


def _ask(host: HostSpec, prober: Prober) -> tuple[BuildRecord, ...] | Down:
    # A silent node is found out sooner by a probe.
    if isinstance(seen := prober.probe(host, timeout=PROBE_TIMEOUT), Down):
        return seen
    try:
        return tuple(prober.builds(host))
    except HostError as error:
        return Down(error.stage, error.message, error.remedy)


def _known(memory: Sequence[Path], record: BuildRecord) -> BuildRecord:
    context = context_of(record.ref, memory)
    return record if context is None else record.known_here(context)


# -------------------------------------------------------------------------------------------------- follow


def _follow(
    hosts: Sequence[HostSpec], prober: Prober, told: dict[str, Outcome], show: Callable[[BuildRecord], None]
) -> None:
    """Show each build as it begins and as it ends, until interrupted; a node that is lost is told, and asked again."""
    arriving: queue.SimpleQueue[BuildRecord | tuple[str, Down | None]] = queue.SimpleQueue()
    for host in hosts:
        threading.Thread(target=_feed, args=(host, prober, arriving), daemon=True).start()
    lost: dict[str, Down | None] = {}
    try:
        while True:
            said = arriving.get()
            if isinstance(said, BuildRecord):
                if told.get(said.ref) is not said.outcome:
                    told[said.ref] = said.outcome
                    show(said)
                continue
            name, why = said
            if why and not lost.get(name):
                output.complain(name, why)
            elif not why and lost.get(name):
                click.echo(f"{name}: answers again", err=True)
            lost[name] = why
    except KeyboardInterrupt:
        return


def _feed(host: HostSpec, prober: Prober, arriving: queue.SimpleQueue[BuildRecord | tuple[str, Down | None]]) -> None:
    while True:
        seen = prober.probe(host, timeout=PROBE_TIMEOUT)
        arriving.put((host.name, seen if isinstance(seen, Down) else None))
        if not isinstance(seen, Down):
            try:
                for record in prober.builds(host, follow=True):
                    arriving.put(record)
            except HostError as error:
                arriving.put((host.name, Down(error.stage, error.message, error.remedy)))
        time.sleep(AGAIN)


# ------------------------------------------------------------------------------------------------- showing


def _table(records: Sequence[BuildRecord], now: Callable[[], datetime]) -> Callable[[BuildRecord], None]:
    """Print the titles, as wide as these records need; what prints a row, of others, too."""
    rows = [_cells(record, now()) for record in records]
    widths = [max(map(len, column)) for column in zip(_TITLES, *rows, strict=True)]
    click.secho(_line(_TITLES, widths), bold=True)

    def show(record: BuildRecord) -> None:
        cells = _cells(record, now())
        state = f"{cells[2]:<{widths[2]}}"
        click.echo(_line(cells, widths).replace(state, click.style(state, fg=_COLOURS[record.outcome]), 1))
        if record.reason and record.outcome is Outcome.FAILED:
            click.echo(f"  {record.reason}")

    return show


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(
        f"{cell:>{width}}" if column in _RIGHT else f"{cell:<{width}}"
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ).rstrip()


def _cells(record: BuildRecord, now: datetime) -> tuple[str, ...]:
    share = record.steps.cached_share if record.steps else None
    return (
        f"{record.created:%Y-%m-%d %H:%M:%S}",
        record.node,
        str(record.outcome),
        lasting(record.seconds(now)),
        f"{record.steps.done}/{record.steps.total}" if record.steps else "–",
        "–" if share is None else f"{share:.0%}",
        ", ".join(text.removeprefix("linux/") for text in record.platforms) or "–",
        record.name or "–",
        record.asked_by or "–",
    )


def _print_json(record: BuildRecord) -> None:
    click.echo(json.dumps(build_json(record)))


def build_json(record: BuildRecord) -> dict[str, Any]:
    """The shape that docs/commands.md gives; `seconds` is null while it runs."""
    return {
        "node": record.node,
        "ref": record.ref,
        "state": record.outcome,
        "reason": record.reason,
        "began": record.created.isoformat(),
        "seconds": round(record.seconds(record.completed), 3) if record.completed else None,
        "platforms": list(record.platforms),
        "project": record.name,
        "steps": record.steps and asdict(record.steps),
        "asked_by": record.asked_by,
    }
