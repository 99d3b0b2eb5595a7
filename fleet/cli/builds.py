"""`fleet builds`: what runs on which node now, of all clients, and what ran."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from fleet.adapters.builder import configuration
from fleet.adapters.remembered_builds import context_of
from fleet.builds import BuildRecord, Outcome, in_order
from fleet.cli import build_steps, output
from fleet.cli.build import OWN_BUILDERS
from fleet.cli.progress import progress
from fleet.cli.world import chosen, entitled, load_any, world_of
from fleet.errors import HostError, UsageError
from fleet.model.facts import Down
from fleet.observing.building import follow
from fleet.observing.observe import PROBE_TIMEOUT
from fleet.parallel import Stop, gather
from fleet.quantities import lasting

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from fleet.model.spec import HostSpec
    from fleet.ports import Prober

SHORT = 8
"""Letters of a ref that are shown; so many are enough to name a build."""

_TITLES = ("ref", "began (UTC)", "node", "state", "took", "steps", "cached", "platforms", "project", "asked by")
_RIGHT = frozenset({4, 5, 6})
_COLOURS = {Outcome.RUNNING: "cyan", Outcome.DONE: "green", Outcome.FAILED: "red", Outcome.CANCELED: "yellow"}


def builds(
    inventory: Path,
    nodes: Sequence[str],
    *,
    goes_on: bool,
    last: int | None,
    ref: str | None,
    as_json: bool,
    verbose: bool,
) -> int:
    """`fleet builds`; interrupting what is followed is its regular end. `ref`: of one build, all steps."""
    if ref is not None and (goes_on or last is not None):
        raise UsageError("--steps tells one build to its end: -f and -n do not go with it")
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
    if ref is not None:
        for name, why in failures.items():
            output.complain(name, why)
        wanted = build_steps.find(records, ref)
        return build_steps.steps(spec.host(wanted.node), world.prober, wanted, now=world.now, as_json=as_json)
    shown = in_order(records, last)
    if as_json and not goes_on:
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
        if goes_on:
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
    lost: dict[str, Down | None] = {}
    stop = Stop()
    try:
        for name, said in follow(hosts, prober, stop):
            if isinstance(said, BuildRecord):
                if told.get(said.ref) is not said.outcome:
                    told[said.ref] = said.outcome
                    show(said)
                continue
            if said and not lost.get(name):
                output.complain(name, said)
            elif not said and lost.get(name):
                click.echo(f"{name}: answers again", err=True)
            lost[name] = said
    except KeyboardInterrupt:
        stop.set()


# ------------------------------------------------------------------------------------------------- showing


def _table(records: Sequence[BuildRecord], now: Callable[[], datetime]) -> Callable[[BuildRecord], None]:
    """Print the titles, as wide as these records need; what prints a row, of others, too."""
    rows = [_cells(record, now()) for record in records]
    widths = [max(map(len, column)) for column in zip(_TITLES, *rows, strict=True)]
    click.secho(_line(_TITLES, widths), bold=True)

    def show(record: BuildRecord) -> None:
        cells = _cells(record, now())
        state = f"{cells[3]:<{widths[3]}}"
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
        record.ref[:SHORT],
        f"{record.created:%Y-%m-%d %H:%M:%S}",
        record.node,
        str(record.outcome),
        "–" if (took := record.seconds(now)) is None else lasting(took),
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
    took = record.seconds(record.completed) if record.completed else None
    return {
        "node": record.node,
        "ref": record.ref,
        "state": record.outcome,
        "reason": record.reason,
        "began": record.created.isoformat(),
        "seconds": round(took, 3) if took is not None else None,
        "platforms": list(record.platforms),
        "project": record.name,
        "steps": record.steps and asdict(record.steps),
        "asked_by": record.asked_by,
    }
